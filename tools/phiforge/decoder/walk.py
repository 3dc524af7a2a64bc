"""Take texts through one layer, stopping before each linear module with what it is about to multiply."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from phiforge.decoder.decoder import DOWN, GATE_UP, OUTPUT, QKV, mapped_floats

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from numpy.typing import NDArray

    from phiforge.decoder.decoder import Batch, Decoder

    Floats = NDArray[np.float32]
    # Told a linear module's name in its layer, the module, and its inputs [tokens, columns]; may change its weight.
    Visit = Callable[[str, Any, Floats], None]

# Rows that are computed at once where texts need not be kept apart.
CHUNK_ROWS = 2048


def walk_layer(
    decoder: Decoder, layer: Any, batch: Batch, hidden: Floats, after: Floats, visit: Visit, scratch: Path
) -> None:
    """Compute a layer's outputs for all texts, and call `visit` before each of its four linear modules.

    A weight that `visit` changes is used changed from there on, so each module sees its inputs as they will be when
    everything before it is quantized.

    Args:
        decoder: For attention and its rotary embedding.
        layer: The layer.
        batch: The texts' bounds.
        hidden: The layer's inputs, float32 [tokens, hidden].
        after: Receives its outputs.
        visit: What is done before each module.
        scratch: Folder for the mapped files of activations.
    """
    attention, mlp = layer.self_attn, layer.mlp
    tokens, width = hidden.shape
    with (
        torch.inference_mode(),
        mapped_floats(scratch, tokens, width) as normed,
        mapped_floats(scratch, tokens, attention.o_proj.in_features) as context,
    ):
        for rows in _chunks(tokens):
            normed[rows] = layer.input_layernorm(torch.from_numpy(hidden[rows])).numpy()
        visit(QKV, attention.qkv_proj, normed)
        for start, stop in batch.bounds:
            context[start:stop] = decoder.attend(layer, torch.from_numpy(normed[start:stop])).numpy()
        visit(OUTPUT, attention.o_proj, context)
        for rows in _chunks(tokens):
            after[rows] = hidden[rows] + attention.o_proj(torch.from_numpy(context[rows])).numpy()
            normed[rows] = layer.post_attention_layernorm(torch.from_numpy(after[rows])).numpy()
        visit(GATE_UP, mlp.gate_up_proj, normed)
        _walk_mlp_end(mlp, normed, after, visit, scratch)


def _walk_mlp_end(mlp: Any, normed: Floats, after: Floats, visit: Visit, scratch: Path) -> None:
    with mapped_floats(scratch, len(normed), mlp.down_proj.in_features) as inner:
        for rows in _chunks(len(normed)):
            gate, up = mlp.gate_up_proj(torch.from_numpy(normed[rows])).chunk(2, dim=-1)
            inner[rows] = (up * mlp.activation_fn(gate)).numpy()
        visit(DOWN, mlp.down_proj, inner)
        for rows in _chunks(len(normed)):
            after[rows] += mlp.down_proj(torch.from_numpy(inner[rows])).numpy()


def hessian(inputs: Floats) -> Floats:
    """Return the sum of x x^T over inputs [tokens, K]: float32 [K, K]."""
    found = torch.zeros(inputs.shape[1], inputs.shape[1])
    for rows in _chunks(len(inputs)):
        part = torch.from_numpy(inputs[rows])
        found.addmm_(part.T, part)
    return found.numpy()


def _chunks(tokens: int) -> Iterator[slice]:
    for start in range(0, tokens, CHUNK_ROWS):
        yield slice(start, min(start + CHUNK_ROWS, tokens))
