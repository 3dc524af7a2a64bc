"""GSM8K's format: `question` and `answer`, whose final number follows `####`; numbers are compared, not texts."""

from __future__ import annotations

import json
import re
from decimal import Decimal
from typing import TYPE_CHECKING

from pydantic import Field

from phiforge.validation import tasks
from phiforge.validation.suites.model import Exercise, Loaded
from phiforge.validation.suites.rows import OriginalLine, dump_check, fault, parse, user

if TYPE_CHECKING:
    from collections.abc import Sequence

    from phiforge.validation.suites.model import Declared, Row

INSTRUCTION = 'Think step by step. End with "The answer is" and the number.'
_MARK = "####"
# A minus between two numbers is no sign, and a dash before a space is a bullet.
_NUMBER = re.compile(r"(?:(?<![\w)])[-\u2212])?\$?(?:(?:[0-9]{1,3}(?:,[0-9]{3})+|[0-9]+)(?:\.[0-9]+)?|\.[0-9]+)")
_SAID = re.compile(r"(?:the (?:final )?answer is|####)", re.IGNORECASE)


class Problem(OriginalLine):
    """A line as the data set has it."""

    question: str = Field(min_length=1)
    answer: str


def load(rows: Sequence[Row], declared: Declared) -> Loaded:
    """Return an exercise for each line; ids are made of the suite's name and the line's place in the file.

    Raises:
        TasksInvalidError: A line breaks the schema, or no number follows `####`.
    """
    return Loaded(exercises=tuple(_exercise(row, f"{declared.name}-{i:05d}", declared) for i, row in enumerate(rows)))


def is_right(check: str, generated: str) -> bool:
    """Return whether the number that a generated text's answer gives is the right one."""
    return said_number(tasks.answer_of(generated)) == Decimal(json.loads(check)["answer"])


def said_number(answer: str) -> Decimal | None:
    """Return the number that an answer gives: the first after the last "The answer is", else its last one.

    Thousands separators, a currency sign, units and a trailing full stop do not matter; None where there is no number.
    """
    said = list(_SAID.finditer(answer))
    after = _NUMBER.search(answer, said[-1].end()) if said else None
    found = after.group() if after else next(iter(reversed(_NUMBER.findall(answer))), None)
    return None if found is None else _decimal(found)


def _decimal(number: str) -> Decimal:
    return Decimal(re.sub(r"[$,]", "", number).replace("\u2212", "-"))


def _exercise(row: Row, name: str, declared: Declared) -> Exercise:
    problem = parse(row, Problem)
    _, mark, final = problem.answer.rpartition(_MARK)
    found = _NUMBER.fullmatch(final.strip()) if mark else None
    if found is None:
        raise fault(row.place, f"no number follows {_MARK} in the answer")
    return Exercise(
        id=name,
        messages=user(f"{problem.question}\n\n{INSTRUCTION}"),
        check=dump_check(answer=str(_decimal(found.group()))),
        limit_tokens=declared.limit_tokens,
    )
