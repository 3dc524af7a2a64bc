"""Exact match on questions, before and after, and what the difference is worth."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from phiforge.evidence import TaskScore
from phiforge.validation.statistics import mcnemar_p

if TYPE_CHECKING:
    from collections.abc import Sequence

OPEN_THINKING, CLOSE_THINKING = "<think>", "</think>"
_SPECIAL = re.compile(r"<\|[^<>|]+\|>")


@dataclass(frozen=True)
class Answered:
    """One question of a task: right or not by reference and variant, and the new tokens each took."""

    task: str
    reference_right: bool
    variant_right: bool
    reference_tokens: int
    variant_tokens: int


def answer_of(generated: str) -> str:
    """Return the answer in a generated text: what follows the last `</think>`, without special tokens and outer spaces.

    Thinking that never ended has no answer.
    """
    thought, mark, answer = generated.rpartition(CLOSE_THINKING)
    if not mark and OPEN_THINKING in answer:
        return ""
    del thought
    return _SPECIAL.sub("", answer).strip()


def is_right(generated: str, answer: str) -> bool:
    """Return whether the answer in a generated text is exactly the right one."""
    return answer_of(generated) == answer.strip()


def task_scores(answered: Sequence[Answered]) -> tuple[TaskScore, ...]:
    """Return the score of each task, in the order the tasks first come."""
    names = list(dict.fromkeys(item.task for item in answered))
    return tuple(overall_score([item for item in answered if item.task == name], name) for name in names)


def overall_score(answered: Sequence[Answered], name: str = "overall") -> TaskScore:
    """Return one score over all questions given.

    Recovery is the variant's right answers over the reference's; NaN where the reference has none to keep.
    """
    reference = sum(item.reference_right for item in answered)
    variant = sum(item.variant_right for item in answered)
    to_wrong = sum(item.reference_right and not item.variant_right for item in answered)
    to_right = sum(item.variant_right and not item.reference_right for item in answered)
    return TaskScore(
        task=name,
        questions=len(answered),
        reference_correct=reference,
        variant_correct=variant,
        flips_to_wrong=to_wrong,
        flips_to_right=to_right,
        mcnemar_p=mcnemar_p(to_wrong, to_right),
        recovery_fraction=variant / reference if reference else math.nan,
        reference_tokens_per_answer=sum(item.reference_tokens for item in answered) / len(answered),
        variant_tokens_per_answer=sum(item.variant_tokens for item in answered) / len(answered),
    )
