"""Texts and questions in JSONL files, checked line by line. What a fault of the file means, the caller says."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from phiforge.errors import PhiforgeError


class Line(BaseModel):
    """Base of a JSONL line: frozen, unknown keys forbidden, no silent conversion."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Text(Line):
    """One text."""

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


def read_lines(path: Path, kind: type[AnyLine], fault: Callable[[str, str], PhiforgeError]) -> list[AnyLine]:
    """Return the lines of a JSONL file; blank ones are skipped.

    Args:
        path: The file, UTF-8.
        kind: What each line is.
        fault: Makes the error from where the fault is and what it is.

    Raises:
        PhiforgeError: What `fault` makes, when the file cannot be read or is binary or empty, a line breaks the schema,
            or an id comes twice.
    """
    try:
        content = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise fault(
            str(path), f"it is no UTF-8 text: byte {error.start} is 0x{error.object[error.start]:02x}"
        ) from error
    except OSError as error:
        raise fault(str(path), f"it cannot be read: {error.strerror}") from error
    if "\0" in content:
        raise fault(str(path), "it is binary: there is a zero byte in it")
    lines = content.split("\n")  # Not splitlines(), which also splits at characters that JSON has inside a text.
    found = [_parse(path, number, line, kind, fault) for number, line in enumerate(lines, start=1) if line.strip()]
    if not found:
        raise fault(str(path), "it is empty")
    twice = _repeated(item.id for item in found)
    if twice is not None:
        raise fault(str(path), f"the id {twice!r} comes twice")
    return found


def _parse(
    path: Path, number: int, line: str, kind: type[AnyLine], fault: Callable[[str, str], PhiforgeError]
) -> AnyLine:
    try:
        return kind.model_validate_json(line)
    except ValidationError as error:
        faults = "; ".join(f"{'.'.join(map(str, item['loc'])) or 'line'}: {item['msg']}" for item in error.errors())
        raise fault(f"{path}, line {number}", faults) from error


def _repeated(ids: Iterable[str]) -> str | None:
    seen: set[str] = set()
    for name in ids:
        if name in seen:
            return name
        seen.add(name)
    return None
