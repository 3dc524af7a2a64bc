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
# Above so many degrees of freedom the expansion of the t quantile is exact to 1e-9, and faster than the series.
_SERIES_DEGREES = 200
_STEPS = 60

UNKNOWN = Interval(low=None, high=None)


def interval_of_mean(estimate: Estimate, groups: int) -> Interval:
    """Return the interval of a mean over groups that err alike, by Student's t with groups - 1 degrees of freedom.

    Args:
        estimate: The mean, and its standard error over the groups.
        groups: Blocks of text, or repeats; with one there is no interval.
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


def _exact_low(successes: int, count: int) -> float:
    """Return the share of successes under which so many or more have a chance of 0.05."""
    if successes <= 0:
        return 0.0

    def excess(share: float) -> float:
        return sum(_binomial(k, count, share) for k in range(successes, count + 1)) - _ALPHA

    return _solve(excess, 0.0, 1.0)


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
