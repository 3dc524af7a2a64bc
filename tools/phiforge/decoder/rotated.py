"""A checkpoint's weights seen in a rotated basis (QuaRot), read by rows like the checkpoint itself.

The residual stream y = x R is rotated by an orthogonal R (Ashkboos et al. 2024, "QuaRot", the part that needs no
operator at run time): what reads the stream is multiplied by R after its norm's weight was folded in, what writes it by
R transposed, and every norm's weight becomes 1. The values are rotated too, head by head, and the output projection
takes that back. The function of the model stays the same; outliers are spread over all channels.

The last norm's weight goes into the head, so a tied head becomes a tensor of its own.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import numpy as np

from phiforge.checkpoint.disagreements import EMBEDDING, HEAD
from phiforge.quantize.hadamard import Hadamard

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from phiforge.checkpoint.config import ModelConfig
    from phiforge.decoder.rows import Rows

    Floats = NDArray[np.float32]

FINAL_NORM = "model.norm.weight"
_LAYER = re.compile(r"(model\.layers\.\d+)\.(.+)\.weight")
# The norm before each module that reads the residual stream.
_READERS = {"self_attn.qkv_proj": "input_layernorm", "mlp.gate_up_proj": "post_attention_layernorm"}


class RotatedWeights:
    """Weights of an untied checkpoint with the same function as the original."""

    def __init__(self, weights: Rows, config: ModelConfig, seed: int) -> None:
        """Make the rotations.

        Args:
            weights: The original's.
            config: The original's.
            seed: Seed of the rotations' random signs.

        Raises:
            ValueError: No Hadamard matrix is known for the hidden size or the head size.
        """
        self._weights = weights
        self._config = config
        self._stream = Hadamard(config.hidden_size, seed)
        self._head = Hadamard(config.head_size, seed + 1)
        # The tensor read last, for those that can only be rotated whole.
        self._whole: tuple[str, Floats] | None = None

    def read(self, name: str) -> Floats:
        """A whole tensor as float32."""
        return self._read(name, None)

    def read_rows(self, name: str, start: int, stop: int) -> Floats:
        """Rows of a tensor as float32; modules that write the stream are kept whole until the next is asked for."""
        return self._read(name, (start, stop))

    def _read(self, name: str, rows: tuple[int, int] | None) -> Floats:
        if name == EMBEDDING:
            return self._stream.apply(self._source(name, rows))
        if name == HEAD:
            source = EMBEDDING if self._config.tied_embeddings else HEAD
            return self._stream.apply(self._source(source, rows) * self._weights.read(FINAL_NORM))
        layer = _LAYER.fullmatch(name)
        if layer is None or layer[2] not in {*_READERS, "self_attn.o_proj", "mlp.down_proj"}:
            return np.ones_like(self._source(name, rows))
        if layer[2] == "mlp.gate_up_proj":
            return self._reader(layer[1], layer[2], rows)
        if self._whole is None or self._whole[0] != name:
            self._whole = None
            self._whole = (name, self._rotate_whole(layer[1], layer[2]))
        whole = self._whole[1]
        return whole if rows is None else whole[slice(*rows)]

    def _source(self, name: str, rows: tuple[int, int] | None) -> Floats:
        return self._weights.read(name) if rows is None else self._weights.read_rows(name, *rows)

    def _reader(self, layer: str, module: str, rows: tuple[int, int] | None) -> Floats:
        norm = self._weights.read(f"{layer}.{_READERS[module]}.weight")
        weight = self._source(f"{layer}.{module}.weight", rows)
        weight *= norm
        return self._stream.apply(weight)

    def _rotate_whole(self, layer: str, module: str) -> Floats:
        if module == "self_attn.qkv_proj":
            weight = self._reader(layer, module, None)
            values = weight[-self._config.kv_head_count * self._config.head_size :]
            heads = values.reshape(self._config.kv_head_count, self._config.head_size, -1)
            heads[:] = _from_left(self._head, heads)
            return weight
        weight = self._source(f"{layer}.{module}.weight", None)
        if module == "self_attn.o_proj":
            weight = self._head.apply(weight.reshape(-1, self._config.head_size)).reshape(weight.shape)
        return _from_left(self._stream, weight)


def _from_left(rotation: Hadamard, weight: Floats) -> Floats:
    """Return R transposed times each matrix [..., size, K]."""
    return np.ascontiguousarray(np.swapaxes(rotation.apply(np.swapaxes(weight, -1, -2)), -1, -2))
