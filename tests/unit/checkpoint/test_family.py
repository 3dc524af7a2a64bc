"""Families are recognised by their shapes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from broken.checkpoints import make_checkpoint
from phiforge.checkpoint.config import load_config
from phiforge.checkpoint.family import FAMILIES, family_of


@pytest.mark.parametrize(
    ("hidden_size", "layer_count", "vocab_size", "name"),
    [
        (256, 6, 1024, "phi-4-nano"),
        (3072, 32, 200_064, "phi-4-mini"),
        (5120, 40, 100_352, "phi-4"),
        (3072, 2, 200_064, "phi3"),
        (3072, 32, 32_064, "phi3"),
    ],
)
def test_family_of(hidden_size: int, layer_count: int, vocab_size: int, name: str, tmp_path: Path) -> None:
    config = load_config(make_checkpoint(tmp_path))

    assert family_of(replace(config, hidden_size=hidden_size, layer_count=layer_count, vocab_size=vocab_size)) == name


def test_keys_are_the_names() -> None:
    assert all(name == family.name for name, family in FAMILIES.items())
