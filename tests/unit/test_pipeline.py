from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from phiforge import errors
from phiforge.pipeline import load_pipeline

PIPELINES = Path(__file__).parents[2] / "pipelines"
PIPELINE = PIPELINES / "cpu-int4-k-quant.yaml"
NPU_PIPELINE = PIPELINES / "qnn-a16w4.yaml"
EXPORT = "  export:\n    type: PhiforgeExport\n    provider: cpu\n"


def _broken(tmp_path: Path, old: str, new: str, pipeline: Path = PIPELINE) -> Path:
    text = pipeline.read_text(encoding="utf-8")
    assert old in text
    path = tmp_path / "broken.yaml"
    path.write_text(text.replace(old, new), encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("old", "new", "named"),
    [
        ("block_size: 32", "block_size: 33", "block_size"),
        ("block_size: 32", "blocksize: 32", "blocksize"),
        ("bits: 4", 'bits: "4"', "bits"),
        ("algorithm: k-quant", "algorithm: magic", "magic"),
        ("mixed: k-quant-mixed", "mixed: some", "some"),
        ("provider: cpu", "provider: tpu", "provider"),
        ("type: PhiforgeExport", "type: OnnxConversion", "PhiforgeExport"),
        ("passes:", "cache_dir: x\npasses:", "cache_dir"),
        ("passes:", "passes: [", "line"),
    ],
)
def test_faults_are_named(tmp_path: Path, old: str, new: str, named: str) -> None:
    with pytest.raises(errors.PipelineInvalidError) as caught:
        load_pipeline(_broken(tmp_path, old, new))
    assert named in caught.value.why


def test_an_olive_pass_is_handed_on(tmp_path: Path) -> None:
    path = _broken(tmp_path, "  export:", "  rotate:\n    type: QuaRot\n    rotate_mode: hadamard\n  export:")
    options = load_pipeline(path).passes["rotate"]
    assert options.model_dump() == {"type": "QuaRot", "rotate_mode": "hadamard"}


def test_passes_run_in_their_order(tmp_path: Path) -> None:
    data = yaml.safe_load(PIPELINE.read_text(encoding="utf-8"))
    path = tmp_path / "sorted.yaml"
    path.write_text(yaml.safe_dump(data, sort_keys=True), encoding="utf-8")
    with pytest.raises(errors.PipelineInvalidError, match="wrong order"):
        load_pipeline(path)


@pytest.mark.parametrize(
    ("old", "new", "named"),
    [
        (
            "symmetric: true",
            "symmetric: false",
            "symmetric: must be true for an NPU, because QNN's weights have no zero",
        ),
        ("    positive_scales: true\n", "", "positive_scales: must be true for an NPU"),
        ("  calibrate:\n    type: PhiforgeCalibrate\n", "", "exactly one PhiforgeCalibrate pass is needed: an NPU's"),
        ("  stages:", "  again:\n    type: PhiforgeStages\n  stages:", "exactly one PhiforgeStages pass is needed"),
        ("  stages:", EXPORT + "  stages:", "a pipeline ends in one way"),
        ("type: PhiforgeStages", "type: PhiforgeStages\n    headroom: 0.9", "headroom"),
        ("type: PhiforgeStages", "type: PhiforgeStages\n    window_tokens: 65", "window_tokens"),
        ("type: PhiforgeStages", "type: PhiforgeStages\n    parts: 0", "parts"),
        ("type: PhiforgeCalibrate", "type: PhiforgeCalibrate\n    calibration_tokens: 63", "calibration_tokens"),
        ("provider: qnn", "provider: cpu", "provider"),
    ],
)
def test_faults_of_an_npu_pipeline_are_named(tmp_path: Path, old: str, new: str, named: str) -> None:
    with pytest.raises(errors.PipelineInvalidError) as caught:
        load_pipeline(_broken(tmp_path, old, new, NPU_PIPELINE))
    assert named in caught.value.why


def test_a_pipeline_without_an_end_is_told_of_both_ends(tmp_path: Path) -> None:
    with pytest.raises(errors.PipelineInvalidError, match="PhiforgeExport pass is needed, or for an NPU the passes"):
        load_pipeline(_broken(tmp_path, "type: PhiforgeExport", "type: OnnxConversion"))


@pytest.mark.parametrize("order", [("calibrate", "quantize"), ("stages", "calibrate"), ("compile", "stages")])
def test_npu_passes_run_in_their_order(tmp_path: Path, order: tuple[str, str]) -> None:
    passes = yaml.safe_load(NPU_PIPELINE.read_text(encoding="utf-8"))["passes"]
    first, second = order
    names = [first if name == second else second if name == first else name for name in passes]
    path = tmp_path / "swapped.yaml"
    path.write_text(yaml.safe_dump({"passes": {name: passes[name] for name in names}}, sort_keys=False))
    with pytest.raises(
        errors.PipelineInvalidError, match="order is PhiforgeRotate, PhiforgeQuantize, PhiforgeCalibrate"
    ):
        load_pipeline(path)


def test_a_pipeline_has_the_options_of_its_kind() -> None:
    cpu, npu = load_pipeline(PIPELINE), load_pipeline(NPU_PIPELINE)
    assert cpu.export_options() is not None
    assert (cpu.calibrate_options(), cpu.stages_options(), cpu.compile_options()) == (None, None, None)
    assert npu.export_options() is None
    stages, compiled = npu.stages_options(), npu.compile_options()
    assert stages is not None
    assert compiled is not None
    assert (stages.parts, stages.context_tokens, compiled.optimization, compiled.soc_model) == (4, None, 3, None)


def test_an_npu_pipeline_needs_calibration_whatever_quantizes(tmp_path: Path) -> None:
    without = _broken(tmp_path, "    smoothing: 0.5\n", "", NPU_PIPELINE)
    path = _broken(tmp_path, "algorithm: gptq", "algorithm: rtn", without)
    assert load_pipeline(path).needs_calibration
    assert not load_pipeline(PIPELINE).needs_calibration


@pytest.mark.parametrize(
    ("stages", "in_blocks"),
    [("", ("lm_head", "model.embed_tokens")), ("\n    head: npu", ("model.embed_tokens",))],
)
def test_what_the_cpu_runs_keeps_its_blocks(tmp_path: Path, stages: str, in_blocks: tuple[str, ...]) -> None:
    path = _broken(tmp_path, "type: PhiforgeStages", f"type: PhiforgeStages{stages}", NPU_PIPELINE)
    assert load_pipeline(path).quantize_options().in_blocks == in_blocks
    assert load_pipeline(PIPELINE).quantize_options().in_blocks == ()


@pytest.mark.parametrize(
    ("name", "old", "new", "named"),
    [
        ("cpu-int4", "accuracy_level: 4", "activations: float16", "activations: float16 is not for the provider cpu"),
        ("directml-int4", "activations: float16", "activations: float32", "float32 is not for the provider dml"),
        ("directml-int4", "activations: float16", "activations: bfloat16", "activations"),
        ("directml-int4", "embedding: unpacked", "embedding: gathered", "embedding"),
        ("directml-int4", "provider: dml", "provider: directml", "provider"),
    ],
)
def test_faults_of_a_gpu_pipeline_are_named(tmp_path: Path, name: str, old: str, new: str, named: str) -> None:
    with pytest.raises(errors.PipelineInvalidError) as caught:
        load_pipeline(_broken(tmp_path, old, new, PIPELINES / f"{name}.yaml"))
    assert named in caught.value.why


def test_webgpu_takes_float32_too(tmp_path: Path) -> None:
    path = _broken(tmp_path, "activations: float16", "activations: float32", PIPELINES / "webgpu-int4.yaml")
    options = load_pipeline(path).export_options()
    assert options is not None
    assert options.activations == "float32"


def test_a_pipeline_says_what_it_builds_for() -> None:
    names = {"cpu-int4": "cpu", "directml-int4": "directml", "webgpu-int4": "webgpu", "qnn-a16w4": "qnn"}
    assert {name: load_pipeline(PIPELINES / f"{name}.yaml").target for name in names} == names
