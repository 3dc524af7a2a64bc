"""The frame all algorithms run in: a weight goes through in chunks of rows, with one block per column.

Inside a chunk the array is [g, n]: the g weights of a block below each other, the n blocks side by side. NumPy then
works on long contiguous rows, which is three times as fast as blocks of 32 along the last axis. A chunk stays in the
cache, and so does everything an algorithm derives from it, which also bounds the memory.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from phiforge.quantize.spec import Quantized, QuantSpec, check_shape

Floats = NDArray[np.float32]

CHUNK_WEIGHTS = 1 << 16
# The smallest normal float32. A scale below it loses digits and its reciprocal overflows.
SMALLEST_SCALE = np.finfo(np.float32).tiny


class Columns(NamedTuple):
    """n quantized blocks.

    Attributes:
        codes: float32 [g, n], whole numbers from 0 to spec.max_code.
        scales: float32 [n].
        zeros: float32 [n], whole numbers from 0 to spec.max_code.
    """

    codes: Floats
    scales: Floats
    zeros: Floats


ColumnQuantizer = Callable[[Floats, QuantSpec], Columns]


def quantize_by_chunks(weight: Floats, spec: QuantSpec, quantize_columns: ColumnQuantizer) -> Quantized:
    """Quantizes a weight chunk by chunk.

    Args:
        weight: float32 [N, K], not changed.
        spec: The specification.
        quantize_columns: Quantizes the blocks of one chunk, each independently of its neighbours, so that the result
            does not depend on where the chunks are cut.

    Raises:
        ValueError: The weight is not float32, has no whole blocks, or holds a value that is not finite.
    """
    rows, columns = check_shape(weight.shape, spec)
    if weight.dtype != np.float32:
        raise ValueError(f"the weight has dtype {weight.dtype}; float32 is needed")
    blocks = columns // spec.block_size
    codes = np.empty((rows, columns), np.uint8)
    scales = np.empty((rows, blocks), np.float32)
    zeros = None if spec.symmetric else np.empty((rows, blocks), np.uint8)
    step = max(1, CHUNK_WEIGHTS // columns)
    for start in range(0, rows, step):
        chunk = slice(start, min(start + step, rows))
        # Values that are not finite are found by their scales below, and NumPy need not warn about them.
        with np.errstate(over="ignore", invalid="ignore"):
            done = quantize_columns(_to_columns(weight[chunk], spec.block_size), spec)
        scales[chunk] = done.scales.reshape(-1, blocks)
        if not np.isfinite(scales[chunk]).all():
            raise ValueError(f"rows {chunk.start} to {chunk.stop - 1} of the weight hold values that are not finite")
        codes[chunk] = done.codes.astype(np.uint8).T.reshape(-1, columns)
        if zeros is not None:
            zeros[chunk] = done.zeros.reshape(-1, blocks)
    return Quantized(codes, scales, zeros, spec)


def encode(columns: Floats, scales: Floats, zeros: Floats, spec: QuantSpec) -> Floats:
    """Gives the nearest codes, clip(round(w / scale + zero)), as float32 [g, n].

    Halves go to the even code where blocks are asymmetric, as in Olive, and up where they are symmetric, as in ONNX
    Runtime, which also multiplies by 1 / scale; both to the bit.
    """
    if spec.symmetric:
        codes: Floats = columns * np.reciprocal(scales)
        codes += zeros + np.float32(0.5)
        np.floor(codes, out=codes)
    else:
        codes = columns / scales
        codes += zeros
        np.rint(codes, out=codes)
    np.clip(codes, 0, spec.max_code, out=codes)
    return codes


def sum_blocks(values: Floats) -> Floats:
    """Sums each column of [g, n] in pairs, then pairs of pairs, and so on; `values` is used up.

    The order of the additions is fixed by g alone. NumPy's own sum picks an order by the whole shape, so its last bits
    would change with the size of the chunk.

    Returns:
        float32 [n], a view into `values`.
    """
    height = values.shape[0]
    while height > 1:
        height //= 2
        np.add(values[:height], values[height : 2 * height], out=values[:height])
    total: Floats = values[0]
    return total


def _to_columns(rows: Floats, block_size: int) -> Floats:
    return np.ascontiguousarray(rows.reshape(-1, block_size).T)
