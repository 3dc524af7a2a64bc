"""How often cliffs are found in made series with and without them: the table of docs/latency.md.

    python tests/bench/latency.py [--series 150]

Each series is three decodes; their tokens take `0.23 + 0.0003 n` ms, with noise. Half of the series also have a step of
1.5 times in the middle and a stall of 50 times at a quarter.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from phiforge.validation.cliffs import find_cliffs

Runs = NDArray[np.float64]
LENGTHS = (128, 1000, 2000)
RUNS, FIRST, NEAR = 3, 17, 8


def main() -> None:
    """Print a row for each kind of noise, a number for each length."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--series", type=int, default=150)
    count = parser.parse_args().series
    sys.stdout.write("| noise | false steps | false stalls | steps found | stalls found |\n|---|---|---|---|---|\n")
    for name, noise in NOISES.items():
        found = [_count(noise, length, count) for length in LENGTHS]
        cells = [", ".join(str(row[index]) for row in found) for index in range(4)]
        sys.stdout.write(f"| {name} | {' | '.join(cells)} |\n")


def _count(noise: Callable[[np.random.Generator, Runs], Runs], length: int, count: int) -> tuple[int, int, int, int]:
    totals = np.zeros(4, dtype=int)
    for seed in range(count):
        random = np.random.default_rng(seed)
        base = np.tile(0.23 + 0.0003 * np.arange(length), (RUNS, 1))
        calm = base * noise(random, base)
        shapes = {cliff.shape for cliff in find_cliffs(FIRST, calm)}
        steep = calm.copy()
        steep[:, length // 2 :] *= 1.5
        steep[:, length // 4] *= 50
        places = {(cliff.shape, cliff.position - FIRST) for cliff in find_cliffs(FIRST, steep)}
        step = any(shape == "step" and abs(place - length // 2) <= NEAR for shape, place in places)
        totals += ["step" in shapes, "stall" in shapes, step, ("stall", length // 4) in places]
    first, second, third, fourth = (int(total) for total in totals)
    return first, second, third, fourth


def _spread(random: np.random.Generator, like: Runs, deviation: float) -> Runs:
    result: Runs = np.exp(deviation * random.standard_normal(like.shape))
    return result


def _held_up(random: np.random.Generator, like: Runs, share: float) -> Runs:
    slower = np.where(random.random(like.shape) < share, random.uniform(3, 20, like.shape), 1.0)
    return _spread(random, like, 0.1) * slower


def _busy_stretches(random: np.random.Generator, like: Runs) -> Runs:
    result = _spread(random, like, 0.1)
    for run in result:
        start = 0
        while start < len(run):
            length = int(random.exponential(200)) + 1
            run[start : start + length] *= random.choice([1.0, 1.0, 1.3, 2.0])
            start += length
    return result


def _correlated(random: np.random.Generator, like: Runs) -> Runs:
    fresh = random.standard_normal(like.shape)
    for index in range(1, like.shape[1]):
        fresh[:, index] = 0.95 * fresh[:, index - 1] + np.sqrt(1 - 0.95**2) * fresh[:, index]
    result: Runs = np.exp(0.1 * fresh)
    return result


NOISES: dict[str, Callable[[np.random.Generator, Runs], Runs]] = {
    "5 %": lambda random, like: _spread(random, like, 0.05),
    "20 %": lambda random, like: _spread(random, like, 0.2),
    "10 %, and 3 % of the tokens 3 to 20 times": lambda random, like: _held_up(random, like, 0.03),
    "10 %, and 10 % of the tokens 3 to 20 times": lambda random, like: _held_up(random, like, 0.10),
    "10 %, and stretches of about 200 tokens 1.3 or 2 times": _busy_stretches,
    "10 %, correlated 0.95 from token to token": _correlated,
}


if __name__ == "__main__":
    main()
