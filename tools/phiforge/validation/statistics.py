"""The statistics of evidence, pure: percentiles, standard errors from blocks, McNemar's test, the bootstrap.

The intervals by formula are in `phiforge.intervals`, where also the gate and the release reach them.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from phiforge.evidence import Estimate, Interval, Percentiles
from phiforge.intervals import (
    CONFIDENCE,
    UNKNOWN,
    effective_share,
    interval_of_mean,
    interval_of_median,
    interval_of_paired_difference,
    interval_of_percentile,
    interval_of_proportion,
    interval_of_recovery,
    percentile_ranks,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

__all__ = [
    "BLOCK_TOKENS",
    "block_ids",
    "block_means",
    "bootstrap_interval",
    "clustered_mean",
    "interval_of_blocked_percentile",
    "interval_of_mean",
    "interval_of_median",
    "interval_of_paired_difference",
    "interval_of_percentile",
    "interval_of_proportion",
    "interval_of_recovery",
    "mcnemar_p",
    "percentiles",
]

BLOCK_TOKENS = 64
DRAWS = 2000
# Drawn from fewer, a bootstrap interval is far too narrow: of normal values it held the mean in 62 of 100 experiments
# with 3, 79 with 5, 84 with 8 and 88 with 20, where 90 are meant.
FEWEST_DRAWN = 8


def percentiles(values: Sequence[float] | NDArray[np.floating]) -> Percentiles:
    """Return the percentiles of values, linear between order statistics (numpy's default, R's type 7)."""
    points = np.percentile(np.asarray(values, dtype=np.float64), [1, 5, 50, 90, 95, 99, 99.9, 100])
    p1, p5, p50, p90, p95, p99, p99_9, top = (float(point) for point in points)
    return Percentiles(p1=p1, p5=p5, p50=p50, p90=p90, p95=p95, p99=p99, p99_9=p99_9, max=top)


def block_ids(lengths: Sequence[int], block_tokens: int = BLOCK_TOKENS) -> NDArray[np.int64]:
    """Return the block of each position: runs of `block_tokens` in each text; no block spans two texts.

    Tokens that follow each other err together, so single tokens would make errors look smaller than they are.
    """
    ids: list[NDArray[np.int64]] = []
    start = 0
    for length in lengths:
        ids.append(start + np.arange(length, dtype=np.int64) // block_tokens)
        start += -(-length // block_tokens)
    return np.concatenate(ids) if ids else np.zeros(0, dtype=np.int64)


def block_means(values: NDArray[np.floating], blocks: NDArray[np.int64]) -> tuple[float, ...]:
    """Return the mean of each block's values; blocks are numbered from 0 without a gap."""
    sums = np.bincount(blocks, weights=np.asarray(values, dtype=np.float64))
    return tuple((sums / np.bincount(blocks)).tolist())


def clustered_mean(values: NDArray[np.floating], blocks: NDArray[np.int64]) -> Estimate:
    """Return the mean of values and its standard error over blocks of unequal size.

    With the sum s_b and the count n_b of each of m blocks and N = sum n_b, the mean is the ratio estimator
    R = sum s_b / N, and SE^2 = m / (m - 1) * sum (s_b - R n_b)^2 / N^2 (Cochran, Sampling Techniques, 3rd ed., 1977,
    chapter 6, without finite-population correction). It is NaN with one block.
    """
    exact = np.asarray(values, dtype=np.float64)
    _, member = np.unique(blocks, return_inverse=True)
    sums, counts = np.bincount(member, weights=exact), np.bincount(member)
    mean, number = float(exact.mean()), len(counts)
    if number < 2:
        return Estimate(mean=mean, standard_error=math.nan)
    spread = float(np.sum((sums - mean * counts) ** 2))
    return Estimate(mean=mean, standard_error=math.sqrt(number / (number - 1) * spread) / len(exact))


def mcnemar_p(to_wrong: int, to_right: int) -> float:
    """Return the two-sided p-value of McNemar's exact test; 1 where nothing flipped.

    Under no effect a flip goes either way like a coin: p = min(1, 2 P(X <= min)), X ~ Binomial(flips, 1/2)
    (Fagerland, Lydersen and Laake, BMC Medical Research Methodology 13:91, 2013).
    """
    flips = to_wrong + to_right
    tail = sum(math.comb(flips, k) for k in range(min(to_wrong, to_right) + 1))
    return min(1.0, float(2 * tail / 2**flips))


def bootstrap_interval(
    statistic: Callable[[NDArray[np.int64]], float],
    count: int,
    *,
    blocks: NDArray[np.int64] | None = None,
    draws: int = DRAWS,
    seed: int = 0,
) -> Interval:
    """Return the percentile bootstrap's interval of a statistic (Efron and Tibshirani, 1993, chapter 13).

    Args:
        statistic: Of the indices that were drawn. Where it is NaN, as a ratio over nothing, the draw counts as below
            the low end and as above the high end, so that it never makes the interval narrower.
        count: The number of items; indices are below it.
        blocks: The block of each item, where whole blocks are drawn because their items err together.
        draws: How often.
        seed: Of the draws; the same gives the same interval.

    Returns:
        The interval; no bounds with fewer than `FEWEST_DRAWN` items or blocks.
    """
    members = _members(np.arange(count) if blocks is None else blocks)
    if len(members) < FEWEST_DRAWN:
        return UNKNOWN
    generator = np.random.default_rng(seed)
    found = np.empty(draws)
    for draw in range(draws):
        picked = generator.integers(0, len(members), len(members))
        indices = picked if blocks is None else np.concatenate([members[block] for block in picked])
        found[draw] = statistic(indices)
    return _ends(found)


def interval_of_blocked_percentile(
    values: NDArray[np.floating], blocks: NDArray[np.int64], fraction: float
) -> Interval:
    """Return the interval of a percentile of values that err together within blocks.

    It lies between order statistics, as of independent values, but of as many as there are in effect: with p the share
    of values up to the percentile and SE its standard error over the blocks, p (1 - p) / SE^2, made fewer for few
    blocks by (z / t)^2 with Student's t (Korn and Graubard, Survey Methodology 24:193, 1998; the percentile's bounds
    from those of a share are Woodruff's, Journal of the American Statistical Association 47:635, 1952). The bootstrap
    over blocks was tried for p99 and is too narrow: docs/decisions/0016-what-passes-a-budget.md.

    Args:
        values: One of each position.
        blocks: The block of each position.
        fraction: Of the values that the percentile is not exceeded by, as 0.99.

    Returns:
        The interval; an end is None where the values are in effect too few for it (299 above a p99).
    """
    ordered = np.sort(np.asarray(values, dtype=np.float64))
    if not len(ordered) or not np.isfinite(ordered).all():
        return UNKNOWN
    count = _effective_count(values, blocks, float(np.percentile(ordered, 100 * fraction, method="inverted_cdf")))
    low, high = percentile_ranks(count, fraction)
    scale = len(ordered) / max(count, 1)
    return Interval(
        low=float(ordered[max(math.floor(low * scale), 1) - 1]) if low else None,
        high=float(ordered[min(math.ceil(high * scale), len(ordered)) - 1]) if high else None,
    )


def _effective_count(values: NDArray[np.floating], blocks: NDArray[np.int64], percentile: float) -> int:
    """As how many independent values these say where the percentile is."""
    share = clustered_mean((values <= percentile).astype(np.float64), blocks)
    groups = len(np.unique(blocks))
    if groups < 2:
        return 0
    variance = share.standard_error**2
    independent = share.mean * (1 - share.mean) / variance if variance > 0 else math.inf
    return int(min(len(values), independent) * effective_share(groups))


def _members(blocks: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    """The indices of each block."""
    if not len(blocks):
        return []
    order = np.argsort(blocks, kind="stable")
    return np.split(order, np.flatnonzero(np.diff(blocks[order])) + 1)


def _ends(found: NDArray[np.float64]) -> Interval:
    missing = np.isnan(found)
    low = float(np.quantile(np.where(missing, -np.inf, found), 1 - CONFIDENCE, method="lower"))
    high = float(np.quantile(np.where(missing, np.inf, found), CONFIDENCE, method="higher"))
    return Interval(low=low if math.isfinite(low) else None, high=high if math.isfinite(high) else None)
