"""Percentiles, standard errors from blocks and McNemar's test against numpy and by hand."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from phiforge.validation.statistics import block_ids, clustered_mean, mcnemar_p, percentiles


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
