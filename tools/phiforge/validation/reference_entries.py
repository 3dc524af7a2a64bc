"""The schema of reference.json, and what its entries are in memory."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from phiforge.evidence import Metric, TaskSource
from phiforge.texts import Message
from phiforge.validation.free_running import Continuation
from phiforge.validation.probes import Ending
from phiforge.validation.reference_outputs import (
    ReferenceAnswer,
    ReferenceChoice,
    ReferenceContinuation,
    ReferenceRefusal,
    SuiteFacts,
)
from phiforge.validation.suites import FORMATS, is_right
from phiforge.variant import CheckpointFacts

Count = Annotated[int, Field(ge=0)]
Positive = Annotated[int, Field(gt=0)]
Token = Annotated[int, Field(ge=0, le=2**31 - 1)]
Ids = Annotated[list[Token], Field(min_length=1)]
Name = Annotated[str, Field(min_length=1)]
Sha256 = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]


class Entry(BaseModel):
    """Base of the file's objects: frozen, unknown keys forbidden, no silent conversion."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class FileEntry(Entry):
    """A file of held-out data that was used."""

    name: Name
    sha256: Sha256


class TokenizedEntry(Entry):
    """A text and its ids."""

    text: str
    ids: list[Token]


class ChatEntry(Entry):
    """A conversation and its prompt, as text and as ids."""

    messages: list[Message]
    text: str
    ids: list[Token]


class SwitchEntry(Entry):
    """Prompts around the longrope switch: the longest, of which the others are beginnings."""

    ids: list[Token]
    lengths: Annotated[list[Positive], Field(min_length=1)]


class SuiteEntry(Entry):
    """A task suite without its questions."""

    name: Name
    format: str
    metric: Metric
    source: TaskSource
    notes: list[str]

    @model_validator(mode="after")
    def _is_known(self) -> SuiteEntry:
        if self.format not in FORMATS:
            raise ValueError(f"the format {self.format!r} is unknown")
        if FORMATS[self.format].runs_code:
            raise ValueError(f"the format {self.format!r} runs code, which no package may ask for")
        return self

    @staticmethod
    def of(suite: SuiteFacts) -> SuiteEntry:
        """Return a suite as it is written."""
        return SuiteEntry(
            name=suite.name, format=suite.format, metric=suite.metric, source=suite.source, notes=list(suite.notes)
        )

    def facts(self) -> SuiteFacts:
        """Return the suite as it was."""
        return SuiteFacts(
            name=self.name, format=self.format, metric=self.metric, source=self.source, notes=tuple(self.notes)
        )


class QuestionEntry(Entry):
    """A question and how the original answered it."""

    task: str
    ids: Ids
    limit: Positive
    check: str
    right: bool
    tokens: Count
    stopped: bool
    loops: bool

    @staticmethod
    def of(asked: ReferenceAnswer) -> QuestionEntry:
        """Return a question as it is written."""
        return QuestionEntry(
            task=asked.task,
            ids=asked.prompt,
            limit=asked.limit,
            check=asked.check,
            right=asked.right,
            tokens=asked.tokens,
            stopped=asked.ending.stopped,
            loops=asked.ending.loops,
        )

    def facts(self) -> ReferenceAnswer:
        """Return the question as it was."""
        return ReferenceAnswer(
            task=self.task,
            prompt=self.ids,
            limit=self.limit,
            check=self.check,
            right=self.right,
            tokens=self.tokens,
            ending=Ending(stopped=self.stopped, loops=self.loops),
        )


class ChoiceEntry(Entry):
    """Continuations to choose from, and what the original chose."""

    task: str
    ids: Ids
    continuations: Annotated[list[Ids], Field(min_length=2)]
    right: Count
    chosen: Count

    @model_validator(mode="after")
    def _is_there(self) -> ChoiceEntry:
        if max(self.right, self.chosen) >= len(self.continuations):
            raise ValueError(f"there are only {len(self.continuations)} continuations")
        return self

    @staticmethod
    def of(item: ReferenceChoice) -> ChoiceEntry:
        """Return a choice as it is written."""
        return ChoiceEntry(
            task=item.task, ids=item.prompt, continuations=item.continuations, right=item.right, chosen=item.chosen
        )

    def facts(self) -> ReferenceChoice:
        """Return the choice as it was."""
        return ReferenceChoice(
            task=self.task, prompt=self.ids, continuations=self.continuations, right=self.right, chosen=self.chosen
        )


class ContinuedEntry(Entry):
    """A prompt and the original's greedy continuation."""

    ids: Ids
    limit: Positive
    made: list[Token]
    stopped: bool

    @model_validator(mode="after")
    def _is_whole(self) -> ContinuedEntry:
        if len(self.made) + self.stopped > self.limit or not (self.stopped or len(self.made) == self.limit):
            raise ValueError(f"{len(self.made)} tokens end neither by a stop id nor at the limit of {self.limit}")
        return self

    @staticmethod
    def of(item: ReferenceContinuation) -> ContinuedEntry:
        """Return a continuation as it is written."""
        made = item.continuation
        return ContinuedEntry(ids=item.prompt, limit=item.limit, made=list(made.tokens), stopped=made.stopped)

    def facts(self) -> ReferenceContinuation:
        """Return the continuation as it was."""
        made = Continuation(tuple(self.made), self.stopped)
        return ReferenceContinuation(prompt=self.ids, limit=self.limit, continuation=made)


class PromptedEntry(Entry):
    """A prompt of a category, and whether the original refuses it."""

    category: Name
    ids: Ids
    limit: Positive
    refused: bool

    @staticmethod
    def of(item: ReferenceRefusal) -> PromptedEntry:
        """Return a prompt that may be refused as it is written."""
        return PromptedEntry(category=item.category, ids=item.prompt, limit=item.limit, refused=item.refused)

    def facts(self) -> ReferenceRefusal:
        """Return the prompt as it was."""
        return ReferenceRefusal(category=self.category, prompt=self.ids, limit=self.limit, refused=self.refused)


class ReferenceEntry(Entry):
    """reference.json."""

    schema_version: Literal["1.0"]
    checkpoint: CheckpointFacts
    split: Literal["held-out"]
    vocab_size: Positive
    top_k: Positive
    stop_ids: list[Token]
    original_max_positions: Positive | None
    text_files: list[FileEntry]
    task_files: list[FileEntry]
    prompt_files: list[FileEntry]
    tokenized: list[TokenizedEntry]
    chats: list[ChatEntry]
    texts: list[Annotated[list[Token], Field(min_length=2)]]
    around_switch: SwitchEntry | None
    suites: list[SuiteEntry]
    questions: list[QuestionEntry]
    choices: list[ChoiceEntry]
    continued: list[ContinuedEntry]
    prompted: list[PromptedEntry]
    notes: list[str]

    @model_validator(mode="after")
    def _has_suites(self) -> ReferenceEntry:
        names = [suite.name for suite in self.suites]
        if len(set(names)) < len(names):
            raise ValueError("two suites have one name")
        strange = ({item.task for item in self.questions} | {item.task for item in self.choices}) - set(names)
        if strange:
            raise ValueError(f"there is no suite {min(strange)!r}")
        formats = {suite.name: suite.format for suite in self.suites}
        for index, question in enumerate(self.questions):
            _try_check(f"questions.{index}", formats[question.task], question.check)
        return self

    def token_lists(self) -> list[list[int]]:
        """Every list of tokens in it."""
        around = [self.around_switch.ids] if self.around_switch else []
        return [
            self.stop_ids,
            *(item.ids for item in self.tokenized),
            *(chat.ids for chat in self.chats),
            *self.texts,
            *around,
            *(item.ids for item in self.questions),
            *(ids for item in self.choices for ids in (item.ids, *item.continuations)),
            *(ids for item in self.continued for ids in (item.ids, item.made)),
            *(item.ids for item in self.prompted),
        ]


def _try_check(where: str, form: str, check: str) -> None:
    """Refuse a check that its format cannot judge by, before anything is asked."""
    if FORMATS[form].is_right is None:
        raise ValueError(f"{where}: answers of the format {form!r} are chosen")
    try:
        is_right(form, check, "The answer is 1.")
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        raise ValueError(f"{where}: nothing can be judged by its check: {error!r}") from error
