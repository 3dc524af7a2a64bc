"""k-quant: a search over scales that lowers the weighted squared error of each block."""

from __future__ import annotations

import numpy as np

from phiforge.quantize.blocks import Floats, quantize_by_chunks
from phiforge.quantize.rtn import rtn_parameters
from phiforge.quantize.spec import Quantized, QuantSpec

# llama.cpp's grids, in codes: how far the scale is stretched or shrunk around the one that just covers the range.
_ASYMMETRIC_OFFSETS = tuple(-1.0 + 0.1 * step for step in range(20))
_SYMMETRIC_OFFSETS = tuple(0.1 * step for step in range(-9, 10))
_DEFAULT_IMPORTANCE = np.empty((0, 0), np.float32)


def quantize_kquant(weight: Floats, spec: QuantSpec) -> Quantized:
    """Quantizes a weight by llama.cpp's k-quant search, with zero points that are codes.

    Importance of a weight, candidate scales and the least-squares fit follow `make_qkx2_quants` (asymmetric) and
    `make_qx_quants` (symmetric) of llama.cpp's ggml-quants.c, in the form of `quant_tensor_k_quant_cpu` of ONNX
    Runtime 1.31 and of Olive 0.13's kquant.py: importance = rms(block) + |w|; for each candidate scale round to codes,
    then take the scale that fits those codes best, s = sum(i*w*q) / sum(i*q*q) with q = code - zero.

    One thing differs. Those two fit a fractional minimum and round it to a zero point at the end; that rounding costs
    more than the search gains on bell-shaped weights. Here every candidate has a whole zero point from the start. A
    block whose best candidate is worse than round to nearest keeps round to nearest, so the weighted squared error of
    no block is above that of `quantize_rtn`.

    Args:
        weight: float32 [N, K].
        spec: The specification.

    Raises:
        DependencyMissingError: numba is not installed.
        ValueError: The weight is not float32, has no whole blocks, or holds a value that is not finite.
    """
    return quantize_by_chunks(weight, spec, kquant_parameters)


def kquant_parameters(blocks: Floats, spec: QuantSpec, importance: Floats | None = None) -> Floats:
    """Finds scales and zero points, float32 [2, n], of contiguous blocks, float32 [n, g], g a multiple of 4.

    `importance`, contiguous float32 [n, g], replaces rms(block) + |w|.
    """
    from phiforge.quantize.kernels import search_parameters

    out = rtn_parameters(blocks, spec)
    search_parameters(
        blocks,
        _DEFAULT_IMPORTANCE if importance is None else importance,
        _numerators(spec),
        np.float32(spec.max_code),
        np.float32(spec.middle_code),
        spec.symmetric,
        out,
    )
    return out


def _numerators(spec: QuantSpec) -> Floats:
    """Gives what the extent of a block is divided by for each candidate scale, float32 [candidates]."""
    if spec.symmetric:
        return np.array([-spec.middle_code - offset for offset in _SYMMETRIC_OFFSETS], np.float32)
    return np.array([spec.max_code + offset for offset in _ASYMMETRIC_OFFSETS], np.float32)
