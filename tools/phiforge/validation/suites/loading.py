"""Suites from a folder of task files: every file is declared, hashed and read."""

from __future__ import annotations

from typing import TYPE_CHECKING

from phiforge import errors
from phiforge.evidence import TaskSource
from phiforge.hashing import hash_bytes
from phiforge.validation.suites.declaration import DECLARATION, load_declarations, task_files
from phiforge.validation.suites.formats import FORMATS, format_of
from phiforge.validation.suites.model import Declared, Suite
from phiforge.validation.suites.rows import fault, parse_rows, read_bytes

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from phiforge.validation.suites.declaration import Declaration


def load_suites(folder: Path, *, run_code: bool = False) -> tuple[Suite, ...]:
    """Return the suites of a folder, sorted by name.

    Args:
        folder: Holds files of tasks, and `tasks.toml`, which declares each.
        run_code: Whether suites whose judging runs a model's code are wanted; else they are checked and left out.

    Raises:
        TasksInvalidError: There is no file, one is not declared or not as declared, or it cannot be used.
    """
    files = task_files(folder)
    if not files:
        raise fault(str(folder), "it holds no .jsonl file")
    declared = load_declarations(folder, tuple(FORMATS)) if (folder / DECLARATION).exists() else {}
    _check_all_declared(folder, files, {item.file for item in declared.values()})
    suites = [_suite(folder, name, item) for name, item in declared.items()]
    return tuple(suite for suite in suites if run_code or not FORMATS[suite.format].runs_code)


def _suite(folder: Path, name: str, item: Declaration) -> Suite:
    path = folder / item.file
    content = read_bytes(path)
    _check_hash(path, content, item)
    known = FORMATS[item.format]
    loaded = known.load(
        parse_rows(path, content),
        Declared(name=name, limit_tokens=item.limit_tokens, choices=item.choices, answer_prefix=item.answer_prefix),
    )
    if not loaded.exercises and not loaded.choices:
        raise fault(str(path), "; ".join(("nothing in it can be asked", *loaded.notes)))
    _check_ids(path, [*(item.id for item in loaded.exercises), *(item.id for item in loaded.choices)])
    return Suite(
        name=name,
        format=item.format,
        metric=known.metric,
        source=TaskSource(
            file=item.file, format=item.format, split=item.split, licence=item.licence, sha256=item.sha256
        ),
        exercises=loaded.exercises,
        choices=loaded.choices,
        notes=tuple(f"{name}: {note}" for note in loaded.notes),
    )


def _check_hash(path: Path, content: bytes, item: Declaration) -> None:
    found = hash_bytes(content)
    if found != item.sha256:
        raise errors.TasksInvalidError(
            f"The tasks in {path} are not the declared ones.",
            why=f"Their SHA-256 is {found}, and {DECLARATION} declares {item.sha256}.",
            fix=f"Put the declared file back, or, if it was changed on purpose, declare {found}.",
        )


def _check_ids(path: Path, ids: Iterable[str]) -> None:
    seen: set[str] = set()
    for name in ids:
        if name in seen:
            raise fault(str(path), f"the id {name!r} comes twice")
        seen.add(name)


def _check_all_declared(folder: Path, files: Iterable[Path], declared: set[str]) -> None:
    undeclared = [path for path in files if path.name not in declared]
    if undeclared:
        names = ", ".join(path.name for path in undeclared)
        snippets = "\n\n".join(_snippet(path) for path in undeclared)
        raise errors.TasksInvalidError(
            f"The tasks in {folder} cannot be used.",
            why=f"{DECLARATION} there does not declare {names}: split, licence and hash are not known.",
            fix=f"Fill in the gaps and add this to {folder / DECLARATION}:\n\n{snippets}\n",
        )


def _snippet(path: Path) -> str:
    content = read_bytes(path)
    name = path.name.split(".", maxsplit=1)[0]
    return "\n".join(
        (
            f"[{name}]",
            f'file = "{path.name}"',
            f'format = "{format_of(parse_rows(path, content)[0])}"',
            'split = ""  # test, validation or held-out',
            'licence = ""  # an SPDX identifier, such as MIT or CC-BY-4.0',
            f'sha256 = "{hash_bytes(content)}"',
        )
    )
