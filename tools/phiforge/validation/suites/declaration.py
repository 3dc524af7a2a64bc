"""`tasks.toml`: what a folder of tasks declares of each file: format, split, licence, hash."""

from __future__ import annotations

import re
import tomllib
from difflib import get_close_matches
from typing import TYPE_CHECKING, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from phiforge.validation.suites.rows import fault, read_bytes

if TYPE_CHECKING:
    from pathlib import Path

DECLARATION = "tasks.toml"
SUFFIXES = (".jsonl", ".jsonl.gz")
SPLITS = ("test", "validation", "held-out")
# SPDX identifiers of the licences that data sets for evaluation have; none of them forbids commercial use.
LICENCES = (
    "Apache-2.0",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "CC-BY-3.0",
    "CC-BY-4.0",
    "CC-BY-SA-3.0",
    "CC-BY-SA-4.0",
    "CC0-1.0",
    "CDLA-Permissive-1.0",
    "CDLA-Permissive-2.0",
    "MIT",
    "ODC-By-1.0",
    "ODbL-1.0",
    "PDDL-1.0",
    "Unlicense",
)
_OPERATOR = re.compile(r"\s+(?:AND|OR)\s+")


class Declaration(BaseModel):
    """What is declared of one file.

    Attributes:
        file: Its name in the folder.
        format: A key of `FORMATS`.
        split: Which part of its data set it is; `train` is refused.
        licence: An SPDX identifier, or several joined by AND or OR.
        sha256: Of the file's bytes.
        limit_tokens: The most new tokens of an answer; without it the validation's limit holds.
        choices: Whether the labels or the texts of choices are compared, for formats with choices.
        answer_prefix: What every choice is preceded by, such as `<think></think>` for a model that always thinks.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    file: str
    format: str
    split: str
    licence: str
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    limit_tokens: int | None = Field(default=None, ge=1)
    choices: Literal["labels", "texts"] | None = None
    answer_prefix: str = ""


def task_files(folder: Path) -> list[Path]:
    """Return the files of a folder that are taken for tasks, sorted by name."""
    return sorted(path for path in folder.glob("*") if path.name.endswith(SUFFIXES))


def load_declarations(folder: Path, formats: tuple[str, ...]) -> dict[str, Declaration]:
    """Return what a folder declares, by suite name, sorted.

    Args:
        folder: Holds `tasks.toml`.
        formats: The known formats.

    Raises:
        TasksInvalidError: The declaration is no TOML or breaks its schema, or what it declares is not allowed; all
            faults are told at once.
    """
    path = folder / DECLARATION
    try:
        tables = tomllib.loads(read_bytes(path).decode("utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise fault(str(path), f"it is no TOML: {error}") from error
    declared: dict[str, Declaration] = {}
    faults: list[str] = []
    for name, table in sorted(tables.items()):
        try:
            declared[name] = Declaration.model_validate(table)
        except ValidationError as error:
            faults += [f"[{name}] {'.'.join(map(str, item['loc']))}: {item['msg']}" for item in error.errors()]
            continue
        faults += [f"[{name}] {text}" for text in _faults(declared[name], formats)]
    faults += _declared_twice(declared)
    if faults:
        raise fault(str(path), f"it declares what is not allowed: {'; '.join(faults)}")
    return declared


def _faults(item: Declaration, formats: tuple[str, ...]) -> list[str]:
    found = []
    if "/" in item.file or "\\" in item.file or not item.file.endswith(SUFFIXES):
        found.append(f"file: {item.file!r} is no name of a .jsonl or .jsonl.gz file in this folder")
    if item.format not in formats:
        found.append(f"format: {item.format!r} is unknown; known are {', '.join(formats)}")
    if item.split == "train":
        found.append("split: 'train' is no data to evaluate with, since models are trained on it")
    elif item.split not in SPLITS:
        found.append(f"split: {item.split!r} is unknown; known are {', '.join(SPLITS)}")
    found += [_unknown_licence(name) for name in _OPERATOR.split(item.licence) if name not in LICENCES]
    return found


def _unknown_licence(name: str) -> str:
    written = {known.lower(): known for known in LICENCES}
    close = get_close_matches(re.sub(r"[\s_]+", "-", name.strip()).lower(), written, n=1)
    if close:
        return f"licence: {name!r} is no SPDX identifier of a known licence; did you mean {written[close[0]]!r}"
    return f"licence: {name!r} is unknown; known are {', '.join(LICENCES)}"


def _declared_twice(declared: dict[str, Declaration]) -> list[str]:
    files = [item.file for item in declared.values()]
    return [f"file: {name!r} is declared twice" for name in sorted({name for name in files if files.count(name) > 1})]
