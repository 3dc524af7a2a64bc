"""Confidence intervals against published tables, brute force and simulated coverage."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from phiforge.evidence import Estimate, Interval
from phiforge.intervals import (
    UNKNOWN,
    effective_share,
    fewest_values,
    interval_of_clustered_proportion,
    interval_of_mean,
    interval_of_median,
    interval_of_paired_difference,
    interval_of_percentile,
    interval_of_proportion,
    interval_of_recovery,
    samples_needed,
    student_t,
)
from phiforge.validation.statistics import clustered_mean

Z = 1.6448536269514722


def ends(interval: Interval) -> tuple[float, float]:
    assert interval.low is not None
    assert interval.high is not None
    return interval.low, interval.high


# Student's t.


@pytest.mark.parametrize(
    ("degrees", "quantile"),
    # NIST/SEMATECH e-Handbook of Statistical Methods, section 1.3.6.7.2, column 0.95.
    [(1, 6.314), (2, 2.920), (3, 2.353), (4, 2.132), (5, 2.015), (9, 1.833), (10, 1.812), (29, 1.699), (100, 1.660)],
)
def test_student_t_is_the_table_s(degrees: int, quantile: float) -> None:
    assert student_t(degrees) == pytest.approx(quantile, abs=5.1e-4)


@pytest.mark.parametrize("degrees", [1, 2, 3, 8, 9, 57, 200, 201, 1000])
def test_student_t_by_integrating_the_density(degrees: int) -> None:
    """The trapezoid rule on t = tan(u), where the density has no tail."""
    u = np.linspace(-math.pi / 2, math.atan(student_t(degrees)), 400_001)[1:]
    log_norm = math.lgamma((degrees + 1) / 2) - math.lgamma(degrees / 2) - math.log(degrees * math.pi) / 2
    t = np.tan(u)
    density = np.exp(log_norm - (degrees + 1) / 2 * np.log1p(t * t / degrees)) / np.cos(u) ** 2
    assert float(np.trapezoid(density, u)) == pytest.approx(0.95, abs=1e-5)


def test_student_t_falls_to_the_normal_quantile() -> None:
    quantiles = [student_t(degrees) for degrees in range(1, 400)]
    assert all(before > after for before, after in pairwise(quantiles))
    assert student_t(10**6) == pytest.approx(Z, abs=1e-5)


def test_a_mean_s_interval_by_hand() -> None:
    low, high = ends(interval_of_mean(Estimate(mean=2.0, standard_error=0.5), 5))
    assert (low, high) == pytest.approx((2 - 2.13185 * 0.5, 2 + 2.13185 * 0.5), abs=1e-5)


@pytest.mark.parametrize(("mean", "error", "groups"), [(1.0, 0.1, 1), (1.0, math.nan, 9), (math.nan, 0.1, 9)])
def test_a_mean_without_groups_or_numbers_has_none(mean: float, error: float, groups: int) -> None:
    assert interval_of_mean(Estimate(mean=mean, standard_error=error), groups) == UNKNOWN


# Order statistics.


@pytest.mark.parametrize(
    ("count", "rank"),
    # Conover, Practical Nonparametric Statistics, table A3 (binomial, p = 0.5): P(X <= rank - 1) <= 0.05.
    [(5, 1), (7, 1), (8, 2), (10, 2), (11, 3), (13, 4), (20, 6)],
)
def test_a_median_s_bounds_are_order_statistics(count: int, rank: int) -> None:
    values = [float(value) for value in range(1, count + 1)]
    assert ends(interval_of_median(values)) == (rank, count + 1 - rank)


@pytest.mark.parametrize("count", [0, 1, 4])
def test_fewer_than_five_values_bound_no_median(count: int) -> None:
    assert interval_of_median([1.0] * count) == UNKNOWN


def test_a_value_that_is_no_number_bounds_nothing() -> None:
    assert interval_of_median([1.0, 2.0, 3.0, 4.0, 5.0, math.nan]) == UNKNOWN
    assert interval_of_median([1.0, 2.0, 3.0, 4.0, 5.0, math.inf]) == UNKNOWN


def test_a_p99_needs_299_values_above_it() -> None:
    assert 0.99**299 <= 0.05 < 0.99**298
    assert fewest_values(0.99, upper=True) == 299
    assert interval_of_percentile(list(range(298)), 0.99).high is None
    assert interval_of_percentile(list(range(299)), 0.99).high == 298
    assert fewest_values(0.5, upper=True) == fewest_values(0.5, upper=False) == 5
    assert fewest_values(0.99, upper=False) == 1


@given(st.lists(st.floats(-1e6, 1e6), min_size=5, max_size=60), st.sampled_from([0.5, 0.9]))
def test_percentile_bounds_are_by_the_binomial(values: list[float], fraction: float) -> None:
    """Brute force: the tails of the binomial added one by one."""
    found, ordered, count = interval_of_percentile(values, fraction), sorted(values), len(values)
    chances = [math.comb(count, k) * fraction**k * (1 - fraction) ** (count - k) for k in range(count + 1)]
    low = [rank for rank in range(1, count + 1) if sum(chances[:rank]) <= 0.05]
    high = [rank for rank in range(1, count + 1) if sum(chances[rank:]) <= 0.05]
    assert found.low == (ordered[max(low) - 1] if low else None)
    assert found.high == (ordered[min(high) - 1] if high else None)


def test_a_median_s_bounds_hold_as_often_as_they_say() -> None:
    draws = np.random.default_rng(3).exponential(size=(2000, 15))
    found = [ends(interval_of_median(row)) for row in draws.tolist()]
    above = np.mean([low <= math.log(2) for low, _ in found])
    below = np.mean([high >= math.log(2) for _, high in found])
    assert above >= 0.94
    assert below >= 0.94


# Proportions.


@pytest.mark.parametrize(
    ("successes", "count", "low", "high"),
    # By the closed forms that there are at the ends.
    [(0, 10, 0.0, 1 - 0.05**0.1), (10, 10, 0.05**0.1, 1.0), (0, 600, 0.0, 1 - 0.05 ** (1 / 600))],
)
def test_a_proportion_is_clopper_and_pearson_s(successes: int, count: int, low: float, high: float) -> None:
    assert ends(interval_of_proportion(successes, count)) == pytest.approx((low, high), abs=1e-5)


@given(st.integers(1, 80), st.data())
def test_a_proportion_s_bounds_have_the_tail_they_say(count: int, data: st.DataObject) -> None:
    successes = data.draw(st.integers(0, count))
    low, high = ends(interval_of_proportion(successes, count))

    def at_least(share: float) -> float:
        return sum(math.comb(count, k) * share**k * (1 - share) ** (count - k) for k in range(successes, count + 1))

    assert successes == 0 or at_least(low) == pytest.approx(0.05, abs=1e-6)
    beyond = 1 - at_least(high) + math.comb(count, successes) * high**successes * (1 - high) ** (count - successes)
    assert successes == count or beyond == pytest.approx(0.05, abs=1e-6)
    assert low <= successes / count <= high


def tail(successes: int, count: int, share: float) -> float:
    """P(X >= successes), one binomial term after the other."""
    return math.fsum(math.comb(count, k) * share**k * (1 - share) ** (count - k) for k in range(successes, count + 1))


def brute_force_low(successes: int, count: int) -> float:
    """The share under which so many successes or more have a chance of 0.05, by halving."""
    low, high = 0.0, successes / count
    while high - low > 1e-10:
        middle = (low + high) / 2
        low, high = (middle, high) if tail(successes, count, middle) < 0.05 else (low, middle)
    return high


def clustered(share: float, error: float, groups: int, count: int) -> tuple[float, float]:
    return ends(
        interval_of_clustered_proportion(Estimate(mean=share, standard_error=error), groups=groups, count=count)
    )


# (z / t)^2 * count is as good as whole for so many groups, so that the binomial sums apply.
MANY = 10**9


@given(st.integers(1, 150), st.data())
def test_groups_that_do_not_differ_are_as_sure_as_independent_items(count: int, data: st.DataObject) -> None:
    successes = data.draw(st.integers(0, count))
    low, high = clustered(successes / count, 0.0, MANY, count)
    assert low == pytest.approx(brute_force_low(successes, count) if successes else 0.0, abs=1e-7)
    failures = count - successes
    assert high == pytest.approx(1 - brute_force_low(failures, count) if failures else 1.0, abs=1e-7)


@given(st.integers(1, 60), st.integers(2, 20), st.data())
def test_a_design_effect_divides_the_items(effective: int, effect: int, data: st.DataObject) -> None:
    """An error that is the root of so much larger makes the items so many fewer."""
    successes = data.draw(st.integers(0, effective))
    share = successes / effective
    error = math.sqrt(share * (1 - share) / effective)
    low, _ = clustered(share, error, MANY, effective * effect)
    exact = brute_force_low(successes, effective) if 0 < successes < effective else None
    if exact is not None:
        assert low == pytest.approx(max(0.0, min(exact, share - Z * error)), abs=1e-6)


@given(st.floats(0, 1), st.floats(0, 0.5), st.integers(2, 300), st.integers(1, 100_000))
def test_a_clustered_proportion_is_the_weaker_of_the_two(share: float, error: float, groups: int, count: int) -> None:
    low, high = clustered(share, error, groups, count)
    by_groups = interval_of_mean(Estimate(mean=share, standard_error=error), groups)
    effective = count * effective_share(groups)
    assert by_groups.low is not None
    assert by_groups.high is not None
    assert 0 <= low <= max(0.0, by_groups.low)
    assert min(1.0, by_groups.high) <= high <= 1
    # What is between two whole numbers of items is between their bounds; all successes are the surest.
    assert low <= 0.05 ** (1 / effective) + 1e-9
    assert high >= 1 - 0.05 ** (1 / effective) - 1e-9


@given(st.integers(2, 200), st.floats(0.01, 0.99), st.data())
def test_between_whole_numbers_of_items_the_bound_is_between_theirs(
    count: int, share: float, data: st.DataObject
) -> None:
    successes = math.floor(share * count)
    low, _ = clustered(share, 0.0, MANY, count)
    below = brute_force_low(successes, count) if successes else 0.0
    assert below - 1e-7 <= low <= brute_force_low(successes + 1, count) + 1e-7


@pytest.mark.parametrize("count", [10**8, 10**12, 1 << 62])
def test_beyond_all_counts_a_proportion_stays_a_number(count: int) -> None:
    low, high = clustered(0.94, 0.0, MANY, count)
    assert 0.94 - 1e-4 < low < 0.94 < high < 0.94 + 1e-4


@pytest.mark.parametrize(
    ("share", "error", "groups", "count"),
    [(0.9, 0.1, 1, 9), (0.9, math.nan, 9, 9), (math.nan, 0.1, 9, 9), (0.9, 0.1, 9, 0), (1.1, 0.1, 9, 9)],
)
def test_what_is_no_share_of_groups_has_no_interval(share: float, error: float, groups: int, count: int) -> None:
    estimate = Estimate(mean=share, standard_error=error)
    assert interval_of_clustered_proportion(estimate, groups=groups, count=count) == UNKNOWN


@pytest.mark.parametrize(("groups", "size"), [(9, 64), (14, 36), (139, 54)])
@pytest.mark.parametrize("share", [0.93, 0.97, 0.995])
def test_a_clustered_proportion_s_bound_holds_as_often_as_it_says(groups: int, size: int, share: float) -> None:
    """Shares of groups vary by a beta distribution with a correlation of 0.01, as of our variants' blocks."""
    generator, member = np.random.default_rng(11), np.repeat(np.arange(groups), size)
    scale = 0.99 / 0.01
    held = 0
    for own in generator.beta(share * scale, (1 - share) * scale, (400, groups)):
        agrees = (generator.random(groups * size) < own[member]).astype(np.float64)
        estimate = clustered_mean(agrees, member)
        low = interval_of_clustered_proportion(estimate, groups=groups, count=groups * size).low
        held += low is not None and low <= share
    assert held / 400 >= 0.93


def test_of_nothing_there_is_no_proportion() -> None:
    assert interval_of_proportion(0, 0) == interval_of_paired_difference(0, 0, 0) == UNKNOWN


# Paired differences and recovery.


@pytest.mark.parametrize("count", [1, 10, 50, 600])
def test_without_a_flip_the_difference_has_a_width(count: int) -> None:
    width = Z**2 / (count + Z**2)
    assert ends(interval_of_paired_difference(0, 0, count)) == pytest.approx((-width, width))


def brute_force_score(to_right: int, to_wrong: int, count: int, true: float) -> float:
    """Tango's statistic with the likelihood's maximum found by trying all shares, not by its formula."""
    shares = np.linspace(max(0.0, -true), (1 - true) / 2, 200_001)[1:-1]
    with np.errstate(divide="ignore", invalid="ignore"):
        likelihood = (
            (to_right * np.log(shares + true) if to_right else 0)
            + (to_wrong * np.log(shares) if to_wrong else 0)
            + (count - to_right - to_wrong) * np.log(1 - 2 * shares - true)
        )
    best = float(shares[int(np.nanargmax(likelihood))])
    return (to_right - to_wrong - count * true) / math.sqrt(count * (2 * best + true * (1 - true)))


@pytest.mark.parametrize(
    ("to_right", "to_wrong", "count"), [(12, 2, 50), (5, 5, 40), (1, 9, 30), (40, 20, 160), (28, 33, 750)]
)
def test_the_ends_are_where_the_score_test_rejects(to_right: int, to_wrong: int, count: int) -> None:
    low, high = ends(interval_of_paired_difference(to_right, to_wrong, count))
    assert brute_force_score(to_right, to_wrong, count, low) == pytest.approx(Z, abs=2e-3)
    assert brute_force_score(to_right, to_wrong, count, high) == pytest.approx(-Z, abs=2e-3)


@given(st.integers(0, 40), st.integers(0, 40), st.integers(0, 400))
def test_a_difference_lies_within_and_turns_with_its_sides(to_right: int, to_wrong: int, same: int) -> None:
    count = to_right + to_wrong + same
    if count == 0:
        return
    low, high = ends(interval_of_paired_difference(to_right, to_wrong, count))
    assert -1 <= low <= (to_right - to_wrong) / count + 1e-12
    assert (to_right - to_wrong) / count - 1e-12 <= high <= 1
    turned = ends(interval_of_paired_difference(to_wrong, to_right, count))
    assert turned == pytest.approx((-high, -low), abs=1e-9)


@pytest.mark.parametrize(("kept", "wins", "losses"), [(0.9, 0.02, 0.06), (0.95, 0.002, 0.004), (0.5, 0.1, 0.1)])
def test_recovery_s_bounds_hold_as_often_as_they_say(kept: float, wins: float, losses: float) -> None:
    """200 questions; `kept` right on both sides, `wins` and `losses` on one. The true recovery is known."""
    count, truth = 200, (kept + wins) / (kept + losses)
    drawn = np.random.default_rng(7).multinomial(count, [kept, wins, losses, 1 - kept - wins - losses], size=1500)
    found = [
        ends(interval_of_recovery(reference_correct=both + lost, to_right=won, to_wrong=lost, count=count))
        for both, won, lost, _ in drawn.tolist()
    ]
    assert np.mean([low <= truth for low, _ in found]) >= 0.93
    assert np.mean([high >= truth for _, high in found]) >= 0.93


def test_recovery_is_the_difference_over_the_reference_s_share() -> None:
    change = ends(interval_of_paired_difference(3, 7, 200))
    assert ends(interval_of_recovery(reference_correct=100, to_right=3, to_wrong=7, count=200)) == pytest.approx(
        (1 + change[0] * 2, 1 + change[1] * 2)
    )
    assert interval_of_recovery(reference_correct=0, to_right=3, to_wrong=0, count=200) == UNKNOWN
    assert interval_of_recovery(reference_correct=1, to_right=0, to_wrong=1, count=4).low == 0


# How many are needed.


@given(st.integers(0, 10_000), st.integers(0, 100_000))
def test_the_fewest_samples_are_found(count: int, wanted: int) -> None:
    assert samples_needed(count, lambda number: number >= wanted) == max(wanted, count, 1 if count == 0 else count)


def test_what_no_number_is_enough_for_has_none() -> None:
    assert samples_needed(5, lambda _: False) is None
