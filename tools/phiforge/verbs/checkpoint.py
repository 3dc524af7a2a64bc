"""Inspect a checkpoint once: the facts a plan needs, and the hash of its files, remembered in the store."""

from __future__ import annotations

from typing import TYPE_CHECKING

from phiforge.checkpoint.inspect import fingerprint, inspect_checkpoint

if TYPE_CHECKING:
    from pathlib import Path

    from phiforge.checkpoint.inspect import CheckpointFacts
    from phiforge.store import Store
    from phiforge.verbs.watch import Stages


def examine(checkpoint: Path, store: Store, stages: Stages) -> tuple[CheckpointFacts, str]:
    """Return the checkpoint's facts and fingerprint; weights are scanned and hashed only if a file changed.

    A file counts as unchanged if its size and time of change are what they were.

    Raises:
        PhiforgeError: The checkpoint is broken in one of the ways of `phiforge.errors`.
    """
    facts = inspect_checkpoint(checkpoint, scan=False)
    signature = [
        [path.name, path.stat().st_size, path.stat().st_mtime_ns]
        for path in sorted(checkpoint.resolve().iterdir())
        if path.is_file()
    ]
    known = store.recall("checkpoint", signature)
    if isinstance(known, str):
        stages.reused("inspect")
        return facts, known
    with stages.timed("inspect"):
        facts = inspect_checkpoint(checkpoint, scan=True)
        digest = fingerprint(checkpoint)
        store.remember("checkpoint", signature, digest)
    return facts, digest
