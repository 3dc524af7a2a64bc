"""The statistics of evidence, pure: percentiles, standard errors from blocks, McNemar's test."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from phiforge.evidence import Estimate, Percentiles

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

BLOCK_TOKENS = 64


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
