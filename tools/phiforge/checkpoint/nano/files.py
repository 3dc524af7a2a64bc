"""The held-out files that ship with phi-4-nano, and the checksums over them and the checkpoint. Pure Python."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from phiforge.checkpoint.nano import corpus, suites

CHECKSUMS = "CHECKSUMS.sha256"
TASK_COUNTS = {"arithmetic": 250, "word_problems": 150, "facts": 200}
HELD_OUT_TEXTS = (30, 24, 6)  # solved chats, prose documents, long prose documents
CALIBRATION_TEXTS = (72, 20, 4)
KEY_SEPARATOR = "&"
DECLARATION = "tasks.toml"
TASK_SOURCE = {"split": "held-out", "licence": "MIT"}
SUITE_FORMATS = {
    "choices": {"format": "mmlu", "choices": "texts", "answer_prefix": suites.ANSWER_PREFIX},
    "rules": {"format": "ifeval"},
}


def write_jsonl(path: Path, rows: list[dict[str, object]]) -> None:
    """Writes one JSON object per line."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    path.write_text(text, encoding="utf-8", newline="\n")


def read_jsonl(path: Path) -> list[dict[str, object]]:
    """Reads one JSON object per line."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def task_rows(kind: str, count: int) -> list[dict[str, object]]:
    """The held-out tasks of a kind; an id ends in the operand pairs or the wording the task holds out."""
    return [
        {
            "id": f"{kind}-{index:03d}:{KEY_SEPARATOR.join(task.keys)}",
            "messages": [{"role": "user", "content": task.question}],
            "answer": task.answer,
        }
        for index, task in enumerate(corpus.held_out_tasks(kind, count))
    ]


def text_rows(split: str, chats: int, short: int, long: int) -> list[dict[str, object]]:
    """Whole documents of a split with running ids that name their kind."""
    documents = corpus.text_set(split, chats, short, long)
    return [{"id": f"{split}-{i:03d}-{document.kind}", "text": document.text} for i, document in enumerate(documents)]


def write_declaration(folder: Path) -> None:
    """Writes what the task files of a folder are, with their hashes."""
    tables = []
    for path in sorted(folder.glob("*.jsonl")):
        said = {"file": path.name, "format": "exact-match", **TASK_SOURCE, **SUITE_FORMATS.get(path.stem, {})}
        said["sha256"] = hashlib.sha256(path.read_bytes()).hexdigest()
        tables.append(f"[{path.stem}]\n" + "".join(f'{key} = "{value}"\n' for key, value in said.items()))
    (folder / DECLARATION).write_text("\n".join(tables), encoding="utf-8", newline="\n")


def write_eval(folder: Path) -> None:
    """Writes the held-out tasks and texts and the calibration texts."""
    for kind, count in TASK_COUNTS.items():
        write_jsonl(folder / "tasks" / f"{kind}.jsonl", task_rows(kind, count))
    write_jsonl(folder / "tasks" / "choices.jsonl", suites.choice_rows())
    write_jsonl(folder / "tasks" / "rules.jsonl", suites.rule_rows())
    write_declaration(folder / "tasks")
    write_jsonl(folder / "text.jsonl", text_rows("held_out", *HELD_OUT_TEXTS))
    write_jsonl(folder / "calibration.jsonl", text_rows("calibration", *CALIBRATION_TEXTS))


def checksums(eval_folder: Path, checkpoint: Path) -> str:
    """The checksum file's text over all files of both folders, in `sha256sum`'s form, relative to `eval_folder`."""
    prefix = f"../{checkpoint.name}/"
    named = [("", path, eval_folder) for path in eval_folder.rglob("*") if path.name != CHECKSUMS]
    named += [(prefix, path, checkpoint) for path in checkpoint.rglob("*")]
    files = sorted((head + path.relative_to(root).as_posix(), path) for head, path, root in named if path.is_file())
    return "".join(f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {name}\n" for name, path in files)


def write_checksums(eval_folder: Path, checkpoint: Path) -> None:
    """Writes the checksum file; to be done last, and again after any edit of the card."""
    (eval_folder / CHECKSUMS).write_text(checksums(eval_folder, checkpoint), encoding="utf-8", newline="\n")
