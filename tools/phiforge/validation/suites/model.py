"""What a task suite is: exercises answered by generation, choices answered by log-likelihood."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from phiforge.evidence import Metric, TaskSource
    from phiforge.texts import Message


@dataclass(frozen=True, kw_only=True)
class Exercise:
    """A prompt that is answered by generation.

    Attributes:
        id: Unique within its suite.
        messages: The conversation, the last turn being the user's.
        check: JSON text with all that is needed to judge an answer; it travels in packages.
        limit_tokens: The most new tokens of an answer; None leaves it to the validation.
    """

    id: str
    messages: tuple[Message, ...]
    check: str
    limit_tokens: int | None = None


@dataclass(frozen=True, kw_only=True)
class Choice:
    """A prompt that is answered by the log-likelihood of each continuation.

    Attributes:
        id: Unique within its suite.
        messages: The conversation, the last turn being the user's; a continuation follows the generation prompt.
        continuations: The texts to choose from.
        right: Index of the right one.
    """

    id: str
    messages: tuple[Message, ...]
    continuations: tuple[str, ...]
    right: int


@dataclass(frozen=True, kw_only=True)
class Suite:
    """The exercises or the choices of one file.

    Attributes:
        name: The name that the declaration gives it.
        format: A key of `FORMATS`.
        metric: How answers are judged.
        source: The file and what is declared of it.
        exercises: What is answered by generation; empty where answers are chosen.
        choices: What is answered by log-likelihood; empty where answers are generated.
        notes: What the conditions of evidence must say, such as how many prompts of the file were left out.
    """

    name: str
    format: str
    metric: Metric
    source: TaskSource
    exercises: tuple[Exercise, ...]
    choices: tuple[Choice, ...]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Declared:
    """What a format's loader may know of the declaration besides the file's content.

    Attributes:
        name: The suite's name, which ids are made of where the file has none.
        limit_tokens: The most new tokens of an answer.
        choices: Whether continuations are the labels or the texts of the choices; None is the format's own.
        answer_prefix: What every continuation begins with.
    """

    name: str
    limit_tokens: int | None = None
    choices: str | None = None
    answer_prefix: str = ""


@dataclass(frozen=True, kw_only=True)
class Loaded:
    """What a format's loader found in a file."""

    exercises: tuple[Exercise, ...] = ()
    choices: tuple[Choice, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Row:
    """One line of a file as JSON, with the place that a fault of it is told by."""

    place: str
    value: dict[str, object]


@dataclass(frozen=True, kw_only=True)
class Format:
    """One format of task files.

    Attributes:
        metric: How answers are judged.
        load: Makes exercises or choices of the lines of a file.
        is_right: Judges a generated text by a check; None where answers are chosen.
        runs_code: Whether judging runs what the model wrote.
    """

    metric: Metric
    load: Callable[[Sequence[Row], Declared], Loaded]
    is_right: Callable[[str, str], bool] | None = None
    runs_code: bool = False
