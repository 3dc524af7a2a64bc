"""Olive's traps, each as a regression test, and what a plain `olive run` makes of our workflow."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from broken.checkpoints import make_checkpoint
from phiforge import errors
from phiforge.checkpoint.config import load_config
from phiforge.graph.inspect import check_graph, inspect_graph
from phiforge.hashing import hash_files
from phiforge.olive.checkpoint_files import WEIGHTS_FILE
from phiforge.olive.driver import OliveRun, purge_failures, run_olive
from phiforge.olive.quantize_checkpoint import quantize_checkpoint
from phiforge.pipeline import Pipeline, load_pipeline
from phiforge.plan import plan_weights, resolved_workflow

ROOT = Path(__file__).parents[2]


def _silent(*_: object) -> None:
    """Take progress and do nothing."""


@pytest.fixture
def pipeline() -> Pipeline:
    return load_pipeline(ROOT / "pipelines" / "cpu-int4-k-quant.yaml")


def _run(pipeline: Pipeline, checkpoint: Path, folder: Path) -> Path:
    run = OliveRun(
        workflow=resolved_workflow(pipeline), checkpoint=checkpoint, work=folder / "work", output=folder / "out"
    )
    run_olive(run, _silent)
    return run.output


@pytest.mark.long
def test_a_failure_is_neither_believed_nor_replayed(pipeline: Pipeline, tmp_path: Path) -> None:
    checkpoint = make_checkpoint(tmp_path / "ckpt")
    config = checkpoint / "config.json"
    sound = config.read_text(encoding="utf-8")
    config.write_text(json.dumps(json.loads(sound) | {"num_hidden_layers": 7}), encoding="utf-8")
    with pytest.raises(errors.PhiforgeError) as caught:
        _run(pipeline, checkpoint, tmp_path)
    assert caught.value.exit_code >= 10
    config.write_text(sound, encoding="utf-8")
    assert (_run(pipeline, checkpoint, tmp_path) / "model.onnx").is_file()


@pytest.mark.long
def test_stale_output_is_not_taken_for_a_result(pipeline: Pipeline, tmp_path: Path) -> None:
    checkpoint = make_checkpoint(tmp_path / "ckpt")
    output = _run(pipeline, checkpoint, tmp_path)
    (checkpoint / WEIGHTS_FILE).unlink()
    broken = pipeline.model_copy(
        update={
            "passes": {**pipeline.passes, "quantize": pipeline.quantize_options().model_copy(update={"block_size": 16})}
        }
    )
    with pytest.raises(errors.PhiforgeError):
        _run(broken, checkpoint, tmp_path)
    assert not (output / "model.onnx").exists()


def test_a_cached_failure_is_purged(tmp_path: Path) -> None:
    runs = tmp_path / "default_workflow" / "runs"
    for name, model in {"failed": "{}", "sound": '{"type": "HfModel"}', "cut": None}.items():
        (runs / name).mkdir(parents=True)
        (runs / name / "run.json").write_text("{}")
        if model is not None:
            (runs / name / "model.json").write_text(model)
    assert purge_failures(tmp_path) == 2
    assert [path.name for path in runs.iterdir()] == ["sound"]


@pytest.mark.long
def test_stock_olive_makes_the_same_variant(pipeline: Pipeline, small_checkpoint: Path, tmp_path: Path) -> None:
    ours = _run(pipeline, small_checkpoint, tmp_path)
    stock = tmp_path / "stock"
    command = [
        sys.executable,
        "-m",
        "olive",
        "run",
        "--run-config",
        "workflow.json",
        "--package-config",
        "olive-package.json",
        "-m",
        str(small_checkpoint),
        "-o",
        str(stock),
    ]
    plain = tmp_path / "plain"
    plain.mkdir()
    for name in ("workflow.json", "olive-package.json"):
        (plain / name).write_bytes((tmp_path / "work" / name).read_bytes())
    environment = {**os.environ, "OLIVE_DISABLE_TELEMETRY": "1", "PYTHONPATH": str(ROOT / "tools")}
    subprocess.run(command, cwd=plain, env=environment, check=True, capture_output=True)
    expected = hash_files(ours)
    assert {name: digest for name, digest in hash_files(stock).items() if name in expected} == expected


def test_the_bytes_do_not_depend_on_threads(pipeline: Pipeline, small_checkpoint: Path, tmp_path: Path) -> None:
    made: list[dict[str, str]] = []
    for threads in (1, 3):
        folder = tmp_path / str(threads)
        folder.mkdir()
        quantize_checkpoint(small_checkpoint, folder, pipeline.quantize_options(), threads=threads, progress=_silent)
        made.append(hash_files(folder))
    assert made[0] == made[1]


def test_olive_reads_the_quantized_checkpoint(pipeline: Pipeline, small_checkpoint: Path, tmp_path: Path) -> None:
    """Transformers, through Olive's own quantizer, gives the logits of the weights we dequantize ourselves."""
    import torch
    from olive.common.quant.hf_utils import OliveHfQuantizationConfig, OliveHfQuantizer
    from transformers import AutoModelForCausalLM
    from transformers.quantizers.auto import AUTO_QUANTIZATION_CONFIG_MAPPING, AUTO_QUANTIZER_MAPPING

    folder = tmp_path / "quantized"
    folder.mkdir()
    quantize_checkpoint(small_checkpoint, folder, pipeline.quantize_options(), threads=1, progress=_silent)
    AUTO_QUANTIZER_MAPPING["olive"] = OliveHfQuantizer
    AUTO_QUANTIZATION_CONFIG_MAPPING["olive"] = OliveHfQuantizationConfig
    quantized = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    plain = AutoModelForCausalLM.from_pretrained(small_checkpoint, dtype=torch.float32)
    _dequantize_into(plain, folder)
    ids = torch.arange(40)[None] % 200
    with torch.no_grad():
        torch.testing.assert_close(quantized(ids).logits, plain(ids).logits, rtol=1e-4, atol=1e-4)


def _dequantize_into(model: Any, folder: Path) -> None:
    import torch
    from safetensors.numpy import load_file

    from phiforge.olive.export_variant import read_specs
    from phiforge.quantize import Quantized, dequantize, unpack

    tensors = load_file(folder / WEIGHTS_FILE)
    for module, spec in read_specs(folder, load_config(folder, quantized=True)).items():
        scales = tensors[f"{module}.scales"]
        blocks = scales.shape[1]
        weight = Quantized(
            codes=unpack(tensors[f"{module}.qweight"], spec.bits, blocks * spec.block_size),
            scales=scales,
            zero_points=None if spec.symmetric else unpack(tensors[f"{module}.qzeros"], spec.bits, blocks),
            spec=spec,
        )
        model.get_submodule(module).weight.data = torch.from_numpy(dequantize(weight))
    model.tie_weights()


@pytest.mark.long
def test_symmetric_rtn_gives_the_stock_builders_logits(small_checkpoint: Path, tmp_path: Path) -> None:
    """Same weights and graph as the stock builder's int4 build, so bit-identical logits."""
    import numpy as np

    from phiforge.runtime.logits import logits
    from phiforge.runtime.variant import open_variant

    text = (ROOT / "pipelines" / "cpu-int4-k-quant.yaml").read_text(encoding="utf-8")
    changes = {
        "algorithm: k-quant": "algorithm: rtn",
        "symmetric: false": "symmetric: true",
        "mixed: k-quant-mixed": "mixed: none",
        "bits: 8": "bits: 4",
    }
    for old, new in changes.items():
        assert old in text
        text = text.replace(old, new)
    path = tmp_path / "stock-like.yaml"
    path.write_text(text, encoding="utf-8")
    pipeline = load_pipeline(path)
    ours = _run(pipeline, small_checkpoint, tmp_path)
    config = load_config(small_checkpoint)
    check_graph(
        inspect_graph(ours / "model.onnx"),
        plan_weights(config, pipeline.quantize_options()),
        tied=config.tied_embeddings,
    )
    stock = tmp_path / "stock"
    subprocess.run(
        [
            sys.executable,
            "-m",
            "onnxruntime_genai.models.builder",
            "-i",
            str(small_checkpoint),
            "-o",
            str(stock),
            "-p",
            "int4",
            "-e",
            "cpu",
            "-c",
            str(tmp_path / "cache"),
            "--extra_options",
            "accuracy_level=4",
            "shared_embeddings=true",
        ],
        check=True,
        capture_output=True,
    )
    ids = [5, 9, 33, 70, 12, 41, 3, 8]
    a, b = (logits(open_variant(folder, threads=1), ids) for folder in (ours, stock))
    assert np.array_equal(a, b)
