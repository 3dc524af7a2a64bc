"""Answers before and after: how many are right, how many flipped, and what the difference is worth. Pure."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from phiforge.evidence import TaskScore
from phiforge.intervals import interval_of_recovery
from phiforge.validation.statistics import bootstrap_interval, mcnemar_p

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from phiforge.validation.reference_outputs import SuiteFacts

OPEN_THINKING, CLOSE_THINKING = "<think>", "</think>"
_SPECIAL = re.compile(r"<\|[^<>|]+\|>")


@dataclass(frozen=True)
class Answered:
    """One question of a task: right or not by reference and variant, and the new tokens each took.

    Where an answer was chosen and not generated, there are no tokens: both are None.
    """

    task: str
    reference_right: bool
    variant_right: bool
    reference_tokens: int | None
    variant_tokens: int | None


def answer_of(generated: str) -> str:
    """Return the answer in a generated text: what follows the last `</think>`, without special tokens and outer spaces.

    Thinking that never ended has no answer.
    """
    thought, mark, answer = generated.rpartition(CLOSE_THINKING)
    if not mark and OPEN_THINKING in answer:
        return ""
    del thought
    return _SPECIAL.sub("", answer).strip()


def task_scores(answered: Sequence[Answered], suites: Sequence[SuiteFacts]) -> tuple[TaskScore, ...]:
    """Return the score of each task that was asked, in the order of the suites."""
    asked = {item.task for item in answered}
    return tuple(
        overall_score([item for item in answered if item.task == suite.name], (suite,), suite.name)
        for suite in suites
        if suite.name in asked
    )


def overall_score(answered: Sequence[Answered], suites: Sequence[SuiteFacts] = (), name: str = "overall") -> TaskScore:
    """Return one score over all questions given.

    Recovery is the variant's right answers over the reference's; NaN where the reference has none to keep.

    Args:
        answered: At least one question.
        suites: Where the questions are from; the score names the metric that they share, and the file of one alone.
        name: What the score is called.
    """
    ours = np.array([item.reference_right for item in answered], dtype=np.float64)
    theirs = np.array([item.variant_right for item in answered], dtype=np.float64)
    reference, variant = int(ours.sum()), int(theirs.sum())
    to_wrong = sum(item.reference_right and not item.variant_right for item in answered)
    to_right = sum(item.variant_right and not item.reference_right for item in answered)
    alone = suites[0] if len(suites) == 1 else None
    metrics = {suite.metric for suite in suites}
    return TaskScore(
        task=name,
        metric=metrics.pop() if len(metrics) == 1 else None,
        source=alone.source if alone else None,
        questions=len(answered),
        reference_correct=reference,
        variant_correct=variant,
        flips_to_wrong=to_wrong,
        flips_to_right=to_right,
        mcnemar_p=mcnemar_p(to_wrong, to_right),
        accuracy_change_interval_fraction=bootstrap_interval(
            lambda drawn: float((theirs[drawn] - ours[drawn]).mean()), len(answered)
        ),
        recovery_fraction=variant / reference if reference else math.nan,
        recovery_interval_fraction=interval_of_recovery(
            reference_correct=reference, to_right=to_right, to_wrong=to_wrong, count=len(answered)
        ),
        **_tokens(answered),
    )


def _tokens(answered: Sequence[Answered]) -> dict[str, Any]:
    """How long generated answers are on either side, and the ratio with its bootstrap interval over questions."""
    pairs = [
        (item.reference_tokens, item.variant_tokens)
        for item in answered
        if item.reference_tokens is not None and item.variant_tokens is not None
    ]
    if not pairs:
        return {"reference_tokens_per_answer": 0.0, "variant_tokens_per_answer": 0.0}
    ours, theirs = np.array(pairs, dtype=np.float64).T
    means = {"reference_tokens_per_answer": float(ours.mean()), "variant_tokens_per_answer": float(theirs.mean())}
    if not ours.sum():
        return means
    interval = bootstrap_interval(lambda drawn: _ratio(theirs[drawn], ours[drawn]), len(ours))
    return {
        **means,
        "tokens_per_answer_ratio": _ratio(theirs, ours),
        "tokens_per_answer_ratio_interval": interval,
    }


def _ratio(numerator: NDArray[np.float64], denominator: NDArray[np.float64]) -> float:
    return float(numerator.sum() / denominator.sum()) if denominator.sum() else math.nan
