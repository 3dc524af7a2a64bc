"""phiforge's own format: a conversation and the only right answer, `id`, `messages`, `answer`."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from phiforge.texts import Question
from phiforge.validation import tasks
from phiforge.validation.suites.model import Exercise, Loaded
from phiforge.validation.suites.rows import dump_check, fault, parse

if TYPE_CHECKING:
    from collections.abc import Sequence

    from phiforge.validation.suites.model import Declared, Row


def load(rows: Sequence[Row], declared: Declared) -> Loaded:
    """Return an exercise for each line.

    Raises:
        TasksInvalidError: A line breaks the schema or has no answer.
    """
    return Loaded(exercises=tuple(_exercise(row, declared) for row in rows))


def is_right(check: str, generated: str) -> bool:
    """Return whether the answer in a generated text is exactly the right one, outer spaces aside."""
    answer: str = json.loads(check)["answer"]
    return tasks.answer_of(generated) == answer.strip()


def _exercise(row: Row, declared: Declared) -> Exercise:
    question = parse(row, Question)
    if not question.answer.strip():
        raise fault(row.place, "the answer is empty")
    return Exercise(
        id=question.id,
        messages=tuple(question.messages),
        check=dump_check(answer=question.answer),
        limit_tokens=declared.limit_tokens,
    )
