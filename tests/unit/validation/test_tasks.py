"""Answers, flips and recovery."""

from __future__ import annotations

import math

import pytest

from phiforge.validation.tasks import Answered, answer_of, overall_score, task_scores
from unit.validation.reference_outputs import suite


@pytest.mark.parametrize(
    ("generated", "answer"),
    [
        ("12", "12"),
        ("<think>5+7</think>12<|end|>", "12"),
        ("<think>a</think><think>b</think> 12 \n", "12"),
        ("<|assistant|>12<|end|><|endoftext|>", "12"),
        ("<think>12", ""),
        ("a < b | c", "a < b | c"),
        ("", ""),
    ],
)
def test_answer_follows_the_thinking(generated: str, answer: str) -> None:
    assert answer_of(generated) == answer


def answered(task: str, reference: bool, variant: bool) -> Answered:
    return Answered(task, reference, variant, reference_tokens=10, variant_tokens=20)


def test_flips_are_counted_both_ways() -> None:
    items = [answered("a", True, True)] * 5 + [answered("a", True, False)] * 3 + [answered("b", False, True)] * 2
    first, second = task_scores(items, [suite("a"), suite("never asked"), suite("b")])
    assert (first.task, first.questions, first.flips_to_wrong, first.flips_to_right) == ("a", 8, 3, 0)
    assert first.recovery_fraction == pytest.approx(5 / 8)
    assert first.mcnemar_p == pytest.approx(0.25)
    assert (second.task, second.reference_correct, second.variant_correct) == ("b", 0, 2)
    assert math.isnan(second.recovery_fraction)
    overall = overall_score(items)
    assert (overall.task, overall.reference_correct, overall.variant_correct) == ("overall", 8, 7)
    assert (overall.reference_tokens_per_answer, overall.variant_tokens_per_answer) == (10, 20)


def test_a_score_says_where_its_questions_are_from() -> None:
    (score,) = task_scores([answered("a", True, True)] * 6, [suite("a")])
    assert score.source == suite("a").source
    assert overall_score([answered("a", True, True)] * 6).source is None


def test_the_change_has_an_interval_from_pairs() -> None:
    """Questions that both have right or both wrong add nothing to the spread of the difference."""
    items = [answered("a", True, True)] * 50 + [answered("a", False, False)] * 50
    same = overall_score(items).accuracy_change_interval_fraction
    assert same is not None
    assert (same.low, same.high) == (0, 0)
    flipped = overall_score([*items, *[answered("a", True, False)] * 10]).accuracy_change_interval_fraction
    assert flipped is not None and flipped.low is not None and flipped.high is not None
    # Ten of 110 flipped: a binomial share of 0.091 with a standard error of 0.027.
    assert flipped.low == pytest.approx(-0.091 - 1.645 * 0.0274, abs=0.015)
    assert flipped.high == pytest.approx(-0.091 + 1.645 * 0.0274, abs=0.015)


def test_recovery_has_a_width_where_nothing_flipped() -> None:
    recovery = overall_score([answered("a", True, True)] * 30).recovery_interval_fraction
    assert recovery is not None and recovery.low is not None
    assert 0.8 < recovery.low < 1
    lost = [answered("a", True, True)] * 25 + [answered("a", True, False)] * 5
    gained = [answered("a", True, True)] * 25 + [answered("a", False, True)] * 5
    worse, better = (overall_score(items).recovery_interval_fraction for items in (lost, gained))
    assert worse is not None and worse.high is not None and better is not None and better.low is not None
    assert worse.high < 1 < better.low


def test_longer_answers_show_with_their_interval() -> None:
    items = [Answered("a", True, True, 10, 20), Answered("a", True, True, 30, 30)] * 20
    score = overall_score(items)
    assert score.tokens_per_answer_ratio == pytest.approx(50 / 40)
    interval = score.tokens_per_answer_ratio_interval
    assert interval is not None and interval.low is not None and interval.high is not None
    assert 1.15 < interval.low < 1.25 < interval.high < 1.4


def test_chosen_answers_have_no_length() -> None:
    score = overall_score([Answered("a", True, False, None, None)] * 6)
    assert score.tokens_per_answer_ratio is None
    assert (score.reference_tokens_per_answer, score.variant_tokens_per_answer) == (0, 0)
    mixed = overall_score([Answered("a", True, False, None, None), Answered("b", True, True, 4, 6)] * 6)
    assert mixed.tokens_per_answer_ratio == pytest.approx(1.5)
    assert mixed.reference_tokens_per_answer == 4


def test_no_tokens_at_all_have_no_ratio() -> None:
    assert overall_score([Answered("a", False, False, 0, 3)] * 6).tokens_per_answer_ratio is None
