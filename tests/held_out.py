"""A part of the embedded held-out data, for validations that need not be long."""

from __future__ import annotations

from pathlib import Path

from phiforge.checkpoint.nano import EVAL_DIR
from phiforge.hashing import hash_file


def declare(folder: Path) -> Path:
    """Write the tasks.toml of a folder whose task files are questions with one right answer each; return the folder."""
    tables = [
        f'[{path.stem}]\nfile = "{path.name}"\nformat = "exact-match"\nsplit = "held-out"\nlicence = "MIT"\n'
        f'sha256 = "{hash_file(path)}"\n'
        for path in sorted(folder.glob("*.jsonl"))
    ]
    (folder / "tasks.toml").write_text("\n".join(tables), encoding="utf-8")
    return folder


def write_part(folder: Path, *, texts: int, questions: int) -> Path:
    """Write the first texts and the first questions of each task into a folder: text.jsonl and tasks/; return it."""
    tasks = ((path, questions) for path in sorted((EVAL_DIR / "tasks").glob("*.jsonl")))
    declared = (EVAL_DIR / "tasks" / "tasks.toml").read_text(encoding="utf-8")
    for source, count in ((EVAL_DIR / "text.jsonl", texts), *tasks):
        target = folder / source.relative_to(EVAL_DIR)
        target.parent.mkdir(exist_ok=True)
        lines = source.read_text(encoding="utf-8").splitlines(keepends=True)
        target.write_text("".join(lines[:count]), encoding="utf-8")
        declared = declared.replace(hash_file(source), hash_file(target))
    (folder / "tasks" / "tasks.toml").write_text(declared, encoding="utf-8")
    return folder
