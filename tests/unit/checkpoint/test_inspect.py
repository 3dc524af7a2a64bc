"""The facts of a checkpoint, and the fingerprint that stands for it."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from broken.checkpoints import make_checkpoint
from phiforge.checkpoint.inspect import fingerprint, inspect_checkpoint


@pytest.mark.parametrize(
    ("tied", "longrope", "shards", "dtype"),
    [(True, False, 1, "bfloat16"), (False, True, 3, "float16"), (True, True, 2, "float32")],
)
def test_facts(tied: bool, longrope: bool, shards: int, dtype: str, tmp_path: Path) -> None:
    make_checkpoint(tmp_path / "small", tied=tied, longrope=longrope, shards=shards, dtype=dtype)
    facts = inspect_checkpoint(tmp_path / "small")

    layer = 64 + (64 + 64) * 64 + 64 * 64 + 64 + 256 * 64 + 64 * 128
    assert facts.parameter_count == 320 * 64 * (1 if tied else 2) + 2 * layer + 64
    assert facts.weight_bytes == facts.parameter_count * (4 if dtype == "float32" else 2)
    assert (facts.name, facts.family, facts.licence_file) == ("small", "phi3", "LICENSE")
    assert len(facts.tensors) == 2 * 6 + (2 if tied else 3)
    assert len(facts.files) == 5 + (1 if shards == 1 else shards + 1)
    assert all(size == (tmp_path / "small" / name).stat().st_size for name, size in facts.files)


def test_fingerprint_does_not_depend_on_place_or_time(tmp_path: Path) -> None:
    one = make_checkpoint(tmp_path / "one")
    two = Path(shutil.copytree(one, tmp_path / "elsewhere" / "two"))
    for path in two.iterdir():
        os.utime(path, (1, 1))
    (two / "README.md").write_text("not read by any build", encoding="utf-8")

    assert fingerprint(one) == fingerprint(two)


@pytest.mark.parametrize(
    "name", ["config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "LICENSE"]
)
def test_fingerprint_changes_with_every_file_that_matters(name: str, tmp_path: Path) -> None:
    folder = make_checkpoint(tmp_path)
    before = fingerprint(folder)
    with (folder / name).open("a", encoding="utf-8") as file:
        file.write(" ")

    assert fingerprint(folder) != before


def test_fingerprint_changes_with_one_bit_of_a_weight(tmp_path: Path) -> None:
    path = make_checkpoint(tmp_path) / "model.safetensors"
    before = fingerprint(tmp_path)
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)

    assert fingerprint(tmp_path) != before


def test_fingerprint_changes_with_a_name(tmp_path: Path) -> None:
    folder = make_checkpoint(tmp_path)
    before = fingerprint(folder)
    (folder / "LICENSE").rename(folder / "LICENSE.txt")

    assert fingerprint(folder) != before
