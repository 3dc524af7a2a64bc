"""Tensor accounting: what is called for, what is ignored, what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from broken.checkpoints import make_checkpoint
from phiforge import errors
from phiforge.checkpoint import tensors
from phiforge.checkpoint.config import load_config
from phiforge.checkpoint.weights import open_weights


def add(folder: Path, **extra: np.ndarray[tuple[int, ...], np.dtype[np.generic]]) -> None:
    path = folder / "model.safetensors"
    named = {name.replace("__", "."): value for name, value in extra.items()}
    save_file(load_file(path) | named, path)


def test_shapes_of_a_sound_checkpoint(tmp_path: Path) -> None:
    config = load_config(make_checkpoint(tmp_path, tied=False))
    expected = tensors.expected_tensors(config)

    assert len(expected) == 2 * 6 + 3
    assert expected["model.layers.1.self_attn.qkv_proj.weight"] == (64 + 2 * 32, 64)
    assert expected["model.layers.1.mlp.gate_up_proj.weight"] == (256, 64)
    assert expected["lm_head.weight"] == (320, 64)
    assert tensors.check_tensors(config, open_weights(tmp_path)) == ()


def test_what_transformers_ignores_is_named(tmp_path: Path) -> None:
    config = load_config(make_checkpoint(tmp_path))
    add(
        tmp_path,
        lm_head__weight=np.ones((320, 64), np.float32),
        model__layers__0__self_attn__rotary_emb__inv_freq=np.ones(16, np.float32),
    )

    ignored = tensors.check_tensors(config, open_weights(tmp_path))
    assert ignored == ("lm_head.weight", "model.layers.0.self_attn.rotary_emb.inv_freq")


def test_a_missing_head_is_missed_unless_tied(tmp_path: Path) -> None:
    make_checkpoint(tmp_path)
    untied = load_config(make_checkpoint(tmp_path / "untied", tied=False))

    with pytest.raises(errors.TensorMissingError, match=r"lacks 1 of 15 tensors: lm_head\.weight"):
        tensors.check_tensors(untied, open_weights(tmp_path))


def test_codes_in_place_of_weights(tmp_path: Path) -> None:
    config = load_config(make_checkpoint(tmp_path))
    add(tmp_path, model__norm__weight=np.ones(64, np.uint8))

    with pytest.raises(errors.TensorShapeError, match=r"model\.norm\.weight in model\.safetensors has dtype U8"):
        tensors.check_tensors(config, open_weights(tmp_path))


def test_many_faults_are_counted_and_some_named(tmp_path: Path) -> None:
    make_checkpoint(tmp_path)
    deeper = load_config(make_checkpoint(tmp_path / "deeper", layer_count=4))

    with pytest.raises(errors.TensorMissingError, match=r"lacks 12 of 26 tensors: .* and 7 more"):
        tensors.check_tensors(deeper, open_weights(tmp_path))


def test_values_in_several_blocks_are_all_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.ones((50, 8), np.float32)
    values[13, 2], values[13, 3], values[44, 0] = np.nan, np.inf, -np.inf
    save_file({"fine": np.ones(5, np.float32), "poor": values}, tmp_path / "model.safetensors")
    monkeypatch.setattr(tensors, "SCAN_BYTES", 10 * 8 * 4)

    with pytest.raises(errors.WeightsNotFiniteError, match=r"poor .* has 3 value\(s\) .* row 13"):
        tensors.check_finite(open_weights(tmp_path))
    tensors.check_finite(open_weights(tmp_path), ["fine"])
