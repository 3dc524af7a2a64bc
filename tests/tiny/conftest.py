"""Real builds, made once for all tests of this folder."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

import phiforge
from broken.checkpoints import make_checkpoint
from held_out import declare
from phiforge.checkpoint.nano import CHECKPOINT_DIR, EVAL_DIR
from phiforge.packaging.layout import variant_folders
from phiforge.validation.twin import scored_folder
from phiforge.verbs.build import BuildResult

PRUNED_PIPELINE = """
passes:
  quantize:
    {type: PhiforgeQuantize, algorithm: k-quant, bits: 4, block_size: 32, symmetric: false, mixed: k-quant-mixed}
  export: {type: PhiforgeExport, provider: cpu, logits: last}
"""


@pytest.fixture(scope="session")
def nano_checkpoint() -> Path:
    """The embedded model."""
    return CHECKPOINT_DIR


@pytest.fixture(scope="session")
def nano_output(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output folder of the embedded model's build."""
    return tmp_path_factory.mktemp("nano")


@pytest.fixture(scope="session")
def nano_build(nano_checkpoint: Path, nano_output: Path) -> BuildResult:
    """The embedded model, built, validated and packaged for cpu-x64."""
    return phiforge.build(nano_checkpoint, targets=["cpu-x64"], output=nano_output)


@pytest.fixture(scope="session")
def nano_variant(nano_build: BuildResult) -> Path:
    """The embedded model's CPU variant, as packaged."""
    assert nano_build.package is not None
    return variant_folders(nano_build.package)["cpu-int4"]


@pytest.fixture(scope="session")
def nano_every_position(nano_variant: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The embedded model's CPU variant with the logits of every position: itself, or its twin."""
    with scored_folder(nano_variant, tmp_path_factory.mktemp("every-position")) as folder:
        yield folder


@pytest.fixture(scope="session")
def small_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two layers of random weights, for builds whose answers do not matter."""
    return make_checkpoint(tmp_path_factory.mktemp("small") / "small", hidden_size=128)


@pytest.fixture(scope="session")
def pruned_build(nano_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> BuildResult:
    """The embedded model with the logits of the last position alone, validated on a part of the held-out data."""
    folder = tmp_path_factory.mktemp("pruned")
    (folder / "tasks").mkdir()
    for name, lines in (("text.jsonl", 24), ("tasks/facts.jsonl", 24)):
        kept = (EVAL_DIR / name).read_text(encoding="utf-8").splitlines(keepends=True)[:lines]
        (folder / name).write_text("".join(kept), encoding="utf-8")
    declare(folder / "tasks")
    pipeline = folder / "pruned.yaml"
    pipeline.write_text(PRUNED_PIPELINE, encoding="utf-8")
    return phiforge.build(
        nano_checkpoint,
        targets=["cpu-x64"],
        pipeline=str(pipeline),
        texts=folder / "text.jsonl",
        tasks=folder / "tasks",
        output=folder / "out",
    )
