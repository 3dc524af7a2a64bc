from __future__ import annotations

from pathlib import Path

import pytest

from bench.real_shapes import SHAPES
from broken.checkpoints import make_checkpoint
from phiforge.checkpoint.config import ModelConfig, load_config
from phiforge.needs import Preflight, StepNeeds, predict
from phiforge.pipeline import Pipeline, StagesOptions, load_pipeline
from phiforge.plan import WeightPlan, exported_config, float_bytes, plan_weights

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
        max_positions=int(str(shape["max_position_embeddings"])),
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
    build = [step for step in needs.steps if step.step != "reference"]
    assert max(build, key=lambda step: step.memory_bytes).step == "quantize"
    assert needs.memory_bytes < 4 * GIB
    assert [step.step for step in needs.steps] == ["rotate", "quantize", "export", "reference"]


GPU_PIPELINES = ("directml-int4", "webgpu-int4")


def shared_preflight(config: ModelConfig, *names: str, **options: object) -> Preflight:
    """One build of several pipelines; `options` change how the last of them quantizes."""
    pipelines = [load_pipeline(ROOT / "pipelines" / f"{name}.yaml") for name in names]
    pipelines[-1] = pipelines[-1].with_quantize_options(**options)

    def weights(item: Pipeline) -> tuple[WeightPlan, ...]:
        return plan_weights(exported_config(config, item), item.quantize_options(), scale_bytes=float_bytes(item))

    return predict(config, [(item, weights(item), 0) for item in pipelines])


def test_variants_of_one_quantized_checkpoint_cost_an_export_each(config: ModelConfig) -> None:
    """Three targets take less than half again as long as the CPU alone, which is what a build promises."""
    mini = real(config, "phi-4-mini")
    one, three = shared_preflight(mini, "cpu-int4"), shared_preflight(mini, "cpu-int4", *GPU_PIPELINES)
    assert [step.step for step in three.steps] == ["rotate", "quantize", *["export"] * 3, "reference"]
    assert three.memory_bytes == one.memory_bytes
    assert one.seconds < three.seconds < 1.5 * one.seconds
    # In the store, in Olive's cache and in the package each is a copy of its own; the checkpoint behind them is not.
    assert one.disk_bytes < three.disk_bytes < 3 * one.disk_bytes


def test_another_way_to_quantize_is_another_checkpoint(config: ModelConfig) -> None:
    mini = real(config, "phi-4-mini")
    alike = shared_preflight(mini, "cpu-int4", *GPU_PIPELINES)
    other = shared_preflight(mini, "cpu-int4", *GPU_PIPELINES, damping=0.05)
    steps = [step.step for step in other.steps]
    assert (steps.count("rotate"), steps.count("quantize"), steps.count("export")) == (2, 2, 3)
    assert other.seconds > alike.seconds
    assert other.disk_bytes > alike.disk_bytes


def npu_preflight(config: ModelConfig, **stages: object) -> Preflight:
    pipeline = load_pipeline(ROOT / "pipelines" / "qnn-a16w4.yaml").with_options(StagesOptions, **stages)
    weights = plan_weights(exported_config(config, pipeline), pipeline.quantize_options(), row_scales=True)
    return predict(config, [(pipeline, weights, 0)])


def test_an_npu_variant_is_calibrated_staged_and_compiled(config: ModelConfig) -> None:
    needs = npu_preflight(real(config, "phi-4-mini"))
    assert [step.step for step in needs.steps] == [
        "rotate", "quantize", "calibrate activations", "stages", "compile", "reference",
    ]  # fmt: skip
    assert needs.memory_bytes < 4.5 * GIB


# What `make bench-npu` measured for two layers, in GB (docs/benchmarks.md).
MEASURED_GB = {
    "phi-4-mini": {"rotate": 0.77, "quantize": 1.72, "calibrate activations": 1.34, "stages": 0.79, "compile": 1.29},
    "phi-4": {"rotate": 1.87, "quantize": 5.15, "calibrate activations": 2.76, "stages": 1.01, "compile": 2.45},
}


@pytest.mark.parametrize("model", sorted(MEASURED_GB))
def test_an_npu_variant_of_two_layers_needs_the_memory_that_was_measured(config: ModelConfig, model: str) -> None:
    needs = npu_preflight(real(config, model, 2), parts=2)
    predicted = {step.step: step.memory_bytes / 1e9 for step in needs.steps if step.step != "reference"}
    assert predicted == pytest.approx(MEASURED_GB[model], rel=0.25)


def test_a_head_on_the_npu_needs_the_memory_that_was_measured(config: ModelConfig) -> None:
    needs = npu_preflight(real(config, "phi-4-mini", 2), parts=2, head="npu")
    predicted = {step.step: step.memory_bytes / 1e9 for step in needs.steps if step.step in {"stages", "compile"}}
    assert predicted == pytest.approx({"stages": 1.25, "compile": 3.29}, rel=0.25)


def test_a_compilation_is_predicted_as_it_was_measured(config: ModelConfig) -> None:
    """The whole model in 4 parts took 4.61 GB; one part takes 41 s, and everything is compiled twice."""
    (step,) = [step for step in npu_preflight(real(config, "phi-4-mini")).steps if step.step == "compile"]
    assert step.memory_bytes / 1e9 == pytest.approx(4.61, rel=0.25)
    assert step.seconds == pytest.approx(4 * 2 * 41, rel=0.05)


def test_smaller_parts_need_less_memory_and_attention_on_the_npu_more_time(config: ModelConfig) -> None:
    mini = real(config, "phi-4-mini")

    def compiled(**stages: object) -> StepNeeds:
        return next(step for step in npu_preflight(mini, **stages).steps if step.step == "compile")

    assert compiled(parts=8).memory_bytes < compiled(parts=4).memory_bytes
    assert compiled(parts=8).seconds == pytest.approx(compiled(parts=4).seconds)
    assert compiled(attention="npu").seconds > 1.5 * compiled().seconds
    assert compiled(head="npu").seconds > compiled().seconds
