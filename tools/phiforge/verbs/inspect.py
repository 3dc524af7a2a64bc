"""Inspect: what a checkpoint, a variant or a package is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from phiforge.checkpoint.inspect import CheckpointFacts, inspect_checkpoint
from phiforge.graph.inspect import GraphFacts, inspect_graph
from phiforge.packaging.layout import MANIFEST
from phiforge.variant import GENAI_CONFIG, RECORD_FILE
from phiforge.verbs.checkpoint import locate
from phiforge.verbs.subject import Subject, find_subjects
from phiforge.verbs.watch import Stages, Unwatched

if TYPE_CHECKING:
    from pathlib import Path

    from phiforge.verbs.watch import Watcher

MODEL_FILE = "model.onnx"


@dataclass(frozen=True, kw_only=True)
class InspectedVariant:
    """A variant and its graph."""

    subject: Subject
    graph: GraphFacts


def inspect(
    path: Path, *, revision: str | None = None, watcher: Watcher | None = None
) -> CheckpointFacts | tuple[InspectedVariant, ...]:
    """Return the facts of a checkpoint, or of every variant of a package or variant folder.

    Args:
        path: A checkpoint, a package, a built variant's folder, or a model folder of ONNX Runtime GenAI. Or the id of a
            model of the Hub, which is downloaded.
        revision: The commit to download, 40 digits; by default the pinned one of a model that phiforge knows.
        watcher: Told of the download.

    Raises:
        PhiforgeError: What is wrong with it.
    """
    if any((path / name).is_file() for name in (MANIFEST, RECORD_FILE, GENAI_CONFIG)):
        return tuple(
            InspectedVariant(subject=subject, graph=inspect_graph(subject.folder / MODEL_FILE))
            for subject in find_subjects(path)
        )
    return inspect_checkpoint(locate(path, revision, Stages(watcher or Unwatched())), scan=True)
