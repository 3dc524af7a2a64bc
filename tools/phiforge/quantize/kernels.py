"""The inner loops, compiled by numba.

Imported only where a weight is really quantized, after `blocks.require_numba`, so that an install without numba can do
everything else. All compiled code is in this one file: numba's cache notices changes of the file that a function is in,
and of no other.

The bytes do not depend on the processor. Without fastmath LLVM neither reorders sums nor contracts a product and a sum
into one rounding, and IEEE 754 rounds every operation used here correctly. The inner loops become vector instructions
nonetheless, because none of them adds up floats: ranges are found on integers, and sums run over many blocks side by
side ("lanes"), in an order that the size of a block alone decides. Numbers are named or cast, since a bare 0.5 would
make a double of everything it touches.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar, cast

import numba
import numpy as np
from numpy.typing import NDArray

from phiforge.quantize.spec import BLOCK_SIZES

Function = TypeVar("Function", bound=Callable[..., object])
Bits = NDArray[np.int32]
Codes = NDArray[np.uint8]
Floats = NDArray[np.float32]

ZERO, HALF, ONE = np.float32(0), np.float32(0.5), np.float32(1)
# The smallest normal float32. A scale below it loses digits and its reciprocal overflows.
TINY = np.finfo(np.float32).tiny
MAGNITUDE, SIGN = np.uint32(0x7FFFFFFF), np.uint32(0x80000000)
# Blocks that the search has side by side: enough for full vectors, few enough for its arrays to stay in the cache.
LANES, LANES_OF_ROWS = 64, 16
LARGEST_BLOCK = max(BLOCK_SIZES)


def _compiled(function: Function) -> Function:
    try:
        decorate = numba.njit(nogil=True, cache=True, fastmath=False, error_model="numpy")
        return cast("Function", decorate(function))
    except RuntimeError:
        # Neither this folder, nor NUMBA_CACHE_DIR, nor the user's cache can be written: every process compiles anew.
        decorate = numba.njit(nogil=True, cache=False, fastmath=False, error_model="numpy")
        return cast("Function", decorate(function))


@_compiled
def range_parameters(blocks: Floats, top: np.float32, middle: np.float32, symmetric: bool, out: Floats) -> None:
    """Writes scale and zero point of round to nearest; `rtn.quantize_rtn` has the formulas.

    Args:
        blocks: float32 [n, g].
        top: The largest code.
        middle: The zero point of symmetric blocks.
        symmetric: Whether blocks are symmetric.
        out: float32 [2, n]: scales, not finite where a weight is not, and zero points.
    """
    bits = blocks.view(np.int32)
    for block in range(len(blocks)):
        low, extent = _low_and_extent(bits, block, top, middle, symmetric)
        if symmetric:
            out[0, block] = extent / -middle
            out[1, block] = middle
        else:
            scale = extent / top
            out[0, block] = scale
            out[1, block] = _clip(np.rint(-low / scale), ZERO, top)


@_compiled
def encode(blocks: Floats, parameters: Floats, top: np.float32, symmetric: bool, codes: Codes) -> None:
    """Writes the nearest codes, uint8 [n, g], to `parameters`, float32 [2, n]; `blocks.encode` has the formulas."""
    for block in range(len(blocks)):
        scale, zero = parameters[0, block], parameters[1, block]
        if symmetric:
            factor = ONE / scale
            for column in range(blocks.shape[1]):
                codes[block, column] = np.uint8(np.int32(_code_up(blocks[block, column], factor, zero, top)))
        else:
            for column in range(blocks.shape[1]):
                codes[block, column] = np.uint8(np.int32(_code_even(blocks[block, column], scale, zero, top)))


@_compiled
def search_parameters(
    blocks: Floats,
    importance: Floats,
    numerators: Floats,
    top: np.float32,
    middle: np.float32,
    symmetric: bool,
    out: Floats,
) -> None:
    """Writes scale and zero point of k-quant; `kquant.quantize_kquant` has the method.

    With codes q fixed and the scale fitted, the error is sum(i*w*w) - a*a/b, where a = sum(i*w*q), b = sum(i*q*q).
    The first term is the same for all candidates, so the largest a*a/b wins.

    Args:
        blocks: float32 [n, g], g a multiple of 4.
        importance: float32 [n, g], or [0, 0] for rms(block) + |w|.
        numerators: float32 [candidates]: a candidate's scale is the block's extent divided by it.
        top: The largest code.
        middle: The zero point of symmetric blocks.
        symmetric: Whether blocks are symmetric.
        out: float32 [2, n], scales and zero points of round to nearest; overwritten where the search found better.
    """
    count, size = blocks.shape
    bits = blocks.view(np.int32)
    lanes = LANES if size <= LARGEST_BLOCK else LANES_OF_ROWS
    weights, weighting = _new(size, lanes), _new(size, lanes)
    product, square = _new(size // 4, lanes), _new(size // 4, lanes)
    plain, best, candidate, extents = _new(2, lanes), _new(2, lanes), _new(2, lanes), _new(2, lanes)
    gain = _new(1, lanes)[0]
    for start in range(0, count, lanes):
        _load(blocks, start, weights)
        if len(importance):
            _load(importance, start, weighting)
        else:
            _weigh(weights, product, weighting)
        for lane in range(lanes):
            block = min(start + lane, count - 1)
            extents[0, lane], extents[1, lane] = _low_and_extent(bits, block, top, middle, symmetric)
            plain[0, lane], plain[1, lane] = out[0, block], out[1, block]
            best[0, lane], best[1, lane] = out[0, block], out[1, block]
            gain[lane] = ZERO
        for numerator in numerators:
            _propose(numerator, extents, top, middle, symmetric, candidate)
            _fit_candidate(weights, weighting, candidate, top, product, square)
            _keep_better(product[0], square[0], candidate[1], gain, best)
        # Round to the nearest codes, fit the scale to them, and round once more; neither step raises the error.
        _fit_nearest(weights, weighting, best, top, symmetric, product, square)
        for lane in range(lanes):
            gain[lane] = ZERO
        _keep_better(product[0], square[0], best[1], gain, best)
        _add_up_errors(weights, weighting, best, top, symmetric, product)
        _add_up_errors(weights, weighting, plain, top, symmetric, square)
        for lane in range(min(lanes, count - start)):
            if product[0, lane] < square[0, lane]:
                out[0, start + lane] = best[0, lane]
                out[1, start + lane] = best[1, lane]


@_compiled
def _new(rows: int, lanes: int) -> Floats:
    return np.empty((rows, lanes), np.float32)


@_compiled
def _clip(value: np.float32, low: np.float32, high: np.float32) -> np.float32:
    value = value if value > low else low
    return value if value < high else high


@_compiled
def _code_even(weight: np.float32, scale: np.float32, zero: np.float32, top: np.float32) -> np.float32:
    return _clip(np.rint(weight / scale + zero), ZERO, top)


@_compiled
def _code_up(weight: np.float32, factor: np.float32, zero: np.float32, top: np.float32) -> np.float32:
    return _clip(np.floor(weight * factor + (zero + HALF)), ZERO, top)


@_compiled
def _low_and_extent(
    bits: Bits, block: int, top: np.float32, middle: np.float32, symmetric: bool
) -> tuple[np.float32, np.float32]:
    """Gives min(w, 0) and max(w, 0) - min(w, 0) of a block; if symmetric, 0 and the weight of largest magnitude.

    As integers, positive floats are ordered as they are, and negative ones by their magnitude above all positive ones
    if the sign counts as a digit. NaN is above infinity, so it comes through. A block too small to have a scale
    gets -1 and 2, as in Olive, or 1.
    """
    largest, smallest = np.int32(0), np.uint32(0)
    for column in range(bits.shape[1]):
        largest = max(largest, bits[block, column])
        smallest = max(smallest, np.uint32(bits[block, column]))
    smallest = smallest if smallest >= SIGN else np.uint32(0)
    low, high = np.uint32(smallest).view(np.float32), np.int32(largest).view(np.float32)
    if symmetric:
        extreme = low if (smallest & MAGNITUDE) >= np.uint32(largest) else high
        return ZERO, (ONE if abs(extreme) < TINY * middle else extreme)
    if high - low < TINY * top:
        return -ONE, ONE + ONE
    return low, high - low


@_compiled
def _load(blocks: Floats, start: int, out: Floats) -> None:
    """Copies blocks, one a column; the last one fills columns that have none."""
    last = len(blocks) - 1
    for row in range(out.shape[0]):
        for lane in range(out.shape[1]):
            out[row, lane] = blocks[min(start + lane, last), row]


@_compiled
def _weigh(weights: Floats, scratch: Floats, out: Floats) -> None:
    """Writes rms(block) + |w|."""
    quarter, lanes = scratch.shape
    size = np.float32(len(weights))
    for row in range(quarter):
        for lane in range(lanes):
            first, second = weights[row, lane], weights[row + quarter, lane]
            third, fourth = weights[row + 2 * quarter, lane], weights[row + 3 * quarter, lane]
            scratch[row, lane] = (first * first + third * third) + (second * second + fourth * fourth)
    _sum(scratch)
    for row in range(len(weights)):
        for lane in range(lanes):
            out[row, lane] = abs(weights[row, lane]) + np.sqrt(scratch[0, lane] / size)


@_compiled
def _sum(values: Floats) -> None:
    """Sums each column into the first row: in pairs, then pairs of pairs, and so on; an odd rest in order.

    Whoever fills `values` adds up four quarters of a block in the same way, so the order is the same from the start.
    """
    height, lanes = values.shape
    while height % 2 == 0:
        height //= 2
        for row in range(height):
            for lane in range(lanes):
                values[row, lane] += values[row + height, lane]
    for row in range(1, height):
        for lane in range(lanes):
            values[0, lane] += values[row, lane]


@_compiled
def _propose(
    numerator: np.float32, extents: Floats, top: np.float32, middle: np.float32, symmetric: bool, out: Floats
) -> None:
    """Writes a candidate: the reciprocal of its scale, and its zero point."""
    for lane in range(out.shape[1]):
        reciprocal = numerator / extents[1, lane]
        out[0, lane] = reciprocal
        out[1, lane] = middle if symmetric else _clip(np.rint(-extents[0, lane] * reciprocal), ZERO, top)


@_compiled
def _fit_candidate(
    weights: Floats, weighting: Floats, candidate: Floats, top: np.float32, product: Floats, square: Floats
) -> None:
    """Does what `_fit` does for the codes of a candidate, which are never stored."""
    quarter, lanes = product.shape
    for row in range(quarter):
        second, third, fourth = row + quarter, row + 2 * quarter, row + 3 * quarter
        for lane in range(lanes):
            factor, zero = candidate[0, lane], candidate[1, lane]
            least, most = -zero, top - zero
            q1 = np.rint(_clip(weights[row, lane] * factor, least, most))
            q2 = np.rint(_clip(weights[second, lane] * factor, least, most))
            q3 = np.rint(_clip(weights[third, lane] * factor, least, most))
            q4 = np.rint(_clip(weights[fourth, lane] * factor, least, most))
            p1, s1 = _terms(weights[row, lane], weighting[row, lane], q1)
            p2, s2 = _terms(weights[second, lane], weighting[second, lane], q2)
            p3, s3 = _terms(weights[third, lane], weighting[third, lane], q3)
            p4, s4 = _terms(weights[fourth, lane], weighting[fourth, lane], q4)
            product[row, lane] = (p1 + p3) + (p2 + p4)
            square[row, lane] = (s1 + s3) + (s2 + s4)
    _sum(product)
    _sum(square)


@_compiled
def _fit_nearest(
    weights: Floats,
    weighting: Floats,
    parameters: Floats,
    top: np.float32,
    symmetric: bool,
    product: Floats,
    square: Floats,
) -> None:
    """Does what `_fit_candidate` does for the nearest codes."""
    quarter, lanes = product.shape
    for row in range(quarter):
        second, third, fourth = row + quarter, row + 2 * quarter, row + 3 * quarter
        for lane in range(lanes):
            scale, zero = parameters[0, lane], parameters[1, lane]
            q1 = _signed(weights[row, lane], scale, zero, top, symmetric)
            q2 = _signed(weights[second, lane], scale, zero, top, symmetric)
            q3 = _signed(weights[third, lane], scale, zero, top, symmetric)
            q4 = _signed(weights[fourth, lane], scale, zero, top, symmetric)
            p1, s1 = _terms(weights[row, lane], weighting[row, lane], q1)
            p2, s2 = _terms(weights[second, lane], weighting[second, lane], q2)
            p3, s3 = _terms(weights[third, lane], weighting[third, lane], q3)
            p4, s4 = _terms(weights[fourth, lane], weighting[fourth, lane], q4)
            product[row, lane] = (p1 + p3) + (p2 + p4)
            square[row, lane] = (s1 + s3) + (s2 + s4)
    _sum(product)
    _sum(square)


@_compiled
def _terms(weight: np.float32, weighting: np.float32, signed: np.float32) -> tuple[np.float32, np.float32]:
    weighted = weighting * signed
    return weighted * weight, weighted * signed


@_compiled
def _keep_better(product: Floats, square: Floats, zero: Floats, gain: Floats, best: Floats) -> None:
    """Takes over fitted scale and zero point where they gain more; a scale that is not normal gains nothing."""
    for lane in range(len(gain)):
        fitted = product[lane] / (ONE if square[lane] == ZERO else square[lane])
        found = ZERO if abs(fitted) < TINY else product[lane] * fitted
        better = found > gain[lane]
        gain[lane] = found if better else gain[lane]
        best[0, lane] = fitted if better else best[0, lane]
        best[1, lane] = zero[lane] if better else best[1, lane]


@_compiled
def _add_up_errors(
    weights: Floats, weighting: Floats, parameters: Floats, top: np.float32, symmetric: bool, out: Floats
) -> None:
    """Leaves the weighted squared error of each column's nearest codes in the first row of `out`."""
    quarter, lanes = out.shape
    for row in range(quarter):
        second, third, fourth = row + quarter, row + 2 * quarter, row + 3 * quarter
        for lane in range(lanes):
            scale, zero = parameters[0, lane], parameters[1, lane]
            e1 = _error(weights[row, lane], weighting[row, lane], scale, zero, top, symmetric)
            e2 = _error(weights[second, lane], weighting[second, lane], scale, zero, top, symmetric)
            e3 = _error(weights[third, lane], weighting[third, lane], scale, zero, top, symmetric)
            e4 = _error(weights[fourth, lane], weighting[fourth, lane], scale, zero, top, symmetric)
            out[row, lane] = (e1 + e3) + (e2 + e4)
    _sum(out)


@_compiled
def _error(
    weight: np.float32, weighting: np.float32, scale: np.float32, zero: np.float32, top: np.float32, symmetric: bool
) -> np.float32:
    difference = _signed(weight, scale, zero, top, symmetric) * scale - weight
    return difference * difference * weighting


@_compiled
def _signed(weight: np.float32, scale: np.float32, zero: np.float32, top: np.float32, symmetric: bool) -> np.float32:
    """Gives nearest code - zero point."""
    if symmetric:
        return _code_up(weight, ONE / scale, zero, top) - zero
    return _code_even(weight, scale, zero, top) - zero
