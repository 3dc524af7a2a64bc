"""Publish a prepared release to one destination, whole or not at all."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from phiforge.hashing import hash_file, hash_files
from phiforge.release.destinations.destination import resolved
from phiforge.release.destinations.disk import NEW, copy_tree, publishing, put_in_place, sync_folders
from phiforge.release.destinations.existing import SEALS, release_facts, sealed_files
from phiforge.release.destinations.foundry import fill_foundry
from phiforge.release.destinations.hf_layout import fill_repository
from phiforge.release.destinations.oci_layout import copy_index, default_tag, layout_files, publish_layout
from phiforge.release.destinations.published import Published, compare_files, compare_listings

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from phiforge.release.destinations.destination import Destination

    Check = Callable[[], object]
    OnFile = Callable[[str, int], None]
    Seal = Callable[[Path], None]
    Fill = Callable[[Path, Path, OnFile], None]


def publish(
    prepared: Path,
    destination: Destination,
    *,
    check: Check,
    seal: Seal,
    dry_run: bool = False,
    on_file: OnFile = lambda name, size: None,
) -> Published:
    """Publish a prepared release folder, whole or not at all.

    A process that is killed leaves the release that was there before, or the new one; the same call again finishes the
    work and removes what was left beside the destination.

    Args:
        prepared: A complete, sealed release folder; it is only read.
        destination: Where it goes.
        check: Raises if what is there may not be replaced. It is called while no other publication can come between,
            last before anything there changes.
        seal: Writes SHA256SUMS and the signature of a folder that has files of its own for this destination.
        dry_run: Whether only to say what would be done; needs no network.
        on_file: Told of each file that is written or sent: (name, bytes).

    Raises:
        OutputUnwritableError: The destination cannot be written.
        OutputLockedError: Another process publishes there.
        DiskFullError: The disk filled up.
        DestinationError: The destination is no release of the same model, or the form cannot hold this release.
        NetworkError: The Hub cannot be reached, or the connection broke; nothing of it was published.
        PhiforgeError: As `check` does; what is there is as it was.
    """
    if destination.form == "hub":
        return _publish_upload(prepared, destination, check, seal, dry_run=dry_run, on_file=on_file)
    if destination.form == "oci":
        return _publish_oci(prepared, destination, check, dry_run=dry_run, on_file=on_file)
    return _publish_folder(prepared, destination, check, seal, dry_run=dry_run, on_file=on_file)


def _publish_folder(
    prepared: Path, destination: Destination, check: Check, seal: Seal, *, dry_run: bool, on_file: OnFile
) -> Published:
    path, fill = resolved(destination), _FILL[destination.form]
    if dry_run:
        check()
        with tempfile.TemporaryDirectory(prefix=".phiforge-", dir=prepared.parent) as temporary:
            folder = _filled(prepared, Path(temporary) / NEW, fill, seal, lambda name, size: None)
            return Published(location=str(destination), files=compare_files(folder, _listed(path)))
    with publishing(path) as work:
        folder = _filled(prepared, work / NEW, fill, seal, on_file)
        after = hash_files(folder)
        check()
        files = compare_listings(after, _listed(path), [folder])
        put_in_place(work, path)
    return Published(location=str(destination), files=files)


def _publish_oci(
    prepared: Path, destination: Destination, check: Check, *, dry_run: bool, on_file: OnFile
) -> Published:
    """A new layout is made beside the destination; in one that is there, only its index is replaced."""
    path = resolved(destination)
    tag = destination.tag or default_tag(release_facts(prepared))
    location = f"oci:{destination.path}:{tag}"
    if dry_run:
        check()
        with tempfile.TemporaryDirectory(prefix=".phiforge-", dir=prepared.parent) as temporary:
            folder, before = Path(temporary) / NEW, layout_files(path)
            if before:
                copy_index(path, folder)
            publish_layout(prepared, folder, tag, lambda name, size: None)
            files = compare_listings(layout_files(folder), before, [folder, path])
            return Published(location=location, files=files)
    with publishing(path) as work:
        check()
        before = layout_files(path)
        if before:
            publish_layout(prepared, path, tag, on_file)
        else:
            publish_layout(prepared, work / NEW, tag, on_file)
            check()
            put_in_place(work, path)
        files = compare_listings(layout_files(path), before, [path])
    return Published(location=location, files=files)


def _publish_upload(
    prepared: Path, destination: Destination, check: Check, seal: Seal, *, dry_run: bool, on_file: OnFile
) -> Published:
    """Make the repository's folder beside the prepared one, then send it in one commit."""
    from phiforge.release.destinations.hub import planned, upload

    with tempfile.TemporaryDirectory(prefix=".phiforge-", dir=prepared.parent) as temporary:
        folder = _filled(prepared, Path(temporary) / NEW, fill_repository, seal, lambda name, size: None)
        return planned(folder, destination) if dry_run else upload(folder, destination, check, on_file)


def _filled(prepared: Path, folder: Path, fill: Fill | None, seal: Seal, on_file: OnFile) -> Path:
    """Make the folder that a destination gets; where it has files of its own, it is sealed anew."""
    if fill is None:
        copy_tree(prepared, folder, on_file)
        return folder
    fill(prepared, folder, on_file)
    seal(folder)
    sync_folders(folder)
    return folder


def _listed(folder: Path) -> Mapping[str, str]:
    """What a release's folder says of its files, with the files that seal it."""
    seals = {name: hash_file(folder / name) for name in SEALS if (folder / name).is_file()}
    return {**sealed_files(folder), **seals}


_FILL: Mapping[str, Fill | None] = {"folder": None, "hf": fill_repository, "foundry": fill_foundry}
