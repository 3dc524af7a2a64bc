"""AWQ: weights that meet large inputs are scaled up before they are rounded, and blocks are clipped.

Lin et al., 2023 (https://arxiv.org/abs/2306.00978), with the grids of its code, llm-awq's auto_scale.py and
auto_clip.py. That code measures the error on stored inputs; here it is computed from the Hessian H = sum of x x^T,
which says the same about all calibration tokens at once: the error of the outputs is tr(D H D^T), D = quantized -
original.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from phiforge.quantize.blocks import Floats, NotFiniteError, encode
from phiforge.quantize.parameters import block_parameters
from phiforge.quantize.rtn import quantize_rtn
from phiforge.quantize.spec import Quantized, QuantSpec, check_shape, dequantize

# The search for scales looks at no more rows of a weight than these, evenly spread.
_SAMPLE_ROWS = 512
# Inputs smaller than this share of the largest count as if they were so large.
_SMALLEST_INPUT = 1e-4
_CLIP_STEP = 0.05
_LARGEST_CLIP = 0.5
_LARGEST_CLIP_OF_ROWS = 0.85
_CHUNK_WEIGHTS = 1 << 16


def awq_scales(weights: Sequence[Floats], hessian: Floats, spec: QuantSpec, grid: int = 20) -> Floats:
    """Finds the scales s of input channels for which rounding W s to nearest harms the outputs least.

    s = m^alpha / sqrt(max(m^alpha) min(m^alpha)), where m is the root mean square of a channel's inputs; the paper's
    code has their mean magnitude, which a Hessian does not tell. Of alpha = 0, 1/grid, ... the best is taken, by the
    error of all weights together; alpha = 0 is to leave the weights as they are. Channels that calibration never fed
    get 1.

    The caller quantizes W s and folds 1 / s into what comes before: a norm's weight, or the rows of a linear layer.
    The Hessian of what then comes in is H / (s s^T).

    Args:
        weights: The weights that read this input, float32 [N_i, K] each; not changed. Of a weight with more than 512
            rows, 512 are looked at and count for all.
        hessian: float32 [K, K], the sum of x x^T over the calibration tokens, or any multiple of it; not changed.
        spec: How W s will be quantized.
        grid: Number of alphas.

    Returns:
        float32 [K], positive.

    Raises:
        DependencyMissingError: numba is not installed.
        ValueError: There are no weights, the arrays do not fit, are not float32 or hold values that are not finite.
    """
    if not weights:
        raise ValueError("there are no weights to find scales for")
    if grid < 1:
        raise ValueError(f"grid is {grid}; at least one alpha is needed")
    for weight in weights:
        _check(weight, hessian, spec)
    steps = [-(-len(weight) // _SAMPLE_ROWS) for weight in weights]
    samples = [np.ascontiguousarray(weight[::step]) for weight, step in zip(weights, steps, strict=True)]
    counts = [len(weight) / len(sample) for weight, sample in zip(weights, samples, strict=True)]
    best_error, best = np.inf, np.ones(len(hessian), np.float32)
    for step in range(grid):
        scales = _channel_scales(hessian, step / grid)
        errors = [_rounding_error(sample, scales, hessian, spec) for sample in samples]
        error = sum(count * error for count, error in zip(counts, errors, strict=True))
        if error < best_error:
            best_error, best = error, scales
    return best


def quantize_clipped(weight: Floats, hessian: Floats, spec: QuantSpec) -> Quantized:
    """Quantizes a weight with each block's range shrunk as far as that helps its outputs.

    Shrinking by p multiplies the scale of round to nearest by 1 - p and leaves the zero point; what is outside goes
    to the first or last code. p = 0, 0.05, ... below 0.5 are tried as in the paper's code. A block's error is
    d^T H_bb d, d its errors and H_bb the Hessian's part on the diagonal; what blocks have to do with each other is
    left out. Per channel p goes up to 0.85, since long rows have larger extremes, and the errors of a row's blocks are
    added.

    Args:
        weight: float32 [N, K], not changed.
        hessian: float32 [K, K], as for `awq_scales`.
        spec: The specification.

    Raises:
        DependencyMissingError: numba is not installed.
        ValueError: The arrays do not fit, are not float32 or hold values that are not finite.
    """
    rows, size = _check(weight, hessian, spec)
    parts = np.arange(size).reshape(-1, spec.block_size)
    local = hessian[parts[:, :, None], parts[:, None, :]]
    codes = np.empty((rows, size), np.uint8)
    scales = np.empty((rows, len(local)), np.float32)
    zeros = np.empty((rows, len(local)), np.float32)
    height = size if spec.per_channel else spec.block_size
    step = max(1, _CHUNK_WEIGHTS // height)
    for start in range(0, rows, step):
        part = slice(start, min(start + step, rows))
        if not np.isfinite(weight[part]).all():
            raise NotFiniteError(part.start, part.stop - 1)
        for first in range(0, size, height):
            inside = slice(first, first + height)
            blocks = slice(first // spec.block_size, (first + height) // spec.block_size)
            columns = np.ascontiguousarray(weight[part, inside].T)
            own_scales, own_zeros = _clip(columns, local[blocks], spec)
            codes[part, inside] = encode(columns, own_scales, own_zeros, spec).T
            scales[part, blocks] = own_scales[:, None]
            zeros[part, blocks] = own_zeros[:, None]
    return Quantized(codes, scales, None if spec.symmetric else zeros.astype(np.uint8), spec)


def output_error(difference: Floats, hessian: Floats) -> float:
    """Gives tr(D H D^T), the squared error of the outputs summed over the calibration tokens.

    Args:
        difference: float32 [N, K], D = quantized - original.
        hessian: float32 [K, K].
    """
    return float(np.einsum("nk,nk->", difference @ hessian, difference, dtype=np.float64))


def _check(weight: Floats, hessian: Floats, spec: QuantSpec) -> tuple[int, int]:
    rows, size = check_shape(weight.shape, spec)
    if weight.dtype != np.float32:
        raise ValueError(f"the weight has dtype {weight.dtype}; float32 is needed")
    if hessian.dtype != np.float32 or hessian.shape != (size, size):
        raise ValueError(f"the Hessian is {hessian.dtype} {hessian.shape}; float32 {(size, size)} is needed")
    if not np.isfinite(hessian).all():
        raise ValueError("the Hessian holds values that are not finite")
    return rows, size


def _channel_scales(hessian: Floats, alpha: float) -> Floats:
    inputs = np.sqrt(np.maximum(hessian.diagonal(), 0).astype(np.float64))
    fed = inputs > 0
    scales = np.ones(len(inputs))
    if fed.any():
        powers = np.maximum(inputs[fed], _SMALLEST_INPUT * inputs.max()) ** alpha
        scales[fed] = powers / np.sqrt(powers.max() * powers.min())
    return scales.astype(np.float32)


def _rounding_error(weight: Floats, scales: Floats, hessian: Floats, spec: QuantSpec) -> float:
    difference = dequantize(quantize_rtn(weight * scales, spec))
    difference /= scales
    difference -= weight
    return output_error(difference, hessian)


def _clip(columns: Floats, local: Floats, spec: QuantSpec) -> tuple[Floats, Floats]:
    """Finds the scales and zero points with the least error.

    Args:
        columns: float32 [B * g, n], n blocks, or per channel n rows of B blocks.
        local: float32 [B, g, g], the parts of the Hessian that belong to the blocks.
        spec: Bits, symmetry and whether these are rows.

    Returns:
        float32 [n] each.
    """
    full, zeros = block_parameters(columns, spec, "rtn")
    best, scales = np.full_like(full, np.inf), full
    for clip in np.arange(0, _LARGEST_CLIP_OF_ROWS if spec.per_channel else _LARGEST_CLIP, _CLIP_STEP):
        tried = full * np.float32(1 - clip)
        difference = encode(columns, tried, zeros, spec)
        difference -= zeros
        difference *= tried
        difference -= columns
        stacked = difference.reshape(len(local), -1, len(full))
        error = (local @ stacked * stacked).sum(axis=(0, 1))
        scales = np.where(error < best, tried, scales)
        best = np.minimum(best, error)
    return scales, zeros
