"""The rule of a tuning: the first in order of all that are within the noise of the fastest."""

from __future__ import annotations

from statistics import median

import pytest
from hypothesis import given
from hypothesis import strategies as st

from phiforge.choice import Contender, decide, gain, least_gain, noise_fraction

times = st.lists(st.floats(1.0, 1e5), min_size=3, max_size=9).map(tuple)
fields = st.lists(times, min_size=1, max_size=5).map(
    lambda found: [Contender(f"c{index}", times) for index, times in enumerate(found)]
)


@given(fields)
def test_the_chosen_is_within_the_noise_of_the_fastest_and_the_first_that_is(contenders: list[Contender]) -> None:
    decision = decide(contenders)
    medians = {item.name: median(item.times_ms) for item in contenders}
    fastest = min(medians.values())
    within = [name for name, value in medians.items() if gain(value, fastest) <= decision.least_gain_fraction]
    assert decision.chosen == within[0]


@given(fields, st.floats(0.1, 10.0))
def test_the_unit_of_time_does_not_matter(contenders: list[Contender], factor: float) -> None:
    scaled = [Contender(item.name, tuple(time * factor for time in item.times_ms)) for item in contenders]
    assert decide(scaled).noise_fraction == pytest.approx(decide(contenders).noise_fraction, rel=1e-6, abs=1e-12)


@given(fields, st.randoms())
def test_the_order_of_rounds_does_not_matter(contenders: list[Contender], random: st.random.Random) -> None:  # type: ignore[name-defined]
    shuffled = [Contender(item.name, tuple(random.sample(item.times_ms, len(item.times_ms)))) for item in contenders]
    assert decide(shuffled).chosen == decide(contenders).chosen


@given(fields)
def test_a_failed_contender_is_never_chosen_and_changes_nothing_else(contenders: list[Contender]) -> None:
    decision = decide([*contenders, Contender("failed", ())])
    assert decision == decide(contenders)
    first = decide([Contender("failed", ()), *contenders])
    assert first.chosen == decision.chosen
    assert first.why.startswith("failed failed. ")


def test_a_gain_below_the_noise_is_none() -> None:
    default, other = Contender("default", (100.0, 104.0, 96.0)), Contender("other", (98.0, 102.0, 94.0))
    decision = decide([default, other])
    assert decision.chosen == "default"
    assert "within the noise" in decision.why


def test_a_gain_above_the_noise_counts() -> None:
    decision = decide([Contender("default", (100.0, 101.0, 99.0)), Contender("other", (80.0, 81.0, 79.0))])
    assert decision.chosen == "other"
    assert decision.why.startswith("other takes 20.0% less time than default; a gain counts from ")


def test_the_simpler_of_two_that_are_better_is_taken() -> None:
    decision = decide(
        [
            Contender("default", (100.0, 101.0, 99.0)),
            Contender("simple", (80.0, 81.0, 79.0)),
            Contender("odd", (79.8, 80.8, 78.8)),
        ]
    )
    assert decision.chosen == "simple"
    assert "simple takes 20.0% less time than default" in decision.why
    assert "odd takes 0.3% less time than simple, which is within the noise" in decision.why


def test_nothing_is_chosen_where_all_failed() -> None:
    assert decide([Contender("a", ()), Contender("b", ())]).chosen is None


def test_noise_is_that_of_single_times() -> None:
    assert noise_fraction([Contender("a", (100.0, 110.0, 90.0)), Contender("b", (10.0, 11.0, 9.0))]) == pytest.approx(
        0.14826
    )
    assert least_gain(0.1, 8) == pytest.approx(2 * 1.2533 * 0.1 / 2)
    assert least_gain(0.1, 32) == pytest.approx(least_gain(0.1, 8) / 2)
