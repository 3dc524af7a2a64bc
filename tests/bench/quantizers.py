"""How fast weights are quantized: the figures of docs/log.md.

    python tests/bench/quantizers.py [--threads 1 2] [--rows 1024]

Random weights [rows, 8192] in bfloat16, as a checkpoint has them, to 4 bits in asymmetric blocks of 32 and per
channel. Wall time says what a build waits for; the processor's time is what remains comparable on a busy machine. The
first call of a fresh cache compiles; say NUMBA_CACHE_DIR=$(mktemp -d) to see that.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import time
from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from phiforge.quantize import ALGORITHMS, QuantSpec, pack, quantize_rows
from phiforge.quantize.algorithms import quantize_packed

Weight = NDArray[Any]
Floats = NDArray[np.float32]
How = tuple[QuantSpec, str, int]

COLUMNS = 8192
REPEATS = 7
SPECS = {"b32": QuantSpec(4, 32, symmetric=False), "per channel": QuantSpec(4, 32, symmetric=False, per_channel=True)}


def main() -> None:
    """Measures every algorithm and writes one line each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, nargs="*", default=[1, 2])
    parser.add_argument("--rows", type=int, default=1024)
    args = parser.parse_args()
    weight = (np.random.default_rng(0).standard_normal((args.rows, COLUMNS), dtype=np.float32) * 0.02).astype(
        ml_dtypes.bfloat16
    )
    floats = weight.astype(np.float32)
    start = time.perf_counter()
    for algorithm in ALGORITHMS:
        quantize_rows(floats[:1], SPECS["b32"], algorithm)
    sys.stdout.write(f"first calls: {time.perf_counter() - start:.2f} s\n")
    for algorithm, (name, spec), threads in itertools.product(ALGORITHMS, SPECS.items(), args.threads):
        for work in (_rows, _widened_and_packed, _packed):
            rates = _rates(lambda: work(weight, floats, (spec, algorithm, threads)), floats.size)  # noqa: B023
            sys.stdout.write(f"{algorithm} {name}, {threads} threads, {work.__name__.strip('_')}: {rates}\n")


def _rows(_weight: Weight, floats: Floats, how: How) -> None:
    quantize_rows(floats, *how)


def _widened_and_packed(weight: Weight, _floats: Floats, how: How) -> None:
    pack(quantize_rows(weight.astype(np.float32), *how).codes, how[0].bits)


def _packed(weight: Weight, _floats: Floats, how: How) -> None:
    quantize_packed(weight, *how)


def _rates(work: Callable[[], None], weights: int) -> str:
    wall_s, processor_s = [], []
    for _ in range(REPEATS):
        wall, processor = time.perf_counter(), time.process_time()
        work()
        wall_s.append(time.perf_counter() - wall)
        processor_s.append(time.process_time() - processor)
    return f"{weights / min(wall_s) / 1e6:.0f} M/s, {weights / min(processor_s) / 1e6:.0f} M a processor second"


if __name__ == "__main__":
    main()
