"""Percentiles, standard errors from blocks, McNemar's test and the bootstrap against numpy and by hand."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from phiforge.evidence import Interval
from phiforge.validation.statistics import (
    block_ids,
    bootstrap_interval,
    clustered_mean,
    interval_of_blocked_percentile,
    interval_of_mean,
    interval_of_percentile,
    mcnemar_p,
    percentiles,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=200))
def test_percentiles_are_numpys_and_rise(values: list[float]) -> None:
    found = percentiles(values)
    assert found.p50 == pytest.approx(float(np.median(values)))
    assert found.p99_9 == pytest.approx(float(np.percentile(values, 99.9)))
    assert found.max == max(values)
    rising = list(found.model_dump().values())
    assert all(a <= b or math.isclose(a, b) for a, b in pairwise(rising))


def test_blocks_do_not_cross_texts() -> None:
    assert block_ids([5, 2, 4], 2).tolist() == [0, 0, 1, 1, 2, 3, 3, 4, 4, 5, 5]
    assert block_ids([3, 0, 1], 4).tolist() == [0, 0, 0, 1]
    assert block_ids([]).tolist() == []


def test_with_blocks_of_one_the_standard_error_is_the_usual_one() -> None:
    values = np.random.default_rng(0).normal(size=50)
    found = clustered_mean(values, np.arange(50))
    assert found.mean == pytest.approx(values.mean())
    assert found.standard_error == pytest.approx(values.std(ddof=1) / math.sqrt(50))


def test_equal_blocks_give_the_standard_error_of_their_means() -> None:
    values = np.random.default_rng(1).normal(size=(20, 8))
    found = clustered_mean(values.ravel(), np.repeat(np.arange(20), 8))
    assert found.standard_error == pytest.approx(values.mean(axis=1).std(ddof=1) / math.sqrt(20))


def test_tokens_that_err_together_have_a_larger_error() -> None:
    values = np.repeat(np.random.default_rng(2).normal(size=20), 8)
    alone = clustered_mean(values, np.arange(160)).standard_error
    assert clustered_mean(values, np.repeat(np.arange(20), 8)).standard_error > 2 * alone


def test_one_block_has_no_standard_error() -> None:
    assert math.isnan(clustered_mean(np.ones(3), np.zeros(3, dtype=np.int64)).standard_error)


@given(st.integers(0, 60), st.integers(0, 60))
def test_mcnemar_is_a_symmetric_probability(to_wrong: int, to_right: int) -> None:
    p = mcnemar_p(to_wrong, to_right)
    assert 0 < p <= 1
    assert p == mcnemar_p(to_right, to_wrong)


@pytest.mark.parametrize(
    ("to_wrong", "to_right", "p"), [(0, 0, 1.0), (1, 0, 1.0), (5, 0, 0.0625), (1, 9, 0.021484375), (6, 6, 1.0)]
)
def test_mcnemar_by_hand(to_wrong: int, to_right: int, p: float) -> None:
    assert mcnemar_p(to_wrong, to_right) == pytest.approx(p)


# The bootstrap.


def test_a_bootstrap_of_means_is_nearly_student_s() -> None:
    values = np.random.default_rng(5).normal(size=200)
    found = bootstrap_interval(lambda index: float(values[index].mean()), 200)
    exact = interval_of_mean(clustered_mean(values, np.arange(200)), 200)
    assert found.low == pytest.approx(exact.low, abs=0.02)
    assert found.high == pytest.approx(exact.high, abs=0.02)


def test_the_same_seed_gives_the_same_interval() -> None:
    values = np.random.default_rng(6).normal(size=30)

    def mean(index: NDArray[np.int64]) -> float:
        return float(values[index].mean())

    assert bootstrap_interval(mean, 30, draws=50) == bootstrap_interval(mean, 30, draws=50)
    assert bootstrap_interval(mean, 30, draws=50) != bootstrap_interval(mean, 30, draws=50, seed=1)


def test_whole_blocks_are_drawn() -> None:
    """Each block has one value, so blocks of 8 make the interval as wide as 25 values do, not as 200."""
    blocks = np.repeat(np.arange(25), 8)
    values = np.random.default_rng(7).normal(size=25)[blocks]

    def mean(index: NDArray[np.int64]) -> float:
        assert len(index) % 8 == 0
        return float(values[index].mean())

    alone, together = bootstrap_interval(mean, 200), bootstrap_interval(mean, 200, blocks=blocks)
    assert width(together) > 2 * width(alone)


def width(interval: Interval) -> float:
    assert interval.low is not None
    assert interval.high is not None
    return interval.high - interval.low


@pytest.mark.parametrize("share", [0.02, 0.2])
def test_draws_that_are_no_number_never_narrow_the_interval(share: float) -> None:
    """Up to a share of 5 % they lie beyond the ends; with more there is no end."""
    generator = np.random.default_rng(8)
    values = generator.normal(size=40)

    def sometimes(index: NDArray[np.int64]) -> float:
        return math.nan if generator.random() < share else float(values[index].mean())

    found, whole = bootstrap_interval(sometimes, 40), bootstrap_interval(lambda i: float(values[i].mean()), 40)
    if share > 0.05:
        assert (found.low, found.high) == (None, None)
    else:
        assert width(found) >= width(whole)


@pytest.mark.parametrize("count", [0, 1, 7])
def test_too_few_items_or_blocks_have_no_bootstrap(count: int) -> None:
    assert bootstrap_interval(lambda _: 1.0, count) == Interval(low=None, high=None)
    blocks = np.repeat(np.arange(count), 100)
    assert bootstrap_interval(lambda _: 1.0, 100 * count, blocks=blocks) == Interval(low=None, high=None)


def drifting(positions: int, seed: int) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """KL-like values: blocks of 64 that are large or small together."""
    generator = np.random.default_rng(seed)
    blocks = np.arange(positions) // 64
    return generator.lognormal(size=positions) * generator.lognormal(size=blocks[-1] + 1)[blocks], blocks


def test_independent_values_have_the_order_statistics_of_all() -> None:
    """Of blocks of one value each only the factor for few blocks is left, and with 2,000 it takes 3 of them."""
    values = np.random.default_rng(4).normal(size=2000)
    alone = interval_of_blocked_percentile(values, np.arange(2000), 0.5)
    exact = interval_of_percentile(values.tolist(), 0.5)
    assert alone.low == pytest.approx(exact.low, abs=0.01)
    assert alone.high == pytest.approx(exact.high, abs=0.01)


def test_copies_count_once() -> None:
    """Each value eight times over, in its block: as many values in effect as there are blocks."""
    values = np.random.default_rng(4).lognormal(size=1000)
    alone = interval_of_blocked_percentile(values, np.arange(1000), 0.9)
    copied = interval_of_blocked_percentile(np.repeat(values, 8), np.repeat(np.arange(1000), 8), 0.9)
    assert copied.low == pytest.approx(alone.low, rel=0.01)
    assert copied.high == pytest.approx(alone.high, rel=0.01)


@pytest.mark.parametrize(("positions", "blocks"), [(298, 298), (310, 10), (2000, 1), (0, 0)])
def test_a_p99_of_too_few_positions_or_blocks_has_no_upper_end(positions: int, blocks: int) -> None:
    values = np.random.default_rng(2).lognormal(size=positions)
    member = np.arange(positions) * blocks // max(positions, 1)
    assert interval_of_blocked_percentile(values, member, 0.99).high is None


def test_values_that_are_no_numbers_have_no_percentile() -> None:
    assert interval_of_blocked_percentile(np.full(600, math.inf), np.arange(600), 0.99).high is None


@pytest.mark.parametrize("positions", [4000, 12_000])
def test_a_p99_s_bounds_hold_as_often_as_they_say(positions: int) -> None:
    """300 samples; the truth is the p99 of a million. The bootstrap over blocks had it below its upper end in 86 %."""
    truth = float(np.percentile(drifting(1_000_000, seed=0)[0], 99))
    found = [interval_of_blocked_percentile(*drifting(positions, seed=seed), 0.99) for seed in range(1, 301)]
    assert np.mean([item.high is None or item.high >= truth for item in found]) >= 0.93
    assert np.mean([item.low is None or item.low <= truth for item in found]) >= 0.93
