"""What a verb uses when it is not told: the embedded held-out data, and what decides whether evidence is still good."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from phiforge.checkpoint.nano import CHECKPOINT_DIR, EVAL_DIR
from phiforge.machine import describe_machine, tool_versions
from phiforge.toolchain import code_digest

if TYPE_CHECKING:
    from pathlib import Path

# Modules whose code decides what a measurement says.
MEASURING_CODE = ("validation", "runtime", "evidence.py", "machine.py")
MEASURING_PACKAGES = ("onnxruntime", "onnxruntime-genai", "torch", "transformers", "numpy")


def default_texts() -> Path:
    """The embedded held-out text."""
    return EVAL_DIR / "text.jsonl"


def default_tasks(checkpoint: Path) -> Path | None:
    """The embedded tasks if the checkpoint has the embedded model's tokenizer, which they were written for."""
    ours = CHECKPOINT_DIR / "tokenizer.json"
    theirs = checkpoint / "tokenizer.json"
    same = theirs.is_file() and theirs.read_bytes() == ours.read_bytes()
    return EVAL_DIR / "tasks" if same else None


def evidence_code() -> str:
    """What a measurement depends on besides its subject: our code, the packages, this machine."""
    machine = describe_machine().model_dump(exclude={"power_source"})
    return json.dumps([code_digest(MEASURING_CODE), tool_versions(MEASURING_PACKAGES), machine], sort_keys=True)
