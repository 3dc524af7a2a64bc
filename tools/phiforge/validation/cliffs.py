"""Cliffs: context positions at which decoding becomes slower for good, or stalls once, told from noise.

Pure. A series is the time of each decoded token by its context position, in several runs of the same decode. A cliff
must be in every run: what the machine does meanwhile is not at the same position twice.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from phiforge.evidence import Cliff, DecodeBin

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

# Tokens before and after a position that are held against each other.
WINDOW_TOKENS = 32
# A step below this ratio of after to before is none that a user feels.
STEP_RATIO_MIN = 1.15
# A stall is at least so many times the tokens around it, in every run.
STALL_RATIO_MIN = 4.0
# How far beyond the noise of each run they must be, in standard deviations.
STALL_NOISE_MIN = 8.0
STEP_NOISE_MIN = 4.0
# How many positions may be expected to stall so in every run by chance alone, where other processes hold tokens up.
CHANCE_STALLS_MAX = 0.01
BINS_MAX = 32
# Of two runs chance is too often the cause.
_LEAST_RUNS = 3
# Standard deviations by the median absolute deviation, and of a median of normal values by that of the values.
_BY_MAD = 1.4826
_MEDIAN_ERROR = math.sqrt(math.pi / 2)


def decode_bins(first: int, runs_ms: NDArray[np.float64]) -> tuple[DecodeBin, ...]:
    """Return the times by context position, in at most 32 bins as wide as a power of two.

    Args:
        first: The context position of the first decoded token.
        runs_ms: Time of every token, [runs, tokens].
    """
    count = runs_ms.shape[1]
    width = max(16, 1 << math.ceil(math.log2(max(1, count / BINS_MAX))))
    edges = sorted({first, *range((first // width + 1) * width, first + count, width), first + count})
    bins = []
    for start, stop in pairwise(edges):
        values = runs_ms[:, start - first : stop - first]
        middle, high = np.percentile(values, [50, 95])
        bins.append(DecodeBin(start=start, stop=stop, count=values.size, inter_token_p50_ms=float(middle),
                              inter_token_p95_ms=float(high)))  # fmt: skip
    return tuple(bins)


def find_cliffs(first: int, runs_ms: NDArray[np.float64], known: Mapping[int, str] | None = None) -> tuple[Cliff, ...]:
    """Find the steps and stalls of a series, in the order of their positions.

    A stall is a token that in every run takes at least 4 times the median of the 32 tokens on each side of it, and more
    than 8 standard deviations of these beyond it; and at less than 0.01 positions would be as late in every run if
    the late tokens of each were anywhere. A step is a position after which the median of 32 tokens is at least
    1.15 times that of the 32 before, and beyond it by 4 standard errors and by 4 times the spread of such differences
    at other positions; it is in every run, and what follows stays slower. Of fewer than three runs nothing is said.

    Args:
        first: The context position of the first decoded token: how many tokens the sequence had before it.
        runs_ms: Time of every token, [runs, tokens].
        known: What is known to happen at a position, by position; cliffs within two positions of it are named so.
    """
    if runs_ms.ndim != 2 or runs_ms.shape[0] < _LEAST_RUNS or runs_ms.shape[1] < 2 * WINDOW_TOKENS:
        return ()
    stalls = _stalls(runs_ms)
    calm = _without(runs_ms, stalls)
    steps = _steps(calm, 0, calm.shape[1])
    found = [_stall(first, runs_ms, index) for index in stalls]
    found += [_step(first, calm, index) for index in steps]
    named = [cliff.model_copy(update={"cause": _cause(cliff.position, known or {})}) for cliff in found]
    return tuple(sorted(named, key=lambda cliff: cliff.position))


def _stalls(runs: NDArray[np.float64]) -> list[int]:
    # The exact test is costly, so it is for those that stand out from a running median, their own time in it.
    padded = np.pad(runs, ((0, 0), (WINDOW_TOKENS, WINDOW_TOKENS)), mode="reflect")
    running = np.median(np.lib.stride_tricks.sliding_window_view(padded, 2 * WINDOW_TOKENS + 1, axis=1), axis=2)
    late = runs - running
    found = []
    for index in np.flatnonzero(np.all(runs > STALL_RATIO_MIN / 2 * running, axis=0)).tolist():
        around = _around(runs, index)
        middle = np.median(around, axis=1)
        spread = _BY_MAD * np.median(np.abs(around - middle[:, None]), axis=1)
        limit = np.maximum(STALL_RATIO_MIN * middle, middle + STALL_NOISE_MIN * spread)
        if bool(np.all(runs[:, index] > limit)) and _by_chance(late, index) <= CHANCE_STALLS_MAX:
            found.append(index)
    return found


def _by_chance(late: NDArray[np.float64], index: int) -> float:
    """Return at how many positions every run would be as late, if each run's late tokens were anywhere.

    Late in milliseconds and not in ratios: what holds a process up lasts as long where tokens are short.
    """
    shares = np.mean(late >= late[:, index].min(), axis=1)
    return float(late.shape[1] * np.prod(shares))


def _around(runs: NDArray[np.float64], index: int) -> NDArray[np.float64]:
    start, stop = max(0, index - WINDOW_TOKENS), index + WINDOW_TOKENS + 1
    return np.concatenate([runs[:, start:index], runs[:, index + 1 : stop]], axis=1)


def _without(runs: NDArray[np.float64], stalls: Sequence[int]) -> NDArray[np.float64]:
    """The series with the stalls smoothed away."""
    calm = runs.copy()
    for index in stalls:
        calm[:, index] = np.median(_around(runs, index), axis=1)
    return calm


def _steps(runs: NDArray[np.float64], start: int, stop: int) -> list[int]:
    """Find the clearest step between two positions, then those on both sides of it."""
    index = _clearest(runs, start, stop)
    if index is None:
        return []
    return [*_steps(runs, start, index), index, *_steps(runs, index, stop)]


def _clearest(runs: NDArray[np.float64], start: int, stop: int) -> int | None:
    width = WINDOW_TOKENS
    if stop - start < 2 * width:
        return None
    part = runs[:, start:stop]
    windows = np.lib.stride_tricks.sliding_window_view(part, width, axis=1)
    medians = np.median(windows, axis=2)
    before, after = medians[:, :-width], medians[:, width:]
    # The run that shows least of it decides.
    rise = (after - before).min(axis=0)
    index = int(np.argmax(rise))
    return start + _edge(part, index + width) if _is_step(part, before, after, index) else None


def _edge(part: NDArray[np.float64], near: int) -> int:
    """Return the position near one that parts the tokens around it into two levels best."""
    start, stop = near - WINDOW_TOKENS, near + WINDOW_TOKENS
    tokens = part[:, start:stop]
    costs = {
        edge: sum(
            float(np.abs(side - np.median(side, axis=1, keepdims=True)).sum())
            for side in (tokens[:, : edge - start], tokens[:, edge - start :])
        )
        for edge in range(near - WINDOW_TOKENS // 2, near + WINDOW_TOKENS // 2 + 1)
    }
    return min(costs, key=costs.__getitem__)


def _is_step(part: NDArray[np.float64], before: NDArray[np.float64], after: NDArray[np.float64], index: int) -> bool:
    width = WINDOW_TOKENS
    rises = after - before
    apart = np.abs(np.arange(rises.shape[1]) - index) >= width
    for run, (rise, low, high) in enumerate(zip(rises[:, index], before[:, index], after[:, index], strict=True)):
        tokens = part[run, index : index + 2 * width]
        sides = np.abs(tokens - np.repeat([low, high], width))
        error = _MEDIAN_ERROR * _BY_MAD * float(np.median(sides)) * math.sqrt(2 / width)
        others = rises[run, apart]
        usual = float(np.median(others)) if others.size >= width else 0.0
        spread = _BY_MAD * float(np.median(np.abs(others - usual))) if others.size >= width else 0.0
        beyond = rise > STEP_NOISE_MIN * error and rise - usual > STEP_NOISE_MIN * spread
        stays = float(np.median(part[run, index + width :])) - low > rise / 2
        if not (beyond and stays and high >= STEP_RATIO_MIN * low):
            return False
    return True


def _stall(first: int, runs: NDArray[np.float64], index: int) -> Cliff:
    middle, high = float(np.median(_around(runs, index))), float(np.median(runs[:, index]))
    return Cliff(position=first + index, shape="stall", before_ms=middle, after_ms=high, ratio=high / middle)


def _step(first: int, runs: NDArray[np.float64], index: int) -> Cliff:
    low = float(np.median(runs[:, index - WINDOW_TOKENS : index]))
    high = float(np.median(runs[:, index : index + WINDOW_TOKENS]))
    return Cliff(position=first + index, shape="step", before_ms=low, after_ms=high, ratio=high / low)


def _cause(position: int, known: Mapping[int, str]) -> str:
    return next(
        (
            known[place]
            for place in (position, position - 1, position + 1, position - 2, position + 2)
            if place in known
        ),
        "",
    )
