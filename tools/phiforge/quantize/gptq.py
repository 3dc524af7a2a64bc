"""GPTQ: columns are quantized one after another, and those still to come make up for the errors of those before.

With H = V V^T, V upper triangular, and d = quantized - original of one row, the output error is |d V|^2. Entry k of
d V contains d_1 to d_k only, so each column can be asked to cancel what came before it: its target is
w_k - (sum over j < k of d_j V_jk) / V_kk, and what remains is V_kk times its rounding error. This is the method of
Frantar et al., 2022 (https://arxiv.org/abs/2210.17323). The paper takes U = V^-1, the Cholesky factor of the inverse,
and pushes each error forward; here errors are collected from behind, which needs neither the inverse nor a second
factorization, and rounds less. Only inside 128 columns the errors are pushed forward as in the paper.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from phiforge.quantize.blocks import Floats, NotFiniteError, encode
from phiforge.quantize.parameters import Search, block_parameters
from phiforge.quantize.spec import Quantized, QuantSpec, check_shape

# Rows that go through together, however many the caller gives. BLAS may round a row differently in a matrix of another
# width, so the width is always this one, filled up with zeros.
ROW_TILE = 512
_PUSH_COLUMNS = 128
_FACTOR_COLUMNS = 256
# A Hessian without a Cholesky factor is damped this many times as much.
_DAMPING_FACTORS = (1.0, 10.0, 100.0, 1000.0)
# Candidate scales of the search, in units of the scale that just covers the range.
_STRETCHES = (1.1, 1.05, 1.0, 0.95, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2)
_SEARCH_WEIGHTS = 1 << 16
# The smallest normal float32; a scale below it loses digits.
_SMALLEST_SCALE = np.finfo(np.float32).tiny


@dataclass(frozen=True, eq=False)
class Factor:
    """A Hessian made ready; it serves all weights that read the same input.

    Attributes:
        triangle: float32 [K, K], V in the order of processing. What stands below its diagonal means nothing.
        importance: float32 [K], the damped diagonal of the Hessian, columns as in the weight.
        order: int64 [K], which column comes first, second and so on; None where they come as they stand.
        damping: The share of the mean diagonal that was added in the end.
    """

    triangle: Floats
    importance: Floats
    order: NDArray[np.int64] | None
    damping: float


def quantize_gptq(
    weight: Floats,
    hessian: Floats,
    spec: QuantSpec,
    *,
    act_order: bool = False,
    damping: float = 0.01,
    search: Search = "rtn",
) -> Quantized:
    """Quantizes a weight so that its outputs on the calibration inputs stay close: `factorize`, then `quantize_with`.

    Args:
        weight: float32 [N, K], not changed.
        hessian: float32 [K, K], the sum of x x^T over the calibration tokens, or any multiple of it; not changed.
        spec: The specification.
        act_order: Whether the columns with the largest inputs come first.
        damping: The share of the Hessian's mean diagonal that is added to its diagonal.
        search: How scales and zero points are found; see `quantize_with`.

    Raises:
        DependencyMissingError: numba is not installed.
        ValueError: The arrays do not fit, hold values that are not finite, or the Hessian has no Cholesky factor.
    """
    return quantize_with(factorize(hessian, act_order=act_order, damping=damping), weight, spec, search=search)


def factorize(hessian: Floats, *, act_order: bool = False, damping: float = 0.01) -> Factor:
    """Prepares a Hessian. The result is one more K x K float32 array, 268 MB for K = 8192, and so is the memory.

    A column that calibration never fed has only the damping on its diagonal and is rounded to nearest. The paper's
    code sets it to zero; here an input that calibration did not meet still finds its weight.

    Args:
        hessian: float32 [K, K] as for `quantize_gptq`; symmetric, which is not checked.
        act_order: As for `quantize_gptq`.
        damping: As for `quantize_gptq`.

    Raises:
        ValueError: The Hessian is not a finite square float32 matrix, the damping is not positive, or there is no
            Cholesky factor even with a thousand times the damping.
    """
    if hessian.ndim != 2 or hessian.shape[0] != hessian.shape[1] or hessian.dtype != np.float32:
        raise ValueError(f"the Hessian is {hessian.dtype} {hessian.shape}; a square float32 matrix is needed")
    if not damping > 0:
        raise ValueError(f"damping is {damping}; it must be above 0")
    if not np.isfinite(hessian).all():
        raise ValueError("the Hessian holds values that are not finite")
    diagonal = hessian.diagonal()
    order = np.argsort(-diagonal, kind="stable") if act_order else None
    mean = float(diagonal.mean(dtype=np.float64)) or 1.0
    for factor in _DAMPING_FACTORS:
        added = np.float32(damping * factor * mean)
        triangle = hessian.copy() if order is None else hessian[np.ix_(order, order)]
        np.fill_diagonal(triangle, triangle.diagonal() + added)
        try:
            _factorize_in_place(triangle)
        except np.linalg.LinAlgError:
            continue
        return Factor(triangle, diagonal + added, order, damping * factor)
    raise ValueError(f"the Hessian has no Cholesky factor, even with a damping of {damping * _DAMPING_FACTORS[-1]:g}")


def quantize_with(factor: Factor, rows: Floats, spec: QuantSpec, *, search: Search = "rtn") -> Quantized:
    """Quantizes rows of a weight, each for itself.

    Scale and zero point of a block are found when its first column is reached, on weights that already make up for
    the errors before. With `act_order` they are found before anything else, on the weights as they are, since a
    block's columns come at different times; so they are per channel.

    Memory beyond arguments and result: about two arrays of K x `ROW_TILE` float32 with a byte a code, 40 MB for
    K = 8192. The same processor and number of BLAS threads give the same bits.

    Args:
        factor: The prepared Hessian.
        rows: float32 [n, K], not changed. Cut at multiples of `ROW_TILE`, a weight gives the same bits as in one
            piece; cut elsewhere, a value that falls between two codes may go to the other one on some processors.
        spec: The specification.
        search: "rtn" takes the range of the block. "k-quant" is k-quant's least-squares fit with the Hessian's
            diagonal as importance, over scales that clip up to four fifths of the range.

    Raises:
        DependencyMissingError: numba is not installed.
        ValueError: The rows are not float32, do not fit the factor or the specification, or are not finite.
    """
    count, size = check_shape(rows.shape, spec)
    if rows.dtype != np.float32:
        raise ValueError(f"the weight has dtype {rows.dtype}; float32 is needed")
    if size != len(factor.triangle):
        raise ValueError(f"the weight has {size} columns, but the Hessian has {len(factor.triangle)}")
    sweep = _Sweep(factor, spec, search, _inverse_blocks(factor.triangle, max(_PUSH_COLUMNS, spec.block_size)))
    blocks = size // spec.block_size
    codes = np.empty((count, size), np.uint8)
    scales = np.empty((count, blocks), np.float32)
    zeros = None if spec.symmetric else np.empty((count, blocks), np.uint8)
    for start in range(0, count, ROW_TILE):
        part = slice(start, min(start + ROW_TILE, count))
        if not np.isfinite(rows[part]).all():
            raise NotFiniteError(part.start, part.stop - 1)
        # Sums that leave float32's range make the search fall back to the block's range.
        with np.errstate(over="ignore", invalid="ignore"):
            done = _quantize_tile(rows[part], sweep)
        codes[part] = done.codes[:, : part.stop - start].T
        scales[part] = done.scales[:, : part.stop - start].T
        if zeros is not None:
            zeros[part] = done.zeros[:, : part.stop - start].T
    return Quantized(codes, scales, zeros, spec)


class _Sweep(NamedTuple):
    """What all tiles of a weight share; `inverses` are the blocks on the diagonal of U = V^-1."""

    factor: Factor
    spec: QuantSpec
    search: Search
    inverses: list[Floats]


class _Tile(NamedTuple):
    """ROW_TILE quantized rows, transposed: codes uint8 [K, ROW_TILE], the others float32 [K/g, ROW_TILE]."""

    codes: NDArray[np.uint8]
    scales: Floats
    zeros: Floats


def _factorize_in_place(matrix: Floats) -> None:
    """Turns the upper triangle of a symmetric positive definite matrix into V, V V^T = the matrix.

    It goes from the last columns to the first: matrix products in single precision, small factors in double.
    """
    for stop in range(len(matrix), 0, -_FACTOR_COLUMNS):
        start = max(0, stop - _FACTOR_COLUMNS)
        later = matrix[:stop, stop:]
        panel = matrix[:stop, start:stop] - later @ later[start:].T
        # The ordinary Cholesky factor, seen from the matrix's other corner.
        corner = np.linalg.cholesky(panel[start:].astype(np.float64)[::-1, ::-1])[::-1, ::-1]
        matrix[:start, start:stop] = panel[:start] @ np.linalg.inv(corner).T.astype(np.float32)
        matrix[start:stop, start:stop] = corner


def _inverse_blocks(triangle: Floats, width: int) -> list[Floats]:
    """Inverts the blocks on the diagonal of V; they are the blocks on the diagonal of its inverse."""
    cuts = (slice(start, start + width) for start in range(0, len(triangle), width))
    return [np.linalg.inv(np.triu(triangle[cut, cut]).astype(np.float64)).astype(np.float32) for cut in cuts]


def _quantize_tile(rows: Floats, sweep: _Sweep) -> _Tile:
    factor, spec = sweep.factor, sweep.spec
    size = len(factor.triangle)
    columns = np.zeros((size, ROW_TILE), np.float32)
    columns[:, : len(rows)] = rows.T
    shape = (size // spec.block_size, ROW_TILE)
    tile = _Tile(np.empty((size, ROW_TILE), np.uint8), np.empty(shape, np.float32), np.empty(shape, np.float32))
    if spec.per_channel or factor.order is not None:
        for start in range(0, size, size if spec.per_channel else spec.block_size):
            _set_parameters(tile, columns[start:], start, sweep)
    if factor.order is not None:
        columns = columns[factor.order]
    start = 0
    for inverse in sweep.inverses:
        stop = start + len(inverse)
        # The columns before `start` hold quantized - original by now.
        behind = factor.triangle[:start, start:stop].T @ columns[:start]
        targets = columns[start:stop] - inverse.T @ behind
        columns[start:stop] = _push_through(targets, inverse, start, tile, sweep) - columns[start:stop]
        start = stop
    return tile


def _push_through(targets: Floats, inverse: Floats, start: int, tile: _Tile, sweep: _Sweep) -> Floats:
    """Quantizes some columns, each error pushed on to the columns after it; writes their codes to the tile.

    Args:
        targets: float32 [count, ROW_TILE], used up.
        inverse: float32 [count, count], their block of U.
        start: Where the first of them stands in the order.
        tile: The tile that codes, and parameters where they are not there yet, are written to.
        sweep: What all tiles share.

    Returns:
        float32 [count, ROW_TILE], the quantized values.
    """
    order, spec = sweep.factor.order, sweep.spec
    values = np.empty_like(targets)
    for at in range(len(targets)):
        column = start + at if order is None else int(order[start + at])
        block = column // spec.block_size
        if order is None and not spec.per_channel and column % spec.block_size == 0:
            _set_parameters(tile, targets[at:], column, sweep)
        codes = encode(targets[at : at + 1], tile.scales[block], tile.zeros[block], spec)[0]
        tile.codes[column] = codes
        np.multiply(codes - tile.zeros[block], tile.scales[block], out=values[at])
        error = (targets[at] - values[at]) / inverse[at, at]
        targets[at + 1 :] -= inverse[at, at + 1 :, None] * error
    return values


def _set_parameters(tile: _Tile, weights: Floats, start: int, sweep: _Sweep) -> None:
    """Finds scale and zero point of the block, or per channel of the row, that starts at column `start`.

    Args:
        tile: The tile that they are written to.
        weights: float32 [at least g, ROW_TILE], the block's weights come first.
        start: The block's first column.
        sweep: What all tiles share.
    """
    spec = sweep.spec
    height = len(sweep.factor.importance) if spec.per_channel else spec.block_size
    blocks = slice(start // spec.block_size, (start + height) // spec.block_size)
    importance = sweep.factor.importance[start : start + height]
    step = max(1, _SEARCH_WEIGHTS // height)
    for first in range(0, ROW_TILE, step):
        rows = slice(first, first + step)
        part = np.ascontiguousarray(weights[:height, rows])
        scales, zeros = block_parameters(part, spec, "rtn")
        if sweep.search == "k-quant":
            scales, zeros = _search(part, importance, scales, zeros, spec)
        tile.scales[blocks, rows] = scales
        tile.zeros[blocks, rows] = zeros


def _search(
    columns: Floats, importance: Floats, scales: Floats, zeros: Floats, spec: QuantSpec
) -> tuple[Floats, Floats]:
    """Finds parameters with a lower weighted squared error than those given; where there are none, gives those back.

    Each candidate is judged by the scale that fits its codes best, as in `kquant.quantize_kquant`: q = code - zero,
    scale = sum(i*w*q) / sum(i*q*q), and the larger sum(i*w*q)^2 / sum(i*q*q), the lower the error.

    Args:
        columns: float32 [g, n], the blocks.
        importance: float32 [g], what an error of each weight counts.
        scales: float32 [n], those of round to nearest.
        zeros: float32 [n], likewise.
        spec: Bits and symmetry.
    """
    found_scales, found_zeros, best = scales.copy(), zeros.copy(), np.zeros_like(scales)
    weighted = importance[:, None] * columns
    for stretch in _STRETCHES:
        stretched = scales * np.float32(stretch)
        rounded = np.rint(columns / stretched)
        for candidate in _zero_candidates(columns, stretched, zeros, spec):
            signed = np.minimum(np.maximum(rounded, -candidate), spec.max_code - candidate)
            fitted, gain = _fit(weighted, importance, signed)
            better = gain > best
            np.copyto(best, gain, where=better)
            np.copyto(found_scales, fitted, where=better)
            np.copyto(found_zeros, candidate, where=better)
    # Nearest codes for the fitted scale, and the scale that fits those; neither step raises the error.
    fitted, gain = _fit(weighted, importance, encode(columns, found_scales, found_zeros, spec) - found_zeros)
    found_scales = np.where(gain > 0, fitted, found_scales)
    plain = _error(columns, importance, scales, zeros, spec)
    better = _error(columns, importance, found_scales, found_zeros, spec) < plain
    return np.where(better, found_scales, scales), np.where(better, found_zeros, zeros)


def _zero_candidates(columns: Floats, scales: Floats, zeros: Floats, spec: QuantSpec) -> Iterator[Floats]:
    """Yields the zero points that clip both ends of the range alike, and where blocks have their own, one end only."""
    yield zeros
    if not spec.symmetric:
        low = np.minimum(columns.min(axis=0), 0)
        high = np.maximum(columns.max(axis=0), 0)
        yield np.clip(np.rint(-low / scales), 0, spec.max_code)
        yield np.clip(np.rint(spec.max_code - high / scales), 0, spec.max_code)


def _fit(weighted: Floats, importance: Floats, signed: Floats) -> tuple[Floats, Floats]:
    """Gives the scales that fit q = `signed` best, and how much they lower the error; 0 where none of normal size."""
    product = (weighted * signed).sum(axis=0)
    square = importance @ (signed * signed)
    fitted: Floats = product / np.where(square > 0, square, 1)
    gain: Floats = product * fitted
    gain[np.abs(fitted) < _SMALLEST_SCALE] = 0
    return fitted, gain


def _error(columns: Floats, importance: Floats, scales: Floats, zeros: Floats, spec: QuantSpec) -> Floats:
    difference = encode(columns, scales, zeros, spec) - zeros
    difference *= scales
    difference -= columns
    difference *= difference
    error: Floats = importance @ difference
    return error
