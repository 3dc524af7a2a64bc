"""Smoothing moves outliers from activations into weights and leaves what a layer computes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import load_file
from transformers import AutoTokenizer

from phiforge.checkpoint.nano import CHECKPOINT_DIR
from phiforge.checkpoint.weights import open_weights
from phiforge.decoder.decoder import DOWN, Batch, Decoder
from phiforge.decoder.walk import walk_layer
from phiforge.olive.calibrate_checkpoint import calibrate_checkpoint
from phiforge.olive.checkpoint_files import SMOOTHING_FILE
from phiforge.olive.original_rows import OriginalRows
from phiforge.olive.quantize_layers import _smooth_down
from phiforge.olive.quantized_rows import QuantizedRows
from phiforge.pipeline import QuantizeOptions

TEXT = "Ana has 3 apples and gets 4 more. What is 12 + 30? It is 42. Ben lives in a small town. "


def _tokens() -> list[int]:
    found: list[int] = AutoTokenizer.from_pretrained(CHECKPOINT_DIR)(TEXT * 8)["input_ids"][:200]
    return found


def test_a_smoothed_layer_computes_what_it_did_from_smaller_inputs(tmp_path: Path) -> None:
    decoder = Decoder(CHECKPOINT_DIR, open_weights(CHECKPOINT_DIR))
    batch = Batch.of([_tokens()])
    hidden = decoder.embed(batch.tokens)
    layer = decoder.layer(0)
    before, after = np.empty_like(hidden), np.empty_like(hidden)
    peaks: list[float] = []

    def visit(part: str, _module: object, inputs: np.ndarray) -> None:
        if part == DOWN:
            peaks.append(float(np.abs(inputs).max() / np.abs(inputs).std()))

    walk_layer(decoder, layer, batch, hidden, before, visit, tmp_path)
    scales = _smooth_down(decoder, layer, batch, hidden, tmp_path, 0.5)
    walk_layer(decoder, layer, batch, hidden, after, visit, tmp_path)
    assert (scales > 0).all()
    assert np.linalg.norm(after - before) < 1e-5 * np.linalg.norm(before)
    assert peaks[1] < 0.5 * peaks[0]


def test_the_weights_before_rounding_can_be_told_from_checkpoint_and_scales(tmp_path: Path) -> None:
    options = QuantizeOptions(
        type="PhiforgeQuantize", algorithm="gptq", bits=8, block_size=64, symmetric=True, per_channel=True,
        positive_scales=True, smoothing=0.5, lm_head_bits=8, embedding_bits=8,
    )  # fmt: skip
    folder = tmp_path / "quantized"
    folder.mkdir()
    calibrate_checkpoint(
        CHECKPOINT_DIR,
        folder,
        options,
        [_tokens()],
        work=tmp_path / "work",
        threads=2,
        progress=lambda done, total: None,
    )
    assert len(load_file(folder / SMOOTHING_FILE)) == 6
    original, rounded = OriginalRows(CHECKPOINT_DIR, folder, None), QuantizedRows(folder)
    for module in ("mlp.gate_up_proj", "mlp.down_proj", "self_attn.o_proj"):
        name = f"model.layers.3.{module}.weight"
        wanted, found = torch.from_numpy(original.read(name)), torch.from_numpy(rounded.read(name))
        assert float((found - wanted).norm() / wanted.norm()) < 0.05
