from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from phiforge import errors
from phiforge.pipeline import load_pipeline

PIPELINE = Path(__file__).parents[2] / "pipelines" / "cpu-int4-k-quant.yaml"


def _broken(tmp_path: Path, old: str, new: str) -> Path:
    text = PIPELINE.read_text(encoding="utf-8")
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
