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
        lm_head__weight=load_file(tmp_path / "model.safetensors")["model.embed_tokens.weight"],
        model__layers__0__self_attn__rotary_emb__inv_freq=np.ones(16, np.float32),
    )

    ignored = tensors.check_tensors(config, open_weights(tmp_path))
    assert ignored == ("lm_head.weight", "model.layers.0.self_attn.rotary_emb.inv_freq")


@pytest.mark.parametrize("row", [0, 319])
def test_a_tied_head_that_is_not_the_embedding_is_refused(row: int, tmp_path: Path) -> None:
    config = load_config(make_checkpoint(tmp_path))
    head = load_file(tmp_path / "model.safetensors")["model.embed_tokens.weight"].copy()
    head[row, 5] += 1
    add(tmp_path, lm_head__weight=head)

    with pytest.raises(errors.ConfigMismatchError, match=f"tie_word_embeddings is true.* row {row} differs"):
        tensors.check_tensors(config, open_weights(tmp_path))


def test_a_tied_head_of_another_shape_is_refused(tmp_path: Path) -> None:
    config = load_config(make_checkpoint(tmp_path))
    add(tmp_path, lm_head__weight=np.ones((300, 64), np.float32))

    with pytest.raises(errors.ConfigMismatchError, match=r"tie_word_embeddings is true, but .* \[300, 64\]"):
        tensors.check_tensors(config, open_weights(tmp_path))


def test_a_missing_head_is_missed_unless_tied(tmp_path: Path) -> None:
    make_checkpoint(tmp_path)
    untied = load_config(make_checkpoint(tmp_path / "untied", tied=False))

    with pytest.raises(errors.ConfigMismatchError, match=r"false, but there is no lm_head\.weight"):
        tensors.check_tensors(untied, open_weights(tmp_path))


def test_codes_in_place_of_weights(tmp_path: Path) -> None:
    config = load_config(make_checkpoint(tmp_path))
    add(tmp_path, model__norm__weight=np.ones(64, np.uint8))

    with pytest.raises(errors.TensorShapeError, match=r"model\.norm\.weight has dtype U8"):
        tensors.check_tensors(config, open_weights(tmp_path))


def test_tensors_that_are_wrong_in_several_ways_are_all_named(tmp_path: Path) -> None:
    config = load_config(make_checkpoint(tmp_path))
    path = tmp_path / "model.safetensors"
    stored = load_file(path)
    del stored["model.layers.0.mlp.down_proj.weight"]
    stored["model.layers.1.self_attn.o_proj.weight"] = np.ones((64, 32), np.float32)
    stored |= {f"model.layers.{layer}.self_attn.qkv_proj.bias": np.ones(128, np.float32) for layer in (0, 1)}
    save_file(stored, path)

    with pytest.raises(errors.TensorMissingError) as caught:
        tensors.check_tensors(config, open_weights(tmp_path))

    for fault in (
        "no file has model.layers.0.mlp.down_proj.weight",
        "model.layers.1.self_attn.o_proj.weight has shape [64, 32] instead of [64, 64]",
        "self_attn.qkv_proj.bias of layers 0 to 1 is no part of the model",
    ):
        assert fault in caught.value.what


def test_values_in_several_blocks_are_all_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.ones((50, 8), np.float32)
    values[13, 2], values[13, 3], values[44, 0] = np.nan, np.inf, -np.inf
    save_file({"fine": np.ones(5, np.float32), "poor": values}, tmp_path / "model.safetensors")
    monkeypatch.setattr(tensors, "SCAN_BYTES", 10 * 8 * 4)

    with pytest.raises(errors.WeightsNotFiniteError, match=r"poor .* has 3 value\(s\) .* row 13"):
        tensors.check_finite(open_weights(tmp_path))
    tensors.check_finite(open_weights(tmp_path), ["fine"])
