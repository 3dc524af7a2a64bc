"""Round to nearest: the block's range gives the scale, and every weight takes the nearest code."""

from __future__ import annotations

import numpy as np

from phiforge.quantize.blocks import Floats, quantize_by_chunks
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
        DependencyMissingError: numba is not installed.
        ValueError: The weight is not float32, has no whole blocks, or holds a value that is not finite.
    """
    return quantize_by_chunks(weight, spec, rtn_parameters)


def rtn_parameters(blocks: Floats, spec: QuantSpec) -> Floats:
    """Finds scales and zero points, float32 [2, n], of contiguous blocks, float32 [n, g]."""
    from phiforge.quantize.kernels import range_parameters

    out = np.empty((2, len(blocks)), np.float32)
    range_parameters(blocks, np.float32(spec.max_code), np.float32(spec.middle_code), spec.symmetric, out)
    return out
