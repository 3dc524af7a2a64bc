"""The frame all algorithms run in: find scale and zero point of every block, then round each weight to its code.

A weight goes through in chunks of rows. They bound the memory, their rows are what an error message names, and between
two of them the interpreter can be interrupted.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from phiforge.errors import DependencyMissingError
from phiforge.quantize.spec import Quantized, QuantSpec, check_shape

Floats = NDArray[np.float32]

# So many that threads seldom wait for the interpreter: passing its lock on takes as long as 100,000 codes.
CHUNK_WEIGHTS = 1 << 20

# From float32 [n, g] to float32 [2, n], scales and zero points. Each block counts for itself, so that the result does
# not depend on where the chunks are cut.
ParameterFinder = Callable[[Floats, QuantSpec], Floats]


class NotFiniteError(ValueError):
    """A weight holds values that are not finite.

    Attributes:
        first: Where the rows begin that were quantized together.
        last: Where they end; this row is one of them.
    """

    def __init__(self, first: int, last: int) -> None:
        super().__init__(f"rows {first} to {last} of the weight hold values that are not finite")
        self.first, self.last = first, last


def quantize_by_chunks(weight: Floats, spec: QuantSpec, find_parameters: ParameterFinder) -> Quantized:
    """Quantizes a weight chunk by chunk.

    Args:
        weight: float32 [N, K], not changed.
        spec: The specification.
        find_parameters: Finds the parameters of the blocks of one chunk; with `spec.per_channel` a block is a row.

    Raises:
        DependencyMissingError: numba is not installed.
        ValueError: The weight is not float32, has no whole blocks, or holds a value that is not finite.
    """
    rows, columns = check_shape(weight.shape, spec)
    if weight.dtype != np.float32:
        raise ValueError(f"the weight has dtype {weight.dtype}; float32 is needed")
    require_numba()
    from phiforge.quantize.kernels import encode as encode_blocks

    size = columns if spec.per_channel else spec.block_size
    codes = np.empty((rows, columns), np.uint8)
    parameters = np.empty((2, rows, columns // size), np.float32)
    step = max(1, CHUNK_WEIGHTS // columns)
    for start in range(0, rows, step):
        chunk = slice(start, min(start + step, rows))
        blocks = contiguous(weight[chunk]).reshape(-1, size)
        found = find_parameters(blocks, spec)
        make_positive(found[0], spec)
        if not np.isfinite(found[0]).all():
            raise NotFiniteError(chunk.start, chunk.stop - 1)
        encode_blocks(blocks, found, np.float32(spec.max_code), spec.symmetric, codes[chunk].reshape(-1, size))
        parameters[:, chunk] = found.reshape(2, -1, columns // size)
    if spec.per_channel:
        parameters = parameters.repeat(columns // spec.block_size, axis=2)
    zeros = None if spec.symmetric else parameters[1].astype(np.uint8)
    return Quantized(codes, parameters[0], zeros, spec)


def make_positive(scales: Floats, spec: QuantSpec) -> None:
    """Replace the negative scales, in place, where the specification wants none, by the least that hold the block.

    A negative scale s takes the largest weight to the lowest code, -2^(bits-1); the positive one takes it to the
    highest, 2^(bits-1) - 1.
    """
    if spec.symmetric and spec.positive:
        grown = np.float32(spec.middle_code / (spec.max_code - spec.middle_code))
        np.multiply(scales, -grown, out=scales, where=scales < 0)


def encode(columns: Floats, scales: Floats, zeros: Floats, spec: QuantSpec) -> Floats:
    """Gives the nearest codes, clip(round(w / scale + zero)), as float32 [g, n] for n blocks below each other.

    Halves go to the even code where blocks are asymmetric, as in Olive, and up where they are symmetric, as in ONNX
    Runtime, which also multiplies by 1 / scale; both to the bit. For algorithms that change weights between codes;
    `quantize_by_chunks` has the same in compiled form.
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


def contiguous(values: Floats) -> Floats:
    """Gives the values as the compiled code wants them; a copy where they are strided or read-only."""
    return np.require(values, np.float32, ["C", "A", "W"])


def require_numba() -> None:
    """Raises unless the compiled code can be imported.

    Raises:
        DependencyMissingError: numba is not installed.
    """
    if importlib.util.find_spec("numba") is None:
        raise DependencyMissingError(
            "Quantizing needs numba, which is not installed.",
            why="The light install validates and runs packages; it does not build them.",
            fix='pip install -c constraints.txt "phiforge[build,cpu]"',
        )
