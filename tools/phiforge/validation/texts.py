"""Held-out data: texts to score, JSONL files; and what is kept of files that need not be here any more."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

from phiforge import errors
from phiforge.hashing import hash_file
from phiforge.texts import Question, Task, Text, read_lines
from phiforge.validation.suites import load_suites

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from phiforge.texts import Message


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
    """Return what the tasks of a folder ask and what is right, for the search for leaks; suites that run code included.

    The right answer is the text that a check compares with, or the right choice; "" where rules alone are checked.

    Raises:
        TasksInvalidError: The tasks cannot be used.
    """
    return tuple(
        Task(
            name=suite.name,
            questions=(
                *(_question(item.id, item.messages, _answer(item.check)) for item in suite.exercises),
                *(_question(item.id, item.messages, item.continuations[item.right]) for item in suite.choices),
            ),
        )
        for suite in load_suites(folder, run_code=True)
    )


def _question(name: str, messages: Sequence[Message], answer: str) -> Question:
    return Question(id=name, messages=list(messages), answer=answer)


def _answer(check: str) -> str:
    answer = json.loads(check).get("answer", "")
    return answer if isinstance(answer, str) else ""


def _invalid(where: str, why: str) -> errors.EvidenceInvalidError:
    return errors.EvidenceInvalidError(
        f"The held-out data in {where} cannot be used.",
        why=f"{why[:1].upper()}{why[1:]}.",
        fix='Texts are JSON lines of "id" and "text".',
    )
