"""Open a release on disk, in whatever form it lies there, as a release folder."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from phiforge import errors
from phiforge.release.destinations.destination import parse_destination
from phiforge.release.destinations.disk import settle
from phiforge.release.destinations.existing import DiskForm, form_of
from phiforge.release.destinations.oci_reading import check_layout, unpack
from phiforge.release.destinations.rereading import held, reread

if TYPE_CHECKING:
    from collections.abc import Iterator

    from phiforge.release.destinations.oci_schema import ImageManifest, ManifestDescriptor


@contextlib.contextmanager
def open_release(path: Path) -> Iterator[Path]:
    """Yield the release folder at a path: itself, or what an OCI layout holds, unpacked into a temporary folder.

    A publication that was stopped between two steps is finished first, where it can be. A layout that is published to
    meanwhile is read again.

    Args:
        path: A release on disk in any form, also written as a destination: `oci:DIR:TAG`. Of several releases in an OCI
            layout it is the one of that tag, or the one published last.

    Raises:
        PackageTamperedError: An OCI layout is not as it was published; the file is named. All of its tags are checked.
        UnsafePathError: A path in a layer leaves its folder.
        PreviousReleaseError: There is no release.
        OutputLockedError: The folder was replaced while it was open, or the layout each time that it was read.
    """
    folder, tag = locate(path)
    if reread(folder, lambda: _form(folder, path), copies=True) != "oci":
        with held(folder):
            yield folder
        return
    with tempfile.TemporaryDirectory(prefix="phiforge-release-") as temporary:
        unpacked = Path(temporary) / "release"
        reread(folder, lambda: _unpack_tag(folder, tag, path, unpacked), copies=True)
        yield unpacked


def _form(folder: Path, path: Path) -> DiskForm:
    settle(folder)
    form = form_of(folder)
    if form is None:
        raise _no_release(path, f"It has no release.json{' and is no folder' if not folder.is_dir() else ''}.")
    return form


def _unpack_tag(layout: Path, tag: str | None, path: Path, target: Path) -> None:
    shutil.rmtree(target, ignore_errors=True)
    unpack(layout, _tagged(check_layout(layout), tag, path), target)


def locate(path: Path) -> tuple[Path, str | None]:
    """Read a path that may be written as a destination into folder and tag; a folder that exists is meant as it is."""
    if os.path.exists(path):  # noqa: PTH110 - also of a name that the file system refuses
        return path, None
    try:
        destination = parse_destination(str(path))
    except errors.DestinationError:
        return path, None
    return destination.path or path, destination.tag


def _tagged(manifests: list[tuple[ManifestDescriptor, ImageManifest]], tag: str | None, path: Path) -> ImageManifest:
    if tag is None:
        return manifests[-1][1]
    for entry, manifest in manifests:
        if entry.tag == tag:
            return manifest
    raise _no_release(path, f"The layout has no tag {tag!r}; it has {', '.join(entry.tag for entry, _ in manifests)}.")


def _no_release(path: Path, why: str) -> errors.PreviousReleaseError:
    return errors.PreviousReleaseError(
        f"{path} is no release on disk.",
        why=why,
        fix="Give a folder that `phiforge release` published to; get one from the Hub or a registry first.",
    )
