"""The registry of algorithms, and the entry points that spread one over threads."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from phiforge.quantize.blocks import NotFiniteError
from phiforge.quantize.kquant import quantize_kquant
from phiforge.quantize.packing import pack, packed_length
from phiforge.quantize.rtn import quantize_rtn
from phiforge.quantize.spec import Quantized, QuantSpec, check_shape

Quantizer = Callable[[NDArray[np.float32], QuantSpec], Quantized]

ALGORITHMS: dict[str, Quantizer] = {"rtn": quantize_rtn, "k-quant": quantize_kquant}

# More parts than threads, so that a thread that was held up does not make the others wait for long; and parts whose
# arrays the allocator hands out again and again, because fresh pages from the system cost more than rounding.
_PARTS_PER_THREAD = 4
_PART_WEIGHTS = 1 << 20


class Packed(NamedTuple):
    """A quantized weight [N, K] as it is stored.

    Attributes:
        codes: uint8 [N, K * bits / 8]; see `packing`.
        scales: float32 [N, K/g].
        zero_points: uint8 [N, ceil(K/g * bits / 8)], or None where the specification is symmetric.
    """

    codes: NDArray[np.uint8]
    scales: NDArray[np.float32]
    zero_points: NDArray[np.uint8] | None


def quantize_rows(weight: NDArray[np.float32], spec: QuantSpec, algorithm: str, threads: int = 1) -> Quantized:
    """Quantizes a weight on several threads; the result is the same, bit for bit, for any number of them.

    Args:
        weight: float32 [N, K], not changed.
        spec: The specification.
        algorithm: A name of `ALGORITHMS`.
        threads: Threads to use; the compiled code lets go of the interpreter lock.

    Raises:
        DependencyMissingError: numba is not installed.
        ValueError: The algorithm is unknown, `threads` is below 1, or the weight cannot be quantized.
    """
    quantize = _find(algorithm)
    rows, columns = check_shape(weight.shape, spec)
    blocks = columns // spec.block_size
    codes = np.empty((rows, columns), np.uint8)
    scales = np.empty((rows, blocks), np.float32)
    zeros = None if spec.symmetric else np.empty((rows, blocks), np.uint8)

    def quantize_part(part: slice) -> None:
        done = quantize(weight[part], spec)
        codes[part], scales[part] = done.codes, done.scales
        if zeros is not None and done.zero_points is not None:
            zeros[part] = done.zero_points

    _run_parts(quantize_part, rows, columns, threads)
    return Quantized(codes, scales, zeros, spec)


def quantize_packed(weight: NDArray[Any], spec: QuantSpec, algorithm: str, threads: int = 1) -> Packed:
    """Does what `quantize_rows` and `pack` do, without a byte for every code or a float32 for every weight on the way.

    Args:
        weight: float32, float16 or bfloat16 [N, K], not changed; widened to float32 a part at a time.
        spec: The specification.
        algorithm: A name of `ALGORITHMS`.
        threads: Threads to use.

    Raises:
        DependencyMissingError: numba is not installed.
        ValueError: The algorithm is unknown, `threads` is below 1, or the weight cannot be quantized.
    """
    if weight.dtype.name not in ("float32", "float16", "bfloat16"):
        raise ValueError(f"the weight has dtype {weight.dtype}; float32, float16 or bfloat16 is needed")
    quantize = _find(algorithm)
    rows, columns = check_shape(weight.shape, spec)
    blocks = columns // spec.block_size
    codes = np.empty((rows, packed_length(columns, spec.bits)), np.uint8)
    scales = np.empty((rows, blocks), np.float32)
    zeros = None if spec.symmetric else np.empty((rows, packed_length(blocks, spec.bits)), np.uint8)

    def quantize_part(part: slice) -> None:
        done = quantize(weight[part].astype(np.float32, copy=False), spec)
        codes[part], scales[part] = pack(done.codes, spec.bits), done.scales
        if zeros is not None and done.zero_points is not None:
            zeros[part] = pack(done.zero_points, spec.bits)

    _run_parts(quantize_part, rows, columns, threads)
    return Packed(codes, scales, zeros)


def _find(algorithm: str) -> Quantizer:
    if algorithm not in ALGORITHMS:
        raise ValueError(f"there is no algorithm {algorithm!r}; there are {', '.join(ALGORITHMS)}")
    return ALGORITHMS[algorithm]


def _run_parts(work: Callable[[slice], None], rows: int, columns: int, threads: int) -> None:
    """Calls `work` for parts of the rows, on `threads` threads, and raises what it raised."""
    if threads < 1:
        raise ValueError(f"threads is {threads}; at least one is needed")
    step = max(1, min(_PART_WEIGHTS // columns, -(-rows // (threads * _PARTS_PER_THREAD))))

    def run(start: int) -> None:
        try:
            work(slice(start, min(start + step, rows)))
        except NotFiniteError as error:
            raise NotFiniteError(start + error.first, start + error.last) from None

    starts = range(0, rows, step)
    if threads == 1:
        for start in starts:
            run(start)
        return
    with ThreadPoolExecutor(threads) as pool:
        # list() waits for all parts and raises what a part raised.
        list(pool.map(run, starts))
