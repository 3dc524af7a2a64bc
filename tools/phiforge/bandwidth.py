"""The memory bandwidth of this machine, by the triad of STREAM (McCalpin, 1995): a = b + s * c."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

# Three arrays, in all far larger than a cache, and the passes over them that numpy makes of one triad: read c, write a;
# read a and b, write a.
ARRAY_BYTES = 256 << 20
PASSES = 5
REPEATS = 5


def measure_bandwidth(threads: int, array_bytes: int = ARRAY_BYTES) -> float:
    """Return bytes per second, of the best of a few repeats; bytes that a write fetches first are not counted.

    Args:
        threads: Threads that share the arrays.
        array_bytes: Bytes of each of the three arrays.
    """
    count = max(1, array_bytes // 8 // threads)
    parts = [tuple(np.full(count, value) for value in (0.0, 1.0, 2.0)) for _ in range(threads)]
    moved = PASSES * 8 * count * threads
    with ThreadPoolExecutor(threads) as pool:
        best = min(_seconds(pool, parts) for _ in range(REPEATS))
    return moved / best


def _seconds(pool: ThreadPoolExecutor, parts: list[tuple[NDArray[np.float64], ...]]) -> float:
    started = time.perf_counter()
    list(pool.map(_triad, parts))
    return time.perf_counter() - started


def _triad(arrays: tuple[NDArray[np.float64], ...]) -> None:
    a, b, c = arrays
    np.multiply(c, 3.0, out=a)
    np.add(a, b, out=a)
