"""Read a release that may be replaced meanwhile: what a publication did to a reader is no fault of the release."""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING, TypeAlias, TypeVar

from phiforge import errors
from phiforge.packaging.layout import SUMS
from phiforge.release.destinations.disk import JOURNAL, work_folder
from phiforge.release.destinations.existing import LAYOUT_FILE
from phiforge.release.destinations.oci_reading import INDEX_FILE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

_Read = TypeVar("_Read")
_Identity: TypeAlias = tuple[tuple[int, ...] | None, ...]

# A publication reads the whole release several times before its one step, so a reader meets two in a row at most.
READS_MAX = 8
_PAUSE_S = 0.05


def reread(folder: Path, read: Callable[[], _Read], *, copies: bool = False) -> _Read:
    """Read a release, and again if a publication put another one in its place meanwhile.

    Args:
        folder: Where the release, its layout or its package lies.
        read: Reads it; called once if nobody publishes.
        copies: Whether what was read without an error counts although another release took its place meanwhile. That
            of an OCI layout always does: its blobs go by their hashes, and those that were replaced stay until the
            next publication.

    Returns:
        What `read` did of one release, the one before or the one after; with `copies` this is for `read` to see to.

    Raises:
        PackageTamperedError: A file cannot be read, and nobody published.
        OutputLockedError: It was replaced each time that it was read.
        PhiforgeError: As `read` does.
    """
    for number in range(READS_MAX):
        time.sleep(number * _PAUSE_S)
        before = _identity(folder)
        try:
            found = read()
        except (errors.PhiforgeError, OSError) as error:
            if _identity(folder) != before or _is_between_steps(folder):
                continue
            if isinstance(error, OSError):
                raise _unreadable(folder, error) from error
            raise
        if copies or _is_layout(folder) or _identity(folder) == before:
            return found
    raise _replaced(folder)


@contextlib.contextmanager
def held(folder: Path) -> Iterator[None]:
    """Tell of a release that was replaced while the block read it.

    Args:
        folder: Where the release or its package lies.

    Raises:
        OutputLockedError: It was replaced, whatever the block met.
    """
    before = _identity(folder)
    try:
        yield
    except (errors.PhiforgeError, OSError) as error:
        if _identity(folder) != before:
            raise _replaced(folder) from error
        raise
    if _identity(folder) != before:
        raise _replaced(folder)


def _identity(folder: Path) -> _Identity:
    """What is another once a publication has put another release there."""
    return (_stat(folder / INDEX_FILE),) if _is_layout(folder) else (_stat(folder), _stat(folder / SUMS))


def _is_layout(folder: Path) -> bool:
    return _stat(folder / LAYOUT_FILE) is not None


def _stat(path: Path) -> tuple[int, ...] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)


def _is_between_steps(folder: Path) -> bool:
    """Whether a release, or the one that a package is in, is being replaced in two steps just now."""
    place = folder.resolve()
    return any(_stat(work_folder(path) / JOURNAL) is not None for path in (place, place.parent) if path.name)


def _unreadable(folder: Path, error: OSError) -> errors.PackageTamperedError:
    return errors.PackageTamperedError(
        f"{folder} cannot be read.",
        why=f"{error.filename}: {error.strerror or error}.",
        fix="Make its files readable for you, or get it again from where it was published.",
    )


def _replaced(folder: Path) -> errors.OutputLockedError:
    return errors.OutputLockedError(
        f"{folder} was replaced while it was read.",
        why="Another process publishes there, or changes what is there.",
        fix="Run the same command again when it has ended.",
    )
