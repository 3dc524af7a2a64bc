"""Explain drift: which layers and tensors of an NPU variant cost most, by switching their quantization back."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from phiforge import errors
from phiforge.checkpoint.config import load_config
from phiforge.machine import default_threads
from phiforge.pipeline import ROTATE_PASS
from phiforge.store import write_atomically
from phiforge.variant import CALIBRATED_FOLDER
from phiforge.verbs.checkpoint import locate
from phiforge.verbs.defaults import default_texts
from phiforge.verbs.subject import find_subjects
from phiforge.verbs.validate import staged_subject, workflow_passes
from phiforge.verbs.watch import Stages, Unwatched

if TYPE_CHECKING:
    from pathlib import Path

    from phiforge.validation.drift_sources import DriftSources
    from phiforge.verbs.subject import Subject
    from phiforge.verbs.watch import Watcher

SOURCES_FILE = "drift-sources.json"


def explain_drift(
    variant: Path,
    checkpoint: Path,
    *,
    output: Path,
    texts: Path | None = None,
    positions: int,
    threads: int | None = None,
    watcher: Watcher | None = None,
) -> tuple[DriftSources, Path]:
    """Find where a built NPU variant's drift comes from, and write it to drift-sources.json.

    Args:
        variant: What `phiforge build` made: the folder with variant.json.
        checkpoint: What it was built from.
        output: Folder for the file, and for what is made on the way.
        texts: Held-out text, JSONL with id and text; the embedded one by default.
        positions: Positions scored at each trial; about fifty trials for a model of six layers.
        threads: Threads of the runtime.
        watcher: Told of the progress.

    Raises:
        VariantUnusableError: The folder holds no variant for an NPU with what was made on the way.
        PipelineInvalidError: Its weights before quantization cannot be told from the checkpoint.
    """
    # Imported here: torch and the runtime take seconds to load.
    from phiforge.olive.original_rows import OriginalRows
    from phiforge.validation.drift_sources import find_drift_sources
    from phiforge.validation.held_out import reference_of

    watcher = watcher or Unwatched()
    (subject,) = find_subjects(variant)
    build = _build_folder(subject)
    checkpoint = locate(checkpoint, None, Stages(watcher))
    output.mkdir(parents=True, exist_ok=True)
    passes = workflow_passes(build)
    _check_passes(passes)
    seeds = [int(item["seed"]) for item in passes if item["type"] == ROTATE_PASS]
    staged = staged_subject(subject, ())
    assert staged.options.context_tokens is not None
    threads = threads or default_threads()
    reference = reference_of(
        checkpoint, texts or default_texts(), context=staged.options.context_tokens, positions=positions,
        cache=output / "reference", threads=threads, progress=watcher.advanced,
    )  # fmt: skip
    found = find_drift_sources(
        staged,
        reference,
        OriginalRows(checkpoint, build / CALIBRATED_FOLDER, seeds[0] if seeds else None),
        positions=positions,
        switch=load_config(checkpoint).original_max_positions,
        cache=output,
        threads=threads,
        progress=watcher.advanced,
    )
    file = output / SOURCES_FILE
    write_atomically(file, json.dumps({"variant_sha256": subject.sha256, **asdict(found)}, indent=1) + "\n")
    return found, file


def _build_folder(subject: Subject) -> Path:
    if subject.build is None:
        raise errors.VariantUnusableError(
            f"{subject.folder} cannot be taken apart.",
            why="Only a variant for an NPU keeps its graphs and its calibrated checkpoint beside it, in the store.",
            fix="Give the variant's folder in the store, which `phiforge build --target qnn-...` made.",
        )
    return subject.build


def _check_passes(passes: list[dict[str, Any]]) -> None:
    if any(item.get("algorithm") == "awq" for item in passes):
        raise errors.PipelineInvalidError(
            "The weights before quantization are not known.",
            why="AWQ scaled channels of this variant's weights, and does not keep the scales.",
            fix="Build with gptq or k-quant to explain the drift.",
        )
