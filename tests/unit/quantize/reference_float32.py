"""The quantizers in NumPy's single precision: every operation and its order are those that the compiled code promises.

The compiled code must give the same bits. It would not if its compiler reordered a sum or contracted a product and a
sum into one rounding, which NumPy, going operation by operation, cannot do. Whether the algorithm is the right one is
for `reference` to say.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from phiforge.quantize.blocks import encode
from phiforge.quantize.spec import QuantSpec

Floats = NDArray[np.float32]
TINY = np.finfo(np.float32).tiny


def range_parameters(columns: Floats, spec: QuantSpec) -> tuple[Floats, Floats]:
    """Scales and zero points of round to nearest for blocks [g, n]."""
    if spec.symmetric:
        extremes = _signed_extremes(columns, spec)
        return extremes / np.float32(-spec.middle_code), np.full_like(extremes, spec.middle_code)
    low, high = _ranges(columns, spec)
    scales = (high - low) / np.float32(spec.max_code)
    return scales, np.clip(np.rint(-low / scales), 0, spec.max_code)


def search_parameters(columns: Floats, spec: QuantSpec, importance: Floats | None = None) -> tuple[Floats, Floats]:
    """Scales and zero points of k-quant for blocks [g, n]."""
    if importance is None:
        importance = np.abs(columns) + np.sqrt(_sum(columns * columns) / np.float32(len(columns)))
    plain = range_parameters(columns, spec)
    scales, zeros = plain[0].copy(), plain[1].copy()
    best = np.zeros_like(scales)
    for reciprocals, candidate in _candidates(columns, spec):
        signed = np.clip(np.rint(columns * reciprocals), -candidate, spec.max_code - candidate)
        fitted, gain = _fit(columns, importance, signed)
        better = gain > best
        best = np.where(better, gain, best)
        scales, zeros = np.where(better, fitted, scales), np.where(better, candidate, zeros)
    fitted, gain = _fit(columns, importance, encode(columns, scales, zeros, spec) - zeros)
    scales = np.where(gain > 0, fitted, scales)
    better = _error(columns, importance, scales, zeros, spec) < _error(columns, importance, *plain, spec)
    return np.where(better, scales, plain[0]), np.where(better, zeros, plain[1])


def _candidates(columns: Floats, spec: QuantSpec) -> list[tuple[Floats, Floats]]:
    if spec.symmetric:
        extremes = _signed_extremes(columns, spec)
        zeros = np.full_like(extremes, spec.middle_code)
        return [(np.float32(-spec.middle_code - 0.1 * step) / extremes, zeros) for step in range(-9, 10)]
    low, high = _ranges(columns, spec)
    reciprocals = [np.float32(spec.max_code + (-1.0 + 0.1 * step)) / (high - low) for step in range(20)]
    return [(each, np.clip(np.rint(-low * each), 0, spec.max_code)) for each in reciprocals]


def _fit(columns: Floats, importance: Floats, signed: Floats) -> tuple[Floats, Floats]:
    weighted = importance * signed
    square, product = _sum(weighted * signed), _sum(weighted * columns)
    square[square == 0] = 1
    fitted: Floats = product / square
    return fitted, np.where(np.abs(fitted) < TINY, np.float32(0), product * fitted)


def _error(columns: Floats, importance: Floats, scales: Floats, zeros: Floats, spec: QuantSpec) -> Floats:
    difference = (encode(columns, scales, zeros, spec) - zeros) * scales - columns
    return _sum(difference * difference * importance)


def _ranges(columns: Floats, spec: QuantSpec) -> tuple[Floats, Floats]:
    low, high = np.minimum(columns.min(axis=0), 0), np.maximum(columns.max(axis=0), 0)
    empty = high - low < TINY * spec.max_code
    return np.where(empty, np.float32(-1), low), np.where(empty, np.float32(1), high)


def _signed_extremes(columns: Floats, spec: QuantSpec) -> Floats:
    low, high = columns.min(axis=0), columns.max(axis=0)
    extremes = np.where(np.abs(high) > np.abs(low), high, low)
    return np.where(np.abs(extremes) < TINY * spec.middle_code, np.float32(1), extremes)


def _sum(values: Floats) -> Floats:
    """Sums the columns: halves of the block onto each other while that goes, then the rest in order."""
    while len(values) % 2 == 0:
        values = values[: len(values) // 2] + values[len(values) // 2 :]
    total: Floats = values[0]
    for row in values[1:]:
        total = total + row
    return total
