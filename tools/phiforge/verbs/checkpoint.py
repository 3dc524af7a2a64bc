"""Find a checkpoint, a folder or a model of the Hub, and inspect it once: its facts, and the hash of its files."""

from __future__ import annotations

from typing import TYPE_CHECKING

from phiforge import errors
from phiforge.checkpoint import hub
from phiforge.checkpoint.inspect import fingerprint, inspect_checkpoint

if TYPE_CHECKING:
    from pathlib import Path

    from phiforge.checkpoint.inspect import CheckpointFacts
    from phiforge.store import Store
    from phiforge.verbs.watch import Stages


def locate(checkpoint: Path, revision: str | None, stages: Stages) -> Path:
    """Return the checkpoint's folder: the one given, or that of a model of the Hub, downloaded unless it is there.

    Args:
        checkpoint: A folder, or a Hub id such as microsoft/Phi-4-mini-instruct.
        revision: The commit to download; by default the pinned one.
        stages: Told of the download.

    Raises:
        PhiforgeError: In the ways of `hub.choose_commit` and `hub.download`.
    """
    hub_id = hub.hub_id_of(checkpoint)
    if hub_id is None:
        if revision is not None:
            raise errors.RevisionInvalidError(
                f"The checkpoint {checkpoint} is a folder, of which there is no revision {revision}.",
                why="--revision chooses a commit of a model of the Hub, such as microsoft/Phi-4-mini-instruct.",
                fix="Leave --revision out, or give the id of a model of the Hub.",
            )
        return checkpoint
    commit = hub.choose_commit(hub_id, revision)
    folder = hub.checkpoint_folder(hub_id, commit)
    if hub.is_complete(folder):
        stages.reused("download")
        return folder
    with stages.timed("download"):
        return hub.download(hub_id, commit, stages.watcher.advanced)


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
