"""A destination on this machine's disk: the work folder beside it, and one step that puts the new release in place.

The new release is made whole in a work folder beside the destination, `.NAME.publishing`, and every file of it is on
the disk before it takes the destination's name (docs/decisions/0020-atomic-publishing.md). The work folder holds

    lock        held as long as somebody publishes there; a killed process holds none
    new/        the release in the making; after the exchange, the one before it
    old/        the one before it, where names cannot be exchanged in one step
    replacing   the journal of that case: `new/` is whole, so whoever finds this may finish
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import shutil
from typing import IO, TYPE_CHECKING

from filelock import FileLock, Timeout

from phiforge import errors
from phiforge.hashing import HASH_BLOCK_BYTES
from phiforge.release.destinations.exchange import exchange
from phiforge.store import disk_full

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

NEW, OLD, LOCK, JOURNAL = "new", "old", "lock", "replacing"
# As long as a path inside of a release may be, which the system counts into the whole.
_INSIDE = "/x" * 200
_NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT})


def work_folder(destination: Path) -> Path:
    """Give the folder beside a destination in which its next release is made."""
    return destination.with_name(f".{destination.name}.publishing")


@contextlib.contextmanager
def publishing(destination: Path) -> Iterator[Path]:
    """Lock a destination, finish what a killed process left, and yield an empty work folder beside it, removed after.

    Raises:
        OutputLockedError: Another process publishes there.
        OutputUnwritableError: The destination's parent cannot be written.
        DiskFullError: The disk filled up.
    """
    work = work_folder(destination)
    with written(destination):
        work.mkdir(parents=True, exist_ok=True)
        lock = _locked(work, destination)
        try:
            _recover(destination, work)
            _empty(work)
            yield work
        finally:
            _recover(destination, work)
            _empty(work)
            if os.name == "nt":  # where an open file cannot be removed
                lock.release()
            (work / LOCK).unlink(missing_ok=True)
            with contextlib.suppress(OSError):
                work.rmdir()
            lock.release()


def name_refusal(destination: Path) -> str | None:
    """Say why the file system would refuse a destination's name, that of its work folder, or paths inside; or None."""
    if not destination.name:
        return "nothing can stand in the place of the root"
    missing = [destination.name]
    place = destination.parent
    while not os.path.lexists(place) and place.name:
        missing, place = [place.name, *missing], place.parent
    probes = [place / name for name in (*missing, work_folder(destination).name)]
    for probe in (*map(str, probes), f"{work_folder(destination)}{_INSIDE}"):
        try:
            os.lstat(probe)
        except (FileNotFoundError, NotADirectoryError, PermissionError):
            continue
        except OSError as error:
            return error.strerror or str(error)
    return None


def settle(destination: Path) -> None:
    """Finish what a killed publication left to finish, unless one is going on."""
    place = destination.resolve()
    if place.name and (work_folder(place) / JOURNAL).exists():
        with contextlib.suppress(errors.OutputLockedError), publishing(place):
            pass


def put_in_place(work: Path, destination: Path) -> None:
    """Give the complete folder `new` of the work folder the destination's name, in one step where that can be.

    Everything in it is written to the disk first, so that not even a power failure leaves half a release.
    """
    new = work / NEW
    sync_folders(new)
    if not destination.exists() or not any(destination.iterdir()):
        if destination.exists() and os.name == "nt":  # where no folder is renamed onto an empty one
            destination.rmdir()
        new.rename(destination)
    elif not exchange(new, destination):
        (work / JOURNAL).touch()
        sync_folder(work)
        destination.rename(work / OLD)
        new.rename(destination)
    sync_folder(destination.parent)


def copy_tree(
    source: Path, target: Path, on_file: Callable[[str, int], None], skip: frozenset[str] = frozenset()
) -> None:
    """Copy a folder's files into a new folder, each one on the disk when this returns.

    Args:
        source: The folder.
        target: The new folder.
        on_file: Told of each file when it is copied: (name, bytes).
        skip: Names to leave out.
    """
    target.mkdir(parents=True)
    for path in sorted(path for path in source.rglob("*") if path.is_file()):
        name = path.relative_to(source).as_posix()
        if name in skip:
            continue
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        with path.open("rb") as readable, (target / name).open("wb") as writable:
            copy_stream(readable, writable)
            writable.flush()
            os.fsync(writable.fileno())
        on_file(name, path.stat().st_size)


def copy_stream(source: IO[bytes], target: IO[bytes]) -> None:
    """Copy the rest of an open file, a block at a time."""
    shutil.copyfileobj(source, target, HASH_BLOCK_BYTES)


def write_synced(path: Path, content: bytes) -> str:
    """Replace a small file in one step, on the disk before it has its name; returns its SHA-256."""
    partial = path.with_name(f".{path.name}.partial")
    with partial.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, path)
    return hashlib.sha256(content).hexdigest()


def sync_folders(folder: Path) -> None:
    """Write a folder's files and the entries of all folders in it to the disk."""
    for path in sorted(folder.rglob("*"), reverse=True):
        if path.is_dir():
            sync_folder(path)
        else:
            with path.open("rb+") as file:
                os.fsync(file.fileno())
    sync_folder(folder)


def sync_folder(folder: Path) -> None:
    """Write the entries of one folder to the disk, where the system has a call for that."""
    if os.name == "nt":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def written(destination: Path) -> Iterator[None]:
    """Turn the system's failures of writing into the expected ones."""
    try:
        yield
    except OSError as error:
        if error.errno in _NO_ROOM:
            raise disk_full(existing_above(destination)) from error
        raise unwritable(destination, error) from error


def unwritable(destination: Path, error: OSError) -> errors.OutputUnwritableError:
    """The error for a destination that cannot be written."""
    return errors.OutputUnwritableError(
        f"The destination {destination} cannot be written.",
        why=f"{error.strerror or error}.",
        fix="Choose another one with --to, or make its parent folder writable; what was there is as it was.",
    )


def existing_above(path: Path) -> Path:
    """Give the nearest folder at or above a path that exists."""
    return next(folder for folder in (path, *path.parents) if folder.exists())


def _locked(work: Path, destination: Path) -> FileLock:
    """Lock the work folder, also if another process removes it just now."""
    for _ in range(3):
        work.mkdir(parents=True, exist_ok=True)
        lock = FileLock(work / LOCK)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            break
        except FileNotFoundError:  # another process removed the folder just now
            continue
        if (work / LOCK).exists():
            return lock
        lock.release()
    raise errors.OutputLockedError(
        f"Another process publishes to {destination}.",
        why="It holds the lock of that destination; two would write over each other.",
        fix="Wait for it to end, or choose another --to.",
    )


def _recover(destination: Path, work: Path) -> None:
    """Finish a replacement in two steps that was stopped between them: the new release is whole, so it goes on."""
    if not (work / JOURNAL).exists() or destination.exists():
        return
    found = next((work / name for name in (NEW, OLD) if (work / name).exists()), None)
    if found is not None:
        found.rename(destination)
        sync_folder(destination.parent)


def _empty(work: Path) -> None:
    """Remove all but the lock, the journal last: while it is there, what it speaks of may be needed."""
    for path in sorted(work.iterdir(), key=lambda path: path.name == JOURNAL):
        if path.name == LOCK:
            continue
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()
