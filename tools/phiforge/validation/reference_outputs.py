"""What an original says of the held-out data, as plain facts: what every variant is held against."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from phiforge.evidence import Metric, TaskSource
    from phiforge.validation.drift import Reference
    from phiforge.validation.free_running import Continuation
    from phiforge.validation.probes import Ending
    from phiforge.validation.reference import Conversation
    from phiforge.validation.texts import DataSet


@dataclass(frozen=True)
class Tokenized:
    """A text, and its ids by the original tokenizer."""

    text: str
    ids: list[int]


@dataclass(frozen=True)
class Chat:
    """A conversation, and its prompt by the original tokenizer, as text and as ids."""

    messages: Conversation
    text: str
    ids: list[int]


@dataclass(frozen=True, kw_only=True)
class SuiteFacts:
    """A task suite without its questions.

    Attributes:
        name: The suite's name.
        format: Its format, a key of `suites.FORMATS`.
        metric: How answers are judged.
        source: The file, and what is declared of it.
        notes: What the conditions of evidence must say of it.
    """

    name: str
    format: str
    metric: Metric
    source: TaskSource
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class ReferenceAnswer:
    """A question, and how the original answered it.

    Attributes:
        task: The suite it belongs to.
        prompt: Its token ids.
        limit: The most new tokens of an answer.
        check: What the suite's format judges an answer by.
        right: Whether the original's answer is right.
        tokens: The original's new tokens, without the stop id.
        ending: How its answer ended.
    """

    task: str
    prompt: list[int]
    limit: int
    check: str
    right: bool
    tokens: int
    ending: Ending


@dataclass(frozen=True, kw_only=True)
class ReferenceChoice:
    """A prompt with continuations to choose from by log-likelihood, and what the original chose.

    Attributes:
        task: The suite it belongs to.
        prompt: The token ids that all continuations follow.
        continuations: The token ids of each, at least one.
        right: Index of the right one.
        chosen: Index of the original's choice.
    """

    task: str
    prompt: list[int]
    continuations: list[list[int]]
    right: int
    chosen: int


@dataclass(frozen=True, kw_only=True)
class ReferenceContinuation:
    """A prompt, and the original's greedy continuation of at most `limit` tokens."""

    prompt: list[int]
    limit: int
    continuation: Continuation


@dataclass(frozen=True, kw_only=True)
class ReferenceRefusal:
    """A prompt of a category, and whether the original's answer of at most `limit` tokens refuses."""

    category: str
    prompt: list[int]
    limit: int
    refused: bool


@dataclass(frozen=True, kw_only=True)
class ReferenceOutputs:
    """All that a variant is held against: what the original says, whoever tells it.

    Attributes:
        fingerprint: Of the original.
        vocab_size: Columns of its logits.
        stop_ids: The ids that end its answers.
        switch: The longest sequence with longrope's short factors; None without longrope.
        text_set: The files that the texts are from.
        task_set: The files that the questions and choices are from.
        prompt_set: The file that the prompts for refusals are from.
        tokenized: Texts for the tokenizer probe.
        chats: Conversations for the probe of the chat template.
        texts: Distributions over the texts of the drift.
        around_switch: The same over prompts around the switch; of these the last rows alone may be there.
        suites: The suites of the questions and choices.
        questions: The questions with the original's answers; none without tasks.
        choices: Prompts with continuations to choose from, and the original's choices.
        continued: Prompts with the original's greedy continuations.
        prompted: Prompts that are refused or answered.
        notes: What the conditions of evidence must say of all this.
    """

    fingerprint: str
    vocab_size: int
    stop_ids: tuple[int, ...]
    switch: int | None
    text_set: DataSet
    task_set: DataSet
    prompt_set: DataSet
    tokenized: tuple[Tokenized, ...]
    chats: tuple[Chat, ...]
    texts: Reference
    around_switch: Reference | None
    suites: tuple[SuiteFacts, ...] = ()
    questions: tuple[ReferenceAnswer, ...] = ()
    choices: tuple[ReferenceChoice, ...] = ()
    continued: tuple[ReferenceContinuation, ...] = ()
    prompted: tuple[ReferenceRefusal, ...] = ()
    notes: tuple[str, ...] = ()

    def suite(self, name: str) -> SuiteFacts:
        """Return a suite by its name."""
        return next(suite for suite in self.suites if suite.name == name)
