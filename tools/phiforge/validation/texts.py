"""Held-out data: texts to score and questions to answer, JSONL files."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from phiforge import errors
from phiforge.hashing import hash_file
from phiforge.texts import Message, Question, Task, Text, read_lines

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

__all__ = [
    "DataFile",
    "DataSet",
    "Message",
    "Question",
    "Task",
    "Text",
    "data_set",
    "load_tasks",
    "load_texts",
    "task_files",
]


@dataclass(frozen=True)
class DataFile:
    """One file of held-out data: its name, and the SHA-256 of its bytes."""

    name: str
    sha256: str


@dataclass(frozen=True)
class DataSet:
    """Files of held-out data, which need not be here any more."""

    files: tuple[DataFile, ...]

    def __add__(self, other: DataSet) -> DataSet:
        return DataSet((*self.files, *other.files))

    @property
    def name(self) -> str:
        """The names of the files."""
        return ", ".join(file.name for file in self.files)

    @property
    def sha256(self) -> str:
        """One SHA-256 over the names and hashes of the files, in their order."""
        whole = hashlib.sha256()
        for file in self.files:
            whole.update(file.name.encode("utf-8") + b"\0")
            whole.update(bytes.fromhex(file.sha256))
        return whole.hexdigest()


def data_set(files: Sequence[Path]) -> DataSet:
    """Return what is kept of files: their names and hashes."""
    return DataSet(tuple(DataFile(file.name, hash_file(file)) for file in files))


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


def _invalid(where: str, why: str) -> errors.EvidenceInvalidError:
    return errors.EvidenceInvalidError(
        f"The held-out data in {where} cannot be used.",
        why=f"{why[:1].upper()}{why[1:]}.",
        fix='Texts are JSON lines of "id" and "text"; questions of "id", "messages" and "answer".',
    )
