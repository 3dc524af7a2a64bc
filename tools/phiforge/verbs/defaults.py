"""What a verb uses when it is not told: the embedded held-out data, and what decides whether evidence is still good."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from phiforge import errors
from phiforge.checkpoint.nano import CHECKPOINT_DIR, EVAL_DIR
from phiforge.checkpoint.nano.files import CHECKSUMS, checksums
from phiforge.evidence_file import lasting
from phiforge.machine import describe_machine, tool_versions
from phiforge.selection import RUNTIME_WHEELS
from phiforge.toolchain import code_digest
from phiforge.validation.refusals import load_prompts
from phiforge.validation.suites.declaration import DECLARATION, task_files

if TYPE_CHECKING:
    from pathlib import Path

# Modules whose code decides what a measurement says.
MEASURING_CODE = (
    "activations.py",
    "decoder",
    "evidence",
    "graph",
    "intervals.py",
    "machine.py",
    "olive/export_stages.py",
    "runtime",
    "validation",
)
MEASURING_PACKAGES = (*RUNTIME_WHEELS, "torch", "transformers", "numpy")


def default_texts() -> Path:
    """The embedded held-out text.

    Raises:
        LeakageError: It is not what it was when it was held out.
    """
    check_embedded(EVAL_DIR, CHECKPOINT_DIR)
    return EVAL_DIR / "text.jsonl"


def default_calibration() -> Path:
    """The embedded calibration texts, which no evaluation uses.

    Raises:
        LeakageError: They are not what they were when they were held apart.
    """
    check_embedded(EVAL_DIR, CHECKPOINT_DIR)
    return EVAL_DIR / "calibration.jsonl"


def default_tasks(checkpoint: Path) -> Path | None:
    """The embedded tasks if the checkpoint has the embedded model's tokenizer, which they were written for."""
    ours = CHECKPOINT_DIR / "tokenizer.json"
    theirs = checkpoint / "tokenizer.json"
    same = theirs.is_file() and theirs.read_bytes() == ours.read_bytes()
    return EVAL_DIR / "tasks" if same else None


def data_files(texts: Path | None, tasks: Path | None, checkpoint: Path) -> list[Path]:
    """Every file of held-out data that a validation reads: texts, tasks and what declares them, the refusals' prompts.

    Args:
        texts: Held-out text; the embedded one by default.
        tasks: Folder of tasks; by default the embedded one, for the embedded model only.
        checkpoint: What is validated against.
    """
    folder = tasks or default_tasks(checkpoint)
    declared = [path for path in (folder / DECLARATION,) if path.is_file()] if folder else []
    return [texts or default_texts(), *declared, *(task_files(folder) if folder else []), load_prompts()[0]]


def check_embedded(data: Path, checkpoint: Path) -> None:
    """Check that the embedded data and model are those whose separation from the training data was proven.

    Raises:
        LeakageError: A file was changed, added or removed.
    """
    recorded = (data / CHECKSUMS).read_text(encoding="utf-8")
    found = checksums(data, checkpoint)
    changed = sorted({line.split()[1] for line in set(recorded.splitlines()) ^ set(found.splitlines())})
    if changed:
        raise errors.LeakageError(
            "The embedded evaluation data or model is not what was held out.",
            why=f"Changed since {CHECKSUMS} was written: {', '.join(changed)}.",
            fix="Restore these files, or give data of your own with --texts and --tasks.",
        )


def evidence_code() -> str:
    """What a measurement depends on besides its subject: our code, the packages, this machine."""
    machine = lasting(describe_machine()).model_dump()
    return json.dumps([code_digest(MEASURING_CODE), tool_versions(MEASURING_PACKAGES), machine], sort_keys=True)
