"""How much worse a number became from one release to the next, and how sure that is: pure.

Two variants on the same texts err alike, so they are held against each other block by block where the evidence has the
values of each block: the text's own difficulty cancels, and what is left is the error of the difference.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from phiforge.evidence import Estimate, Interval
from phiforge.intervals import (
    FEWEST_GROUPS,
    UNKNOWN,
    effective_share,
    interval_of_mean,
    interval_of_paired_difference,
    samples_needed,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from phiforge.release.numbers import Reading


@dataclass(frozen=True, kw_only=True)
class Difference:
    """How much worse a number became.

    Attributes:
        paired: Whether it is of the same blocks on both sides.
        count: How many samples each side has, the smaller one's.
        alike: Whether it is the same in every block, other than 0, so that its error is not known.
        at: The interval that so many samples would give if they were like these; above 0 is worse.
    """

    paired: bool
    count: int
    alike: bool = False
    at: Callable[[int], Interval]

    @property
    def interval(self) -> Interval:
        """The interval that the samples give."""
        return self.at(self.count) if self.count else UNKNOWN


def worsening(new: Reading, old: Reading, *, lower_is_worse: bool) -> Difference:
    """Return how much worse a number is than the earlier one: paired where both have it for the same blocks of text.

    Args:
        new: The number of the release to come.
        old: That of the previous one, on the same texts or questions.
        lower_is_worse: Which way is worse.
    """
    after, before = (old, new) if lower_is_worse else (new, old)
    count = min(new.count, old.count)
    sizes = new.block_positions
    if sizes and sizes == old.block_positions and len(new.blocks) == len(old.blocks) == len(sizes):
        estimate = paired_mean(after.blocks, before.blocks, sizes)
        # Shares lie between 0 and 1, and have a bound even where no block differs.
        floor = sum(sizes) if new.number.unit == "fraction" else None
        differences = {one - other for one, other in zip(after.blocks, before.blocks, strict=True)}
        alike = floor is None and len(differences) == 1 and differences != {0.0}
        at = _paired(estimate, len(sizes), floor, alike=alike)
        return Difference(paired=True, count=len(sizes), alike=alike, at=at)
    return Difference(paired=False, count=count, at=_unpaired(after, before, count))


def paired_mean(after: Sequence[float], before: Sequence[float], sizes: Sequence[int]) -> Estimate:
    """Return the mean difference over all positions, and its standard error over blocks of unequal size.

    With the mean difference d_b of each of m blocks, its positions n_b and N = sum n_b, the mean is the ratio estimator
    R = sum n_b d_b / N, and SE^2 = m / (m - 1) * sum (n_b (d_b - R))^2 / N^2 (Cochran, Sampling Techniques, 3rd ed.,
    1977, chapter 6, without finite-population correction). It is NaN with one block.

    Args:
        after: The mean of each block on one side.
        before: That on the other side.
        sizes: The positions of each block.
    """
    differences = [one - other for one, other in zip(after, before, strict=True)]
    total, blocks = sum(sizes), len(sizes)
    mean = math.fsum(size * one for size, one in zip(sizes, differences, strict=True)) / total
    if blocks < 2:
        return Estimate(mean=mean, standard_error=math.nan)
    spread = math.fsum((size * (one - mean)) ** 2 for size, one in zip(sizes, differences, strict=True))
    return Estimate(mean=mean, standard_error=math.sqrt(blocks / (blocks - 1) * spread) / total)


def _paired(estimate: Estimate, blocks: int, positions: int | None, *, alike: bool) -> Callable[[int], Interval]:
    """Student's t over the blocks.

    Equal differences in all blocks do not tell their error, so there is no interval, unless every block is as before.
    Shares can be so while positions changed: their interval is never narrower than that of so many positions of which
    none changed, made fewer for few blocks.
    """

    def at(count: int) -> Interval:
        if count < FEWEST_GROUPS or alike:
            return UNKNOWN
        error = estimate.standard_error * math.sqrt(blocks / count)
        found = interval_of_mean(Estimate(mean=estimate.mean, standard_error=error), count)
        if positions is None or found.low is None or found.high is None:
            return found
        floor = interval_of_paired_difference(0, 0, positions * count / blocks * effective_share(count)).high or 0.0
        return Interval(low=min(found.low, estimate.mean - floor), high=max(found.high, estimate.mean + floor))

    return at


def _unpaired(after: Reading, before: Reading, count: int) -> Callable[[int], Interval]:
    """The root of the sum of both half intervals' squares; with more samples it shrinks with the root of their number.

    Where both sides err alike this is wider than it must be.
    """
    one, other = after.number, before.number
    difference = one.value - other.value

    def at(wanted: int) -> Interval:
        shrink = math.sqrt(count / wanted)
        low = _root(one.value, one.low, other.high, other.value)
        high = _root(one.high, one.value, other.value, other.low)
        return Interval(
            low=None if low is None else difference - low * shrink,
            high=None if high is None else difference + high * shrink,
        )

    return at


def _root(
    one_top: float | None, one_foot: float | None, other_top: float | None, other_foot: float | None
) -> float | None:
    if one_top is None or one_foot is None or other_top is None or other_foot is None:
        return None
    return math.hypot(one_top - one_foot, other_top - other_foot)


def needed(difference: Difference, limit: float) -> int | None:
    """Return how many samples like these would tell on which side of the limit the difference is; None if none do."""

    def enough(count: int) -> bool:
        found = difference.at(count)
        return (found.high is not None and found.high <= limit) or (found.low is not None and found.low > limit)

    return samples_needed(difference.count, enough)
