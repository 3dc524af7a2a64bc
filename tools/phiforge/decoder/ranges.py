"""The range of every activation of a decoder over texts, computed layer by layer from disk."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from phiforge.activations import EMBEDDING, FINAL_NORM, LOGITS, Range, layer_site
from phiforge.decoder.decoder import HEAD_ROWS, mapped_floats
from phiforge.decoder.walk import CHUNK_ROWS, walk_layer

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray

    from phiforge.decoder.decoder import Batch, Decoder

    Floats = NDArray[np.float32]
    # Told the name of an activation and some of its values.
    See = Callable[[str, torch.Tensor], None]


def record_ranges(
    decoder: Decoder, batch: Batch, *, folder: Path, progress: Callable[[int, int], None]
) -> dict[str, Range]:
    """Return the least and the greatest value of each activation over all tokens of all texts, by its name.

    Two are not over just these tokens: the embedding's is over the whole table, since any token may come, and the
    logits' over `HEAD_ROWS` tokens, spread evenly, which is enough for a range and spares a product with the head for
    every token. A value that is not finite makes its range not finite. Without tokens there are no ranges.

    Args:
        decoder: The decoder as it will compute, so with the weights that its codes stand for.
        batch: The texts, none of them empty.
        folder: Folder for mapped files, removed afterwards.
        progress: Called with (layers done, layers in all).
    """
    ranges = _Ranges()
    tokens, layers = len(batch.tokens), decoder.config.layer_count
    if not tokens:
        return ranges.found
    shape = (tokens, decoder.config.hidden_size)
    with torch.inference_mode(), mapped_floats(folder, *shape) as before, mapped_floats(folder, *shape) as after:
        for block in decoder.embedding_blocks():
            ranges.see(EMBEDDING, torch.from_numpy(block))
        before[:] = decoder.embed(batch.tokens)
        hidden = (before, after)
        for index in range(layers):
            progress(index, layers)
            _see_layer(decoder, index, batch, hidden, ranges, folder)
            hidden = hidden[::-1]
        _see_end(decoder, hidden[0], ranges)
    progress(layers, layers)
    return ranges.found


class _Ranges:
    """Ranges by name, widened by whatever is seen."""

    def __init__(self) -> None:
        self.found: dict[str, Range] = {}

    def see(self, name: str, values: torch.Tensor) -> None:
        low, high = (bound.numpy() for bound in torch.aminmax(values))
        if name in self.found:
            # Unlike min(), these keep a NaN.
            low, high = np.minimum(self.found[name].minimum, low), np.maximum(self.found[name].maximum, high)
        self.found[name] = Range(float(low), float(high))


def _see_layer(
    decoder: Decoder, index: int, batch: Batch, hidden: tuple[Floats, Floats], ranges: _Ranges, folder: Path
) -> None:
    def see(site: str, values: torch.Tensor) -> None:
        ranges.see(layer_site(index, site), values)

    before, after = hidden
    layer = decoder.layer(index)
    _watch(decoder, layer, see)
    walk_layer(decoder, layer, batch, before, after, _change_nothing, folder)
    for start in range(0, len(after), CHUNK_ROWS):
        see("residual", torch.from_numpy(after[start : start + CHUNK_ROWS]))


def _change_nothing(_part: str, _module: Any, _inputs: Floats) -> None:
    """Leave a linear module as it is."""


def _watch(decoder: Decoder, layer: Any, see: See) -> None:
    """Let `see` have what goes into a layer's modules and what comes out, whenever they compute."""

    def see_qkv(_module: Any, _inputs: Any, output: torch.Tensor) -> None:
        see("qkv", output)
        keys, values = decoder.keys_and_values(output[0])
        see("key", keys)
        see("value", values)

    def see_gate_up(_module: Any, _inputs: Any, output: torch.Tensor) -> None:
        gate, up = output.chunk(2, dim=-1)
        sigmoid = gate.sigmoid()
        for site, values in (("gate", gate), ("up", up), ("sigmoid", sigmoid), ("silu", gate * sigmoid)):
            see(site, values)

    _watch_module(layer.input_layernorm, see, None, "input_norm")
    layer.self_attn.qkv_proj.register_forward_hook(see_qkv)
    _watch_module(layer.self_attn.o_proj, see, "attention", "attention_output")
    _watch_module(layer.post_attention_layernorm, see, "attention_residual", "post_attention_norm")
    layer.mlp.gate_up_proj.register_forward_hook(see_gate_up)
    _watch_module(layer.mlp.down_proj, see, "product", "mlp_output")


def _watch_module(module: Any, see: See, entry: str | None, result: str) -> None:
    def hook(_module: Any, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        if entry:
            see(entry, inputs[0])
        see(result, output)

    module.register_forward_hook(hook)


def _see_end(decoder: Decoder, hidden: Floats, ranges: _Ranges) -> None:
    for start in range(0, len(hidden), CHUNK_ROWS):
        ranges.see(FINAL_NORM, decoder.normalize(torch.from_numpy(hidden[start : start + CHUNK_ROWS])))
    chosen = np.linspace(0, len(hidden) - 1, min(HEAD_ROWS, len(hidden))).astype(np.int64)
    for _, block in decoder.logit_blocks(decoder.normalize(torch.from_numpy(hidden[chosen]))):
        ranges.see(LOGITS, block)
