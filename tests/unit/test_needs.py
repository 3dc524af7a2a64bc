from __future__ import annotations

from pathlib import Path

import pytest

from bench.real_shapes import SHAPES
from broken.checkpoints import make_checkpoint
from phiforge.checkpoint.config import ModelConfig, load_config
from phiforge.needs import Preflight, predict
from phiforge.pipeline import Pipeline, load_pipeline
from phiforge.plan import exported_config, plan_weights

ROOT = Path(__file__).parents[2]
GIB = 1 << 30


@pytest.fixture
def config(tmp_path: Path) -> ModelConfig:
    return load_config(make_checkpoint(tmp_path / "ckpt"))


def real(config: ModelConfig, model: str, layers: int | None = None) -> ModelConfig:
    """A real model's shapes; what they leave open is the small checkpoint's."""
    from dataclasses import replace

    shape = SHAPES[model]
    hidden, heads = int(str(shape["hidden_size"])), int(str(shape["num_attention_heads"]))
    return replace(
        config,
        hidden_size=hidden,
        intermediate_size=int(str(shape["intermediate_size"])),
        layer_count=layers or int(str(shape["num_hidden_layers"])),
        head_count=heads,
        kv_head_count=int(str(shape["num_key_value_heads"])),
        head_size=hidden // heads,
        vocab_size=int(str(shape["vocab_size"])),
        tied_embeddings=bool(shape["tie_word_embeddings"]),
    )


def preflight(config: ModelConfig, name: str) -> Preflight:
    pipeline: Pipeline = load_pipeline(ROOT / "pipelines" / f"{name}.yaml")
    weights = plan_weights(exported_config(config, pipeline), pipeline.quantize_options())
    return predict(config, [(pipeline, weights, 0)])


@pytest.mark.parametrize(("model", "limit_gib"), [("phi-4-mini", 1.0), ("phi-4", 1.5)])
def test_a_streamed_build_needs_no_more_than_a_block(config: ModelConfig, model: str, limit_gib: float) -> None:
    needs = preflight(real(config, model), "cpu-int4-k-quant")
    build = [step.memory_bytes for step in needs.steps if step.step in {"quantize", "export"}]
    assert max(build) < limit_gib * GIB


@pytest.mark.parametrize("pipeline", ["cpu-int4", "cpu-int4-k-quant"])
def test_memory_hardly_grows_with_layers_but_time_and_disk_do(config: ModelConfig, pipeline: str) -> None:
    few, many = (preflight(real(config, "phi-4-mini", layers), pipeline) for layers in (2, 32))
    assert few.memory_bytes <= many.memory_bytes < few.memory_bytes + 0.25 * GIB
    assert few.seconds < many.seconds
    assert few.disk_bytes < many.disk_bytes


def test_calibration_is_what_needs_memory(config: ModelConfig) -> None:
    needs = preflight(real(config, "phi-4-mini"), "cpu-int4")
    assert needs.largest_step.step == "quantize"
    assert needs.memory_bytes < 4 * GIB
    assert [step.step for step in needs.steps] == ["rotate", "quantize", "export", "reference"]
