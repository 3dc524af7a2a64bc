"""Held-out data: texts to score and questions to answer, JSONL files checked line by line."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from phiforge import errors

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path


class Line(BaseModel):
    """Base of a JSONL line: frozen, unknown keys forbidden, no silent conversion."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Text(Line):
    """One text to score."""

    id: str
    text: str = Field(min_length=1)


class Message(Line):
    """One turn of a conversation."""

    role: str
    content: str


class Question(Line):
    """One question with the only right answer."""

    id: str
    messages: list[Message] = Field(min_length=1)
    answer: str

    def conversation(self) -> list[dict[str, str]]:
        """Return the messages as plain dictionaries."""
        return [{"role": message.role, "content": message.content} for message in self.messages]


@dataclass(frozen=True)
class Task:
    """The questions of one file; the task has the file's name."""

    name: str
    questions: tuple[Question, ...]


AnyLine = TypeVar("AnyLine", Text, Question)


def load_texts(path: Path) -> tuple[Text, ...]:
    """Return the texts of a JSONL file of {"id", "text"}.

    Raises:
        EvidenceInvalidError: The file cannot be read, a line breaks the schema, or an id comes twice.
    """
    return tuple(_read(path, Text))


def load_tasks(folder: Path) -> tuple[Task, ...]:
    """Return the tasks of a folder of JSONL files of {"id", "messages", "answer"}, sorted by name.

    Raises:
        EvidenceInvalidError: There is no such file, one cannot be read, a line breaks the schema, or an id comes twice.
    """
    files = task_files(folder)
    if not files:
        raise _invalid(str(folder), "it holds no .jsonl file")
    return tuple(Task(name=file.stem, questions=tuple(_read(file, Question))) for file in files)


def task_files(folder: Path) -> list[Path]:
    """Return the task files of a folder, sorted by name."""
    return sorted(folder.glob("*.jsonl"))


def sha256_of(files: Sequence[Path]) -> str:
    """Return one SHA-256 over the names and the bytes of files, in the order given."""
    whole = hashlib.sha256()
    for file in files:
        whole.update(file.name.encode("utf-8") + b"\0")
        whole.update(hashlib.sha256(file.read_bytes()).digest())
    return whole.hexdigest()


def _read(path: Path, kind: type[AnyLine]) -> list[AnyLine]:
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise _invalid(str(path), str(error)) from error
    found = [_parse(path, number, line, kind) for number, line in enumerate(lines, start=1) if line.strip()]
    if not found:
        raise _invalid(str(path), "it is empty")
    twice = _repeated(item.id for item in found)
    if twice:
        raise _invalid(str(path), f"the id {twice!r} comes twice")
    return found


def _parse(path: Path, number: int, line: str, kind: type[AnyLine]) -> AnyLine:
    try:
        return kind.model_validate_json(line)
    except ValidationError as error:
        faults = "; ".join(f"{'.'.join(map(str, fault['loc'])) or 'line'}: {fault['msg']}" for fault in error.errors())
        raise _invalid(f"{path}, line {number}", faults) from error


def _repeated(ids: Iterable[str]) -> str | None:
    seen: set[str] = set()
    for name in ids:
        if name in seen:
            return name
        seen.add(name)
    return None


def _invalid(where: str, why: str) -> errors.EvidenceInvalidError:
    return errors.EvidenceInvalidError(
        f"The held-out data in {where} cannot be used.",
        why=f"{why[:1].upper()}{why[1:]}.",
        fix='Texts are JSON lines of "id" and "text"; questions of "id", "messages" and "answer".',
    )
