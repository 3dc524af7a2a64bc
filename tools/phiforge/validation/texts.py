"""Held-out data: texts to score and questions to answer, JSONL files."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from phiforge import errors
from phiforge.texts import Message, Question, Task, Text, read_lines

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

__all__ = ["Message", "Question", "Task", "Text", "load_tasks", "load_texts", "sha256_of", "task_files"]


def load_texts(path: Path) -> tuple[Text, ...]:
    """Return the texts of a JSONL file of {"id", "text"}.

    Raises:
        EvidenceInvalidError: The file cannot be read, a line breaks the schema, or an id comes twice.
    """
    return tuple(read_lines(path, Text, _invalid))


def load_tasks(folder: Path) -> tuple[Task, ...]:
    """Return the tasks of a folder of JSONL files of {"id", "messages", "answer"}, sorted by name.

    Raises:
        EvidenceInvalidError: There is no such file, one cannot be read, a line breaks the schema, or an id comes twice.
    """
    files = task_files(folder)
    if not files:
        raise _invalid(str(folder), "it holds no .jsonl file")
    return tuple(Task(name=file.stem, questions=tuple(read_lines(file, Question, _invalid))) for file in files)


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


def _invalid(where: str, why: str) -> errors.EvidenceInvalidError:
    return errors.EvidenceInvalidError(
        f"The held-out data in {where} cannot be used.",
        why=f"{why[:1].upper()}{why[1:]}.",
        fix='Texts are JSON lines of "id" and "text"; questions of "id", "messages" and "answer".',
    )
