"""k-quant: a search over scales that lowers the weighted squared error of each block."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from phiforge.quantize.blocks import SMALLEST_SCALE, Columns, Floats, encode, quantize_by_chunks, sum_blocks
from phiforge.quantize.rtn import block_ranges, rtn_columns, signed_extremes
from phiforge.quantize.spec import Quantized, QuantSpec

# llama.cpp's grids, in codes: how far the scale is stretched or shrunk around the one that just covers the range.
_ASYMMETRIC_OFFSETS = tuple(-1.0 + 0.1 * step for step in range(20))
_SYMMETRIC_OFFSETS = tuple(0.1 * step for step in range(-9, 10))


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
        ValueError: The weight is not float32, has no whole blocks, or holds a value that is not finite.
    """
    return quantize_by_chunks(weight, spec, kquant_columns)


def kquant_columns(columns: Floats, spec: QuantSpec) -> Columns:
    """Quantizes the blocks of one chunk, float32 [g, n]."""
    plain = rtn_columns(columns, spec)
    importance = np.abs(columns)
    importance += np.sqrt(sum_blocks(columns * columns) / np.float32(len(columns)))
    scales, zeros = _search(columns, importance, plain, spec)
    found = _refit(columns, importance, scales, zeros, spec)
    better = _error(columns, importance, found) < _error(columns, importance, plain)
    return Columns(
        np.where(better, found.codes, plain.codes),
        np.where(better, found.scales, plain.scales),
        np.where(better, found.zeros, plain.zeros),
    )


def _candidates(columns: Floats, spec: QuantSpec) -> Iterator[tuple[Floats, Floats]]:
    """Yields the candidates: reciprocal scales and zero points, float32 [n] each."""
    if spec.symmetric:
        extremes = signed_extremes(columns, spec)
        for offset in _SYMMETRIC_OFFSETS:
            yield np.float32(-spec.middle_code - offset) / extremes, np.full_like(extremes, spec.middle_code)
        return
    low, high = block_ranges(columns, spec)
    for offset in _ASYMMETRIC_OFFSETS:
        reciprocals = np.float32(spec.max_code + offset) / (high - low)
        yield reciprocals, np.clip(np.rint(-low * reciprocals), 0, spec.max_code)


def _search(columns: Floats, importance: Floats, start: Columns, spec: QuantSpec) -> tuple[Floats, Floats]:
    """Finds the best candidate of each block.

    With codes q fixed and the scale fitted, the error is sum(i*w*w) - a*a/b, where a = sum(i*w*q), b = sum(i*q*q).
    The first term is the same for all candidates, so the largest a*a/b wins.

    Returns:
        Scales and zero points, float32 [n] each; those of `start` where no candidate has a usable fit.
    """
    scales, zeros = start.scales.copy(), start.zeros.copy()
    best = np.zeros_like(scales)
    signed, scratch = np.empty_like(columns), (np.empty_like(columns), np.empty_like(columns))
    for reciprocals, candidate_zeros in _candidates(columns, spec):
        np.multiply(columns, reciprocals, out=signed)
        np.rint(signed, out=signed)
        # np.clip with arrays for bounds takes twice as long.
        np.maximum(signed, -candidate_zeros, out=signed)
        np.minimum(signed, spec.max_code - candidate_zeros, out=signed)
        fitted, gain = _fit(columns, importance, signed, scratch)
        improved = gain > best
        np.copyto(best, gain, where=improved)
        np.copyto(scales, fitted, where=improved)
        np.copyto(zeros, candidate_zeros, where=improved)
    return scales, zeros


def _fit(columns: Floats, importance: Floats, signed: Floats, scratch: tuple[Floats, Floats]) -> tuple[Floats, Floats]:
    """Fits the scale to the codes `signed` = code - zero, float32 [g, n]; overwrites `scratch`, two such arrays.

    Returns:
        The scales that make the weighted squared error least, and by how much they lower it against all-zero codes;
        where no scale of normal size fits, the second is 0.
    """
    weighted = np.multiply(importance, signed, out=scratch[0])
    signed_square = sum_blocks(np.multiply(weighted, signed, out=scratch[1]))
    product = sum_blocks(np.multiply(weighted, columns, out=scratch[0]))
    signed_square[signed_square == 0] = 1
    fitted: Floats = product / signed_square
    gain: Floats = product * fitted
    gain[np.abs(fitted) < SMALLEST_SCALE] = 0
    return fitted, gain


def _refit(columns: Floats, importance: Floats, scales: Floats, zeros: Floats, spec: QuantSpec) -> Columns:
    """Rounds to the nearest codes, fits the scale to them, and rounds once more; neither step raises the error."""
    codes = encode(columns, scales, zeros, spec)
    scratch = (np.empty_like(columns), np.empty_like(columns))
    fitted, gain = _fit(columns, importance, codes - zeros, scratch)
    scales = np.where(gain > 0, fitted, scales)
    return Columns(encode(columns, scales, zeros, spec), scales, zeros)


def _error(columns: Floats, importance: Floats, quantized: Columns) -> Floats:
    """Gives the weighted squared error of each block, float32 [n]."""
    difference = quantized.codes - quantized.zeros
    difference *= quantized.scales
    difference -= columns
    difference *= difference
    difference *= importance
    return sum_blocks(difference)
