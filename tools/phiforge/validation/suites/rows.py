"""Lines of task files: read, checked, and what a fault of one says."""

from __future__ import annotations

import gzip
import io
import json
import zlib
from typing import TYPE_CHECKING, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_core import from_json

from phiforge import errors
from phiforge.texts import Message
from phiforge.validation.suites.model import Row

if TYPE_CHECKING:
    from pathlib import Path

# A file of tasks is small; more than this is a mistake, or a compressed file made to fill the memory.
MAX_BYTES = 256 * 1024 * 1024


class OriginalLine(BaseModel):
    """Base of a line in a benchmark's own form: fields that phiforge does not need are ignored."""

    model_config = ConfigDict(extra="ignore", frozen=True, strict=True)


AnyLine = TypeVar("AnyLine", bound=BaseModel)


def fault(where: str, why: str) -> errors.TasksInvalidError:
    """Return the error of a file of tasks that cannot be used."""
    return errors.TasksInvalidError(
        f"The tasks in {where} cannot be used.",
        why=f"{why[:1].upper()}{why[1:]}.",
        fix="Mend the file, or take it out of the folder and of its tasks.toml; docs/tasks.md has the formats.",
    )


def read_bytes(path: Path) -> bytes:
    """Return the bytes of a file.

    Raises:
        TasksInvalidError: It is absent, cannot be read, or is absurdly large.
    """
    try:
        if path.stat().st_size > MAX_BYTES:
            raise fault(str(path), f"it is larger than {MAX_BYTES >> 20} MiB")
        return path.read_bytes()
    except OSError as error:
        raise fault(str(path), f"it cannot be read: {error.strerror}") from error


def parse_rows(path: Path, content: bytes) -> list[Row]:
    """Return the JSON objects of a JSONL file's bytes; blank lines are skipped, and a name in .gz is decompressed.

    Raises:
        TasksInvalidError: The content is binary, no UTF-8 or empty, or a line is no JSON object.
    """
    if path.suffix == ".gz":
        content = _decompress(path, content)
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise fault(str(path), f"it is no UTF-8 text: byte {error.start} is 0x{content[error.start]:02x}") from error
    if "\0" in text:
        raise fault(str(path), "it is binary: there is a zero byte in it")
    lines = text.split("\n")  # Not splitlines(), which also splits at characters that JSON has inside a text.
    rows = [_row(f"{path}, line {number}", line) for number, line in enumerate(lines, start=1) if line.strip()]
    if not rows:
        raise fault(str(path), "it is empty")
    return rows


def parse(row: Row, kind: type[AnyLine]) -> AnyLine:
    """Return a line as what it has to be.

    Raises:
        TasksInvalidError: It breaks the schema.
    """
    try:
        return kind.model_validate(row.value)
    except ValidationError as error:
        faults = "; ".join(f"{'.'.join(map(str, item['loc'])) or 'line'}: {item['msg']}" for item in error.errors())
        raise fault(row.place, f"it breaks the schema: {faults}") from error


def user(text: str) -> tuple[Message, ...]:
    """Return a conversation of one turn, the user's."""
    return (Message(role="user", content=text),)


def dump_check(**values: object) -> str:
    """Return what is needed to judge an answer as JSON text with sorted keys."""
    return json.dumps(values, sort_keys=True, ensure_ascii=False)


def _decompress(path: Path, content: bytes) -> bytes:
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(content)) as file:
            text = file.read(MAX_BYTES + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise fault(str(path), f"it is no complete gzip file: {error}") from error
    if len(text) > MAX_BYTES:
        raise fault(str(path), f"it is larger than {MAX_BYTES >> 20} MiB decompressed")
    return text


def _row(place: str, line: str) -> Row:
    try:
        value = from_json(line, allow_inf_nan=False)
    except ValueError as error:
        raise fault(place, f"it is no JSON: {error}") from error
    if not isinstance(value, dict):
        raise fault(place, f"it is no JSON object but {type(value).__name__}")
    return Row(place, value)
