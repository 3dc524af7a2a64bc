"""Cliffs: planted ones are found where they are, and noise is none."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from phiforge.validation.cliffs import BINS_MAX, decode_bins, find_cliffs

Runs = NDArray[np.float64]
FIRST = 17


def series(seed: int, tokens: int, *, noise: float = 0.05, runs: int = 3, spikes: float = 0.0) -> Runs:
    """Times that grow with the context, with noise, and a share of tokens that some other process held up."""
    random = np.random.default_rng(seed)
    times = (0.2 + 0.0003 * np.arange(tokens)) * np.exp(noise * random.standard_normal((runs, tokens)))
    held_up = random.random(times.shape) < spikes
    result: Runs = np.where(held_up, times * random.uniform(2, 20, times.shape), times)
    return result


@settings(max_examples=30)
@given(seed=st.integers(0, 2**32 - 1), tokens=st.integers(128, 500), noise=st.sampled_from([0.0, 0.02, 0.1, 0.2]))
def test_noise_and_growth_are_no_cliff(seed: int, tokens: int, noise: float) -> None:
    assert find_cliffs(FIRST, series(seed, tokens, noise=noise)) == ()


def test_of_fifty_series_with_held_up_tokens_at_most_one_has_a_false_cliff() -> None:
    found = [find_cliffs(FIRST, series(seed, 500, noise=0.1, spikes=0.02)) for seed in range(50)]
    assert sum(bool(cliffs) for cliffs in found) <= 1


@settings(max_examples=25)
@given(seed=st.integers(0, 2**32 - 1), at=st.integers(100, 300), ratio=st.floats(1.5, 5))
def test_a_planted_step_is_found_where_it_is(seed: int, at: int, ratio: float) -> None:
    runs = series(seed, 400)
    runs[:, at:] *= ratio
    (cliff,) = find_cliffs(FIRST, runs)
    assert cliff.shape == "step"
    assert abs(cliff.position - FIRST - at) <= 2
    assert cliff.ratio == pytest.approx(ratio, rel=0.15)


@settings(max_examples=25)
@given(seed=st.integers(0, 2**32 - 1), at=st.integers(0, 399), ratio=st.floats(6, 500))
def test_a_planted_stall_is_found_where_it_is(seed: int, at: int, ratio: float) -> None:
    runs = series(seed, 400)
    runs[:, at] *= ratio
    (cliff,) = find_cliffs(FIRST, runs)
    assert (cliff.shape, cliff.position) == ("stall", FIRST + at)
    assert cliff.ratio == pytest.approx(ratio, rel=0.3)


def test_several_cliffs_are_found_in_order() -> None:
    runs = series(1, 1200)
    runs[:, 300:] *= 1.4
    runs[:, 800:] *= 1.6
    runs[:, 500] *= 40
    assert [cliff.shape for cliff in find_cliffs(FIRST, runs)] == ["step", "stall", "step"]


@pytest.mark.parametrize("runs_with_it", [[0], [0, 1], [1, 2]])
def test_what_is_not_in_every_run_is_none(runs_with_it: list[int]) -> None:
    """The machine became busy, or held a token up, at the same position in some runs only."""
    runs = series(2, 400)
    runs[runs_with_it, 200:] *= 2
    runs[runs_with_it, 100] *= 50
    assert find_cliffs(FIRST, runs) == ()


def test_a_slow_stretch_that_ends_is_no_step() -> None:
    runs = series(3, 600)
    runs[:, 200:260] *= 2
    assert find_cliffs(FIRST, runs) == ()


def test_becoming_faster_is_no_cliff() -> None:
    runs = series(4, 400)
    runs[:, 200:] /= 2
    assert find_cliffs(FIRST, runs) == ()


@pytest.mark.parametrize("runs", [np.ones((2, 400)), np.ones((3, 63)), np.ones((3, 0)), np.ones(400)])
def test_too_little_tells_nothing(runs: Runs) -> None:
    assert find_cliffs(FIRST, runs) == ()


def test_a_cliff_near_a_known_position_is_named_and_another_is_not() -> None:
    runs = series(5, 600)
    runs[:, 200] *= 50
    runs[:, 400] *= 50
    named = find_cliffs(FIRST, runs, {FIRST + 201: "the switch"})
    assert [cliff.cause for cliff in named] == ["the switch", ""]


@given(first=st.integers(1, 5000), tokens=st.integers(1, 5000))
def test_bins_hold_every_token_once(first: int, tokens: int) -> None:
    bins = decode_bins(first, np.tile(np.arange(tokens, dtype=np.float64), (3, 1)))
    assert sum(item.count for item in bins) == 3 * tokens
    assert (bins[0].start, bins[-1].stop) == (first, first + tokens)
    assert all(a.stop == b.start for a, b in pairwise(bins))
    assert len(bins) <= BINS_MAX + 1


def test_bins_have_the_times_of_their_positions() -> None:
    (first, second) = decode_bins(16, np.asarray([[1.0] * 16 + [5.0] * 16] * 2))
    assert (first.start, first.stop, first.inter_token_p50_ms, first.inter_token_p95_ms) == (16, 32, 1.0, 1.0)
    assert (second.start, second.stop, second.inter_token_p50_ms) == (32, 48, 5.0)
