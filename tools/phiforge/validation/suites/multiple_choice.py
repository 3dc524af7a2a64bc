"""MMLU's and ARC's formats: a question and its choices, of which the model's log-likelihood chooses one.

The prompt is the question, the choices with their labels, and `Answer:`. The labels are compared, as the paper on MMLU
does (Hendrycks et al. 2021); a declaration may ask for the texts of the choices instead, which the prompt then lacks.
"""

from __future__ import annotations

import string
from typing import TYPE_CHECKING

from pydantic import BaseModel, Field

from phiforge.validation.suites.model import Choice, Loaded
from phiforge.validation.suites.rows import OriginalLine, fault, parse, user

if TYPE_CHECKING:
    from collections.abc import Sequence

    from phiforge.validation.suites.model import Declared, Row

LEAST_CHOICES, MOST_CHOICES = 2, len(string.ascii_uppercase)


class MmluLine(OriginalLine):
    """A line of MMLU; the answer is the index or the letter of a choice."""

    question: str = Field(min_length=1)
    choices: list[str] = Field(min_length=LEAST_CHOICES, max_length=MOST_CHOICES)
    answer: int | str
    id: str | None = None


class LabelledTexts(BaseModel):
    """Choices as two lists."""

    text: list[str]
    label: list[str]


class ArcLine(OriginalLine):
    """A line of ARC; some questions have five choices, some have digits for labels."""

    id: str
    question: str = Field(min_length=1)
    choices: LabelledTexts
    answerKey: str  # noqa: N815 (the data set's spelling)


class LabelledText(BaseModel):
    """One choice."""

    text: str
    label: str


class Stem(BaseModel):
    """A question with its choices."""

    stem: str = Field(min_length=1)
    choices: list[LabelledText]


class FirstArcLine(OriginalLine):
    """A line of ARC in the form in which it was first published."""

    id: str
    question: Stem
    answerKey: str  # noqa: N815 (the data set's spelling)


class QueryLine(OriginalLine):
    """A line of ARC in the form that evaluation suites pass on; `gold` is an index."""

    query: str = Field(min_length=1)
    choices: list[str]
    gold: int


def load_mmlu(rows: Sequence[Row], declared: Declared) -> Loaded:
    """Return a choice for each line of MMLU.

    Raises:
        TasksInvalidError: A line breaks the schema, or its answer is none of its choices.
    """
    return Loaded(choices=tuple(_mmlu(row, index, declared) for index, row in enumerate(rows)))


def load_arc(rows: Sequence[Row], declared: Declared) -> Loaded:
    """Return a choice for each line of ARC, in any of its three published forms.

    Raises:
        TasksInvalidError: A line breaks the schema, or its answer is none of its choices.
    """
    return Loaded(choices=tuple(_arc(row, index, declared) for index, row in enumerate(rows)))


def _mmlu(row: Row, index: int, declared: Declared) -> Choice:
    line = parse(row, MmluLine)
    labels = list(string.ascii_uppercase[: len(line.choices)])
    answer = labels[line.answer] if isinstance(line.answer, int) and 0 <= line.answer < len(labels) else line.answer
    name = line.id or _numbered(declared, index)
    return _choice(row, name, line.question, labels, line.choices, str(answer).strip(), declared)


def _arc(row: Row, index: int, declared: Declared) -> Choice:
    if "query" in row.value:
        passed_on = parse(row, QueryLine)
        labels = list(string.ascii_uppercase[: len(passed_on.choices)])
        right = labels[passed_on.gold] if 0 <= passed_on.gold < len(labels) else str(passed_on.gold)
        question = passed_on.query.removeprefix("Question: ")
        return _choice(row, _numbered(declared, index), question, labels, passed_on.choices, right, declared)
    if isinstance(row.value.get("question"), dict):
        first = parse(row, FirstArcLine)
        labels, texts = [item.label for item in first.question.choices], [item.text for item in first.question.choices]
        return _choice(row, first.id, first.question.stem, labels, texts, first.answerKey, declared)
    line = parse(row, ArcLine)
    return _choice(row, line.id, line.question, line.choices.label, line.choices.text, line.answerKey, declared)


def _numbered(declared: Declared, index: int) -> str:
    return f"{declared.name}-{index:05d}"


def _choice(
    row: Row, name: str, question: str, labels: list[str], texts: list[str], right: str, declared: Declared
) -> Choice:
    why = _fault(labels, texts, right)
    if why:
        raise fault(row.place, why)
    by_text = declared.choices == "texts"
    lines = [question.strip()] if by_text else [question.strip(), *map("{}. {}".format, labels, texts), "Answer:"]
    return Choice(
        id=name,
        messages=user("\n".join(lines)),
        continuations=tuple(declared.answer_prefix + text for text in (texts if by_text else labels)),
        right=labels.index(right),
    )


def _fault(labels: list[str], texts: list[str], right: str) -> str:
    if not LEAST_CHOICES <= len(texts) <= MOST_CHOICES or len(labels) != len(texts):
        return f"{len(texts)} choices with {len(labels)} labels; {LEAST_CHOICES} to {MOST_CHOICES} are needed"
    if not all(text.strip() for text in (*labels, *texts)):
        return "a choice is empty"
    if len(set(labels)) < len(labels):
        return "two choices have one label"
    if right not in labels:
        return f"the answer {right!r} is none of its choices {', '.join(labels)}"
    return ""
