"""Confidence intervals by formula, in plain Python: what the gate, the release and the statistics of validation share.

Every end is a bound of its own at `CONFIDENCE`: the truth lies above the low end in 95 of 100 experiments, and below
the high end in as many. An end that the samples are too few for is None, and None never keeps a budget.
"""

from __future__ import annotations

import math
from functools import lru_cache
from statistics import NormalDist
from typing import TYPE_CHECKING

from phiforge.evidence import Estimate, Interval

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

CONFIDENCE = 0.95
_ALPHA = 1 - CONFIDENCE
_Z = NormalDist().inv_cdf(CONFIDENCE)
# A standard error with 8 degrees of freedom is itself known to 1 / sqrt(2 * 8), a quarter. With fewer the National
# Center for Health Statistics publishes no proportion without a review (Parker et al., Vital and Health Statistics
# 2(175), 2017).
FEWEST_GROUPS = 9
# Above so many degrees of freedom the expansion of the t quantile is exact to 1e-9, and faster than the series.
_SERIES_DEGREES = 200
_STEPS = 60
# Of more items, more would not be told: at 10^8 a bound is within 1e-4 of its proportion, and logarithms of factorials
# are still exact enough.
_MOST_ITEMS = 10**8
# Fewer successes, of counts that need not be whole, are none.
_NO_SUCCESS = 1e-9
_FRACTION_STEPS, _TINY = 30_000, 1e-300

UNKNOWN = Interval(low=None, high=None)


def interval_of_mean(estimate: Estimate, groups: int) -> Interval:
    """Return the interval of a mean over groups that err alike, by Student's t with groups - 1 degrees of freedom.

    Args:
        estimate: The mean, and its standard error over the groups.
        groups: Blocks of text, or repeats; with one there is no interval. Whether they are enough to decide by is the
            caller's to say (`FEWEST_GROUPS`).
    """
    if groups < 2 or not math.isfinite(estimate.mean) or not math.isfinite(estimate.standard_error):
        return UNKNOWN
    half = student_t(groups - 1) * estimate.standard_error
    return Interval(low=estimate.mean - half, high=estimate.mean + half)


@lru_cache(maxsize=1024)
def student_t(degrees: int) -> float:
    """Return the quantile of Student's t at `CONFIDENCE`.

    The distribution function is the finite series for whole degrees of freedom, solved by bisection; from 200 on the
    quantile is the expansion in 1 / degrees (Abramowitz and Stegun, Handbook of Mathematical Functions, 1964, 26.7.3,
    26.7.4 and 26.7.5).
    """
    if degrees > _SERIES_DEGREES:
        return _expanded_t(degrees)
    return _solve(lambda t: _within(t, degrees) - (2 * CONFIDENCE - 1), 0.0, 10.0)


def interval_of_median(values: Sequence[float]) -> Interval:
    """Return the interval of a median between order statistics; 5 values are the fewest."""
    return interval_of_percentile(values, 0.5)


def interval_of_percentile(values: Sequence[float], fraction: float) -> Interval:
    """Return the interval of a percentile between order statistics, whatever the distribution.

    Of n independent values the number below the quantile is binomial, so the r-th smallest is a low bound where
    P(X < r) <= 0.05, and the s-th smallest a high bound where P(X >= s) <= 0.05 (David and Nagaraja, Order Statistics,
    3rd ed., 2003, section 7.1).

    Args:
        values: Finite ones; with another among them there is no interval.
        fraction: 0.5 for the median.
    """
    if not all(math.isfinite(value) for value in values):
        return UNKNOWN
    ordered = sorted(values)
    low, high = percentile_ranks(len(ordered), fraction)
    return Interval(low=ordered[low - 1] if low else None, high=ordered[high - 1] if high else None)


def percentile_ranks(count: int, fraction: float) -> tuple[int, int]:
    """Return which of so many ordered values, counted from 1, are the ends of a percentile's interval; 0 for no end."""
    low, from_top = _rank(count, fraction), _rank(count, 1 - fraction)
    return low, count + 1 - from_top if from_top else 0


def effective_share(groups: int) -> float:
    """Return the share of the samples that count where an error is estimated from so few groups: (z / t)^2."""
    return float((_Z / student_t(groups - 1)) ** 2)


def fewest_values(fraction: float, *, upper: bool) -> int:
    """Return how many values a percentile's bound needs to exist: 5 for a median, 299 above a p99."""
    return math.ceil(math.log(_ALPHA) / math.log(fraction if upper else 1 - fraction) - 1e-9)


def interval_of_proportion(successes: int, count: int) -> Interval:
    """Return the interval of a proportion after Clopper and Pearson (Biometrika 26:404, 1934).

    It is never narrower than it says, while Wilson's one-sided bound is near 0 and 1, where agreements lie (Cai,
    Journal of Statistical Planning and Inference 131:63, 2005), and one bound decides here.
    """
    if count < 1:
        return UNKNOWN
    return Interval(low=_exact_low(successes, count), high=1 - _exact_low(count - successes, count))


def interval_of_clustered_proportion(estimate: Estimate, *, groups: int, count: int) -> Interval:
    """Return the interval of a proportion among items that err together within groups.

    It is Clopper and Pearson's of as many items as there are in effect: p (1 - p) / SE^2, at most all of them, and all
    where nothing or everything is a success, made fewer for few groups by (z / t)^2 (Korn and Graubard, Survey
    Methodology 24:193, 1998; the limits as in Parker et al., Vital and Health Statistics 2(175), 2017). So it has a
    width also where no group differs from another. Each end is Student's t's over the groups where that is wider.

    Args:
        estimate: The proportion, and its standard error over the groups.
        groups: With one there is no interval.
        count: All items.
    """
    by_groups = interval_of_mean(estimate, groups)
    share = estimate.mean
    if by_groups.low is None or by_groups.high is None or count < 1 or not 0 <= share <= 1:
        return UNKNOWN
    spread, variance = share * (1 - share), estimate.standard_error**2
    independent = spread / variance if spread > 0 and variance > 0 else math.inf
    effective = min(count, independent, _MOST_ITEMS) * effective_share(groups)
    low, high = _exact_low(share * effective, effective), 1 - _exact_low((1 - share) * effective, effective)
    return Interval(low=max(0.0, min(low, by_groups.low)), high=min(1.0, max(high, by_groups.high)))


def interval_of_paired_difference(to_right: float, to_wrong: float, count: float) -> Interval:
    """Return the interval of a difference of paired proportions, (to_right - to_wrong) / count.

    It is Tango's score interval (Statistics in Medicine 17:891, 1998): all differences d that the test with the
    variance of the maximum likelihood under d does not reject. It has a width also where nothing flipped: the low end
    is then -z^2 / (count + z^2).

    Args:
        to_right: Pairs of which the second alone is right.
        to_wrong: Pairs of which the first alone is right.
        count: All pairs.
    """
    if count <= 0:
        return UNKNOWN
    difference = (to_right - to_wrong) / count
    score = _score(to_right, to_wrong, count)
    low = _solve(lambda d: _Z - score(d), -1.0, difference)
    high = _solve(lambda d: -_Z - score(d), difference, 1.0)
    return Interval(low=low, high=high)


def interval_of_recovery(*, reference_correct: float, to_right: float, to_wrong: float, count: float) -> Interval:
    """Return the interval of a recovery: the variant's right answers over the reference's.

    It is the paired difference's over the share that the reference has right, which is taken as it is: near a recovery
    of 1, where budgets lie, its own error is of second order.

    Args:
        reference_correct: Questions that the reference has right; without any there is no interval.
        to_right: Questions that only the variant has right.
        to_wrong: Questions that only the reference has right.
        count: All questions.
    """
    if reference_correct <= 0:
        return UNKNOWN
    change = interval_of_paired_difference(to_right, to_wrong, count)
    if change.low is None or change.high is None:
        return UNKNOWN
    scale = count / reference_correct
    return Interval(low=max(0.0, 1 + change.low * scale), high=1 + change.high * scale)


def samples_needed(count: int, enough: Callable[[int], bool], most: int = 1_000_000_000) -> int | None:
    """Return the fewest samples, not below `count`, that are enough; None where `most` are not.

    Args:
        count: Where to begin.
        enough: Whether so many would do; true for all beyond one that it is true for.
        most: Where to give up.
    """
    low, high = count, max(count, 1)
    while not enough(high):
        if high >= most:
            return None
        low, high = high, high * 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high


def _within(t: float, degrees: int) -> float:
    """P(|T| < t) for whole degrees of freedom."""
    angle = math.atan(t / math.sqrt(degrees))
    cosine_squared = math.cos(angle) ** 2
    odd = degrees % 2
    term = math.cos(angle) if odd else 1.0
    total = term if degrees > 1 or not odd else 0.0
    for index in range(2 + odd, degrees - 1, 2):
        term *= cosine_squared * (index - 1) / index
        total += term
    area = math.sin(angle) * total
    return (angle + area) * 2 / math.pi if odd else area


def _expanded_t(degrees: int) -> float:
    z = _Z
    terms = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
    )
    return float(z + sum(term / degrees ** (power + 1) for power, term in enumerate(terms)))


@lru_cache(maxsize=1024)
def _rank(count: int, fraction: float) -> int:
    """Return the greatest r with P(X < r) <= 0.05 for X ~ Binomial(count, fraction); 0 where there is none."""
    below, rank = 0.0, 0
    for successes in range(count):
        below += _binomial(successes, count, fraction)
        if below > _ALPHA:
            break
        rank = successes + 1
    return rank


def _exact_low(successes: float, count: float) -> float:
    """Return the share of successes under which so many or more have a chance of 0.05; the counts need not be whole."""
    if successes < _NO_SUCCESS:
        return 0.0
    return _solve(lambda share: _at_least(successes, count, share) - _ALPHA, 0.0, 1.0)


def _at_least(successes: float, count: float, share: float) -> float:
    """P(X >= successes) for X ~ Binomial(count, share), in between as the incomplete beta function.

    I_x(a, b) with a = successes and b = count - successes + 1 (Abramowitz and Stegun 26.5.24), by its continued
    fraction on the side of the mean where that is short (DLMF 8.17.22, and 8.17.4 for the other side).
    """
    a, b = successes, count - successes + 1
    if share <= 0 or share >= 1:
        return float(share >= 1)
    log_front = math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(share) + b * math.log1p(-share)
    if share < (a + 1) / (a + b + 2):
        return math.exp(log_front) / (a * _continued_fraction(a, b, share))
    return 1 - math.exp(log_front) / (b * _continued_fraction(b, a, 1 - share))


def _continued_fraction(a: float, b: float, x: float) -> float:
    """Return 1 + d1 / (1 + d2 / (1 + ...)) of the incomplete beta function, by Lentz's method."""
    value, above, below = 1.0, 1.0, 0.0
    for step in range(1, _FRACTION_STEPS):
        half, odd = divmod(step, 2)
        term = -(a + half) * (a + b + half) if odd else half * (b - half)
        term *= x / ((a + step - 1) * (a + step))
        below = 1 / (1 + term * below or _TINY)
        above = 1 + term / above or _TINY
        value *= above * below
        if abs(above * below - 1) < 1e-14:
            break
    return value


def _binomial(successes: int, count: int, share: float) -> float:
    if share in (0.0, 1.0):
        return float(successes == share * count)
    chosen = math.lgamma(count + 1) - math.lgamma(successes + 1) - math.lgamma(count - successes + 1)
    return math.exp(chosen + successes * math.log(share) + (count - successes) * math.log1p(-share))


def _score(to_right: float, to_wrong: float, count: float) -> Callable[[float], float]:
    """Return Tango's statistic as a function of the true difference; it falls as that grows."""

    def statistic(true: float) -> float:
        linear = -to_right - to_wrong + (2 * count - to_right + to_wrong) * true
        constant = -to_wrong * true * (1 - true)
        root = math.sqrt(max(0.0, linear**2 - 8 * count * constant))
        share = max(0.0, (root - linear) / (4 * count))
        variance = count * (2 * share + true * (1 - true))
        distance = to_right - to_wrong - count * true
        if variance <= 0:
            return math.copysign(math.inf, distance) if distance else 0.0
        return distance / math.sqrt(variance)

    return statistic


def _solve(rising: Callable[[float], float], low: float, high: float) -> float:
    """Return where a rising function crosses zero, by bisection; an end where it does not."""
    for _ in range(_STEPS):
        middle = (low + high) / 2
        low, high = (middle, high) if rising(middle) < 0 else (low, middle)
    return (low + high) / 2
