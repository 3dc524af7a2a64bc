"""A checkpoint's weights as they were just before they were quantized: rotated and smoothed, but not rounded."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from safetensors.numpy import load_file

from phiforge.checkpoint.config import load_config
from phiforge.checkpoint.weights import open_weights
from phiforge.decoder.rotated import RotatedWeights
from phiforge.olive.checkpoint_files import SMOOTHING_FILE

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from phiforge.decoder.rows import Rows

    Floats = NDArray[np.float32]

GATE_UP, DOWN = ".mlp.gate_up_proj.weight", ".mlp.down_proj.weight"


class OriginalRows:
    """The weights that a calibrated checkpoint's codes were rounded from."""

    def __init__(self, checkpoint: Path, calibrated: Path, rotation_seed: int | None) -> None:
        """Open the weights.

        Args:
            checkpoint: What was built.
            calibrated: The quantized checkpoint, which says how channels were smoothed.
            rotation_seed: The seed of the rotation; None where nothing was rotated.
        """
        weights = open_weights(checkpoint)
        rotated = rotation_seed is not None
        self._weights: Rows = (
            RotatedWeights(weights, load_config(checkpoint), rotation_seed or 0) if rotated else weights
        )
        file = calibrated / SMOOTHING_FILE
        self._smoothing = load_file(file) if file.is_file() else {}

    def read(self, name: str) -> Floats:
        """A whole tensor as float32."""
        weight = self._weights.read(name)
        scales = self._smoothing.get(_smoothed_module(name))
        if scales is None:
            return weight
        if name.endswith(DOWN):
            return np.asarray(weight * scales, dtype=np.float32)
        weight = weight.copy()
        weight[len(weight) // 2 :] /= scales[:, None]
        return weight

    def read_rows(self, name: str, start: int, stop: int) -> Floats:
        """Rows of a tensor as float32."""
        return self.read(name)[start:stop]


def _smoothed_module(name: str) -> str:
    """The module whose inputs were divided, for a weight that takes part in it; else a name that there is none of."""
    for suffix in (GATE_UP, DOWN):
        if name.endswith(suffix):
            return name.removesuffix(suffix) + DOWN.removesuffix(".weight")
    return ""
