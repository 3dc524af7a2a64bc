"""Answers, flips and recovery."""

from __future__ import annotations

import math

import pytest

from phiforge.validation.tasks import Answered, answer_of, is_right, overall_score, task_scores


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


def test_right_is_exactly_right() -> None:
    assert is_right("<think>x</think>113<|end|>", " 113")
    assert not is_right("113.", "113")


def answered(task: str, reference: bool, variant: bool) -> Answered:
    return Answered(task, reference, variant, reference_tokens=10, variant_tokens=20)


def test_flips_are_counted_both_ways() -> None:
    items = [answered("a", True, True)] * 5 + [answered("a", True, False)] * 3 + [answered("b", False, True)] * 2
    first, second = task_scores(items)
    assert (first.task, first.questions, first.flips_to_wrong, first.flips_to_right) == ("a", 8, 3, 0)
    assert first.recovery_fraction == pytest.approx(5 / 8)
    assert first.mcnemar_p == pytest.approx(0.25)
    assert (second.task, second.reference_correct, second.variant_correct) == ("b", 0, 2)
    assert math.isnan(second.recovery_fraction)
    overall = overall_score(items)
    assert (overall.task, overall.reference_correct, overall.variant_correct) == ("overall", 8, 7)
    assert (overall.reference_tokens_per_answer, overall.variant_tokens_per_answer) == (10, 20)
