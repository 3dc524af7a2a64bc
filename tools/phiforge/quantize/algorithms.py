"""The registry of algorithms, and the entry point that spreads one over threads."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from phiforge.quantize.kquant import quantize_kquant
from phiforge.quantize.rtn import quantize_rtn
from phiforge.quantize.spec import Quantized, QuantSpec, check_shape

Quantizer = Callable[[NDArray[np.float32], QuantSpec], Quantized]

ALGORITHMS: dict[str, Quantizer] = {"rtn": quantize_rtn, "k-quant": quantize_kquant}

# More parts than threads, so that a thread that was held up does not make the others wait for long.
_PARTS_PER_THREAD = 4


def quantize_rows(weight: NDArray[np.float32], spec: QuantSpec, algorithm: str, threads: int = 1) -> Quantized:
    """Quantizes a weight on several threads; the result is the same, bit for bit, for any number of them.

    Args:
        weight: float32 [N, K], not changed.
        spec: The specification.
        algorithm: A name of `ALGORITHMS`.
        threads: Threads to use; NumPy lets go of the interpreter lock while it computes.

    Raises:
        ValueError: The algorithm is unknown, `threads` is below 1, or the weight cannot be quantized.
    """
    if algorithm not in ALGORITHMS:
        raise ValueError(f"there is no algorithm {algorithm!r}; there are {', '.join(ALGORITHMS)}")
    if threads < 1:
        raise ValueError(f"threads is {threads}; at least one is needed")
    quantize = ALGORITHMS[algorithm]
    rows, columns = check_shape(weight.shape, spec)
    if threads == 1 or rows == 1:
        return quantize(weight, spec)

    blocks = columns // spec.block_size
    codes = np.empty((rows, columns), np.uint8)
    scales = np.empty((rows, blocks), np.float32)
    zeros = None if spec.symmetric else np.empty((rows, blocks), np.uint8)

    def quantize_part(part: slice) -> None:
        done = quantize(weight[part], spec)
        codes[part] = done.codes
        scales[part] = done.scales
        if zeros is not None and done.zero_points is not None:
            zeros[part] = done.zero_points

    step = -(-rows // (threads * _PARTS_PER_THREAD))
    with ThreadPoolExecutor(threads) as pool:
        # list() waits for all parts and raises what a part raised.
        list(pool.map(quantize_part, [slice(start, start + step) for start in range(0, rows, step)]))
    return Quantized(codes, scales, zeros, spec)
