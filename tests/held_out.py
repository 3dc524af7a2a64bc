"""A part of the embedded held-out data, for validations that need not be long."""

from __future__ import annotations

from pathlib import Path

from phiforge.checkpoint.nano import EVAL_DIR


def write_part(folder: Path, *, texts: int, questions: int) -> Path:
    """Write the first texts and the first questions of each task into a folder: text.jsonl and tasks/; return it."""
    tasks = ((path, questions) for path in (EVAL_DIR / "tasks").glob("*"))
    for source, count in ((EVAL_DIR / "text.jsonl", texts), *tasks):
        target = folder / source.relative_to(EVAL_DIR)
        target.parent.mkdir(exist_ok=True)
        lines = source.read_text(encoding="utf-8").splitlines(keepends=True)
        target.write_text("".join(lines[:count]), encoding="utf-8")
    return folder
