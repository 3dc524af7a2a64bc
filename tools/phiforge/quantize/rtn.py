"""Round to nearest: the block's range gives the scale, and every weight takes the nearest code."""

from __future__ import annotations

import numpy as np

from phiforge.quantize.blocks import SMALLEST_SCALE, Columns, Floats, encode, quantize_by_chunks
from phiforge.quantize.spec import Quantized, QuantSpec


def quantize_rtn(weight: Floats, spec: QuantSpec) -> Quantized:
    """Quantizes a weight by rounding to the nearest code.

    Asymmetric, with zero always inside the range (olive/common/quant/utils.py, `WeightQuantizer`, Olive 0.13.0):
    scale = (max(w, 0) - min(w, 0)) / (2^bits - 1), zero = round(-min(w, 0) / scale), code = round(w / scale + zero).

    Symmetric (ONNX Runtime's blockwise quantizer for MatMulNBits): scale = m / -2^(bits-1), where m is the weight of
    largest magnitude with its sign, and zero = 2^(bits-1). The sign puts m on code 0, so all 2^bits codes are used and
    a scale may be negative.

    Args:
        weight: float32 [N, K].
        spec: The specification.

    Raises:
        ValueError: The weight is not float32, has no whole blocks, or holds a value that is not finite.
    """
    return quantize_by_chunks(weight, spec, rtn_columns)


def rtn_columns(columns: Floats, spec: QuantSpec) -> Columns:
    """Quantizes the blocks of one chunk, float32 [g, n]."""
    if spec.symmetric:
        scales = signed_extremes(columns, spec) / np.float32(-spec.middle_code)
        zeros = np.full_like(scales, spec.middle_code)
    else:
        low, high = block_ranges(columns, spec)
        scales = (high - low) / np.float32(spec.max_code)
        zeros = np.clip(np.rint(-low / scales), 0, spec.max_code)
    return Columns(encode(columns, scales, zeros, spec), scales, zeros)


def block_ranges(columns: Floats, spec: QuantSpec) -> tuple[Floats, Floats]:
    """Gives min(w, 0) and max(w, 0) of each block; a block too small to have a scale gets -1 and 1, as in Olive."""
    low = np.minimum(columns.min(axis=0), 0)
    high = np.maximum(columns.max(axis=0), 0)
    empty = high - low < SMALLEST_SCALE * spec.max_code
    low[empty] = -1
    high[empty] = 1
    return low, high


def signed_extremes(columns: Floats, spec: QuantSpec) -> Floats:
    """Gives the weight of largest magnitude of each block, with its sign; a block too small to have a scale gets 1."""
    low = columns.min(axis=0)
    high = columns.max(axis=0)
    extremes: Floats = np.where(np.abs(high) > np.abs(low), high, low)
    extremes[np.abs(extremes) < SMALLEST_SCALE * spec.middle_code] = 1
    return extremes
