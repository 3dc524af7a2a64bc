"""Free running: where generations part, how they end, and that the counts say so."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from phiforge.validation.free_running import Continuation, first_divergence, score_continuations

TOKENS = st.lists(st.integers(0, 3), max_size=40).map(tuple)
CONTINUATIONS = st.builds(Continuation, TOKENS, st.booleans())


def made(text: str, *, limit: int = 12) -> Continuation:
    """One token for each letter; a dot is the stop id, without one it ran to its limit."""
    tokens = tuple(ord(letter) for letter in text.removesuffix("."))
    assert text.endswith(".") or len(tokens) == limit
    return Continuation(tokens, text.endswith("."))


@pytest.mark.parametrize(
    ("ours", "theirs", "position"),
    [
        ("abc.", "abc.", 4),
        ("abc.", "abd.", 2),
        ("abc.", "ab.", 2),
        ("abc.", "abcd.", 3),
        (".", "a.", 0),
        (".", ".", 1),
        ("abcdefghijkl", "abcdefghijkl", 12),
        ("abcdefghijkl", "abcdefghijk.", 11),
    ],
)
def test_the_first_divergence_counts_from_zero_and_a_stop_is_a_position(ours: str, theirs: str, position: int) -> None:
    assert first_divergence(made(ours), made(theirs)) == position
    assert first_divergence(made(theirs), made(ours)) == position


def test_after_a_divergence_nothing_agrees_again() -> None:
    """The same tokens after another one are of another context."""
    numbers = score_continuations([made("abcdefghijkl")], [made("abxdefghijkl")], [12])
    assert [(b.start, b.stop, b.count) for b in numbers.agreement_by_position] == [(0, 8, 8), (8, 12, 4)]
    assert [b.agreement_fraction for b in numbers.agreement_by_position] == [2 / 8, 0]


def test_bins_hold_what_the_reference_generated() -> None:
    """A short answer leaves the later bins to the long ones; what the variant adds is in none."""
    numbers = score_continuations(
        [made("ab."), made("abcdefghijkl")], [made("abcdefghijkl"), made("abcdefghij.")], [12, 12]
    )
    assert [(b.count, b.agreement_fraction) for b in numbers.agreement_by_position] == [(11, 10 / 11), (4, 2 / 4)]


def test_endings_are_told_of_both_sides() -> None:
    reference = [made("abcdef."), made("abcdef."), made("abcdefghijkl"), made("abcdefghijkl"), made("ababababab.")]
    variant = [made("ab."), made("abc."), made("abababababab"), made("abcdefghijkx"), made("abababababab")]
    numbers = score_continuations(reference, variant, [12] * 5)
    assert vars(numbers.reference) == {"stopped": 3, "unfinished": 2, "looping": 0, "early": 0}
    # "ab." has 3 of 7 positions, "abc." 4 of 7.
    assert vars(numbers.variant) == {"stopped": 2, "unfinished": 3, "looping": 2, "early": 1}
    assert (numbers.prompts, numbers.identical) == (5, 0)


def test_the_length_ratio_is_of_all_positions_with_an_interval_over_prompts() -> None:
    reference = [made("abc."), made("abcdefg.")] * 20
    variant = [made("abc."), made("abcdefghijkl")] * 20
    numbers = score_continuations(reference, variant, [12] * 40)
    assert numbers.length_ratio == pytest.approx(16 / 12)
    low, high = numbers.length_ratio_interval.low, numbers.length_ratio_interval.high
    assert low is not None and high is not None
    assert 1.2 < low < 16 / 12 < high < 1.45


@given(items=st.lists(CONTINUATIONS, min_size=1, max_size=8))
def test_a_generation_is_identical_to_itself(items: list[Continuation]) -> None:
    numbers = score_continuations(items, items, [40] * len(items))
    assert numbers.identical == numbers.prompts == len(items)
    assert all(b.agreement_fraction == 1 for b in numbers.agreement_by_position)
    assert numbers.reference == numbers.variant
    assert numbers.first_divergence_percentiles_tokens.max == max(item.length for item in items)
    if any(item.length for item in items):
        assert numbers.length_ratio == 1


@given(pairs=st.lists(st.tuples(CONTINUATIONS, CONTINUATIONS), min_size=1, max_size=8))
def test_the_counts_add_up(pairs: list[tuple[Continuation, Continuation]]) -> None:
    numbers = score_continuations([one for one, _ in pairs], [other for _, other in pairs], [40] * len(pairs))
    for side in (numbers.reference, numbers.variant):
        assert side.stopped + side.unfinished == numbers.prompts
        assert side.looping <= side.unfinished
        assert side.early <= side.stopped
    bins = numbers.agreement_by_position
    assert sum(b.count for b in bins) == sum(one.length for one, _ in pairs)
    agreeing = sum(b.agreement_fraction * b.count for b in bins)
    assert agreeing == pytest.approx(sum(first_divergence(*pair) for pair in pairs))
    assert all(0 <= b.agreement_fraction <= 1 for b in bins)
    assert [b.start for b in bins[1:]] == [b.stop for b in bins[:-1]]


@given(one=CONTINUATIONS, other=CONTINUATIONS, limit=st.integers(1, 40))
def test_a_lower_limit_cuts_and_hides_what_comes_after_it(one: Continuation, other: Continuation, limit: int) -> None:
    assert one.cut(limit).length <= limit
    assert one.cut(limit).cut(limit) == one.cut(limit)
    assert first_divergence(one.cut(limit), other.cut(limit)) == min(first_divergence(one, other), limit)
    assert one.cut(limit).stopped is (one.stopped and len(one.tokens) < limit)
