"""Content-addressed stage folders: written beside their final name, renamed when complete, found again by key.

A folder under its final name is complete; anything else is work in progress that the next run resumes or removes. The
store does not know what the files mean.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout

from phiforge import errors
from phiforge.hashing import content_key

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_KEY_DIGITS = 16


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write a file, text as UTF-8, so that its name never holds half of it."""
    partial = path.with_name(f".{path.name}.partial")
    partial.write_bytes(content.encode("utf-8") if isinstance(content, str) else content)
    os.replace(partial, path)


class Store:
    """Stage folders under one root: `<root>/<kind>/<first digits of key>`."""

    def __init__(self, root: Path) -> None:
        self.root = root

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Keep other builds out of this store; a killed build's lock is free at once.

        Raises:
            OutputLockedError: Another build holds it.
        """
        self.root.mkdir(parents=True, exist_ok=True)
        lock = FileLock(self.root / ".lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            raise errors.OutputLockedError(
                f"Another build is working in {self.root.parent}.",
                why="It holds the lock of that folder; two builds would write over each other.",
                fix="Wait for it to end, or choose another --output.",
            ) from None
        try:
            yield
        finally:
            lock.release()

    def find(self, kind: str, key: str) -> Path | None:
        """Return the complete stage folder of this key, or None."""
        folder = self._folder(kind, key)
        return folder if folder.is_dir() else None

    def work(self, kind: str, key: str) -> Path:
        """A folder for work in progress that survives a kill; the stage's owner decides what to resume from it."""
        folder = self.root / "unfinished" / f"{kind}-{key[:_KEY_DIGITS]}"
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    @contextlib.contextmanager
    def stage(self, kind: str, key: str) -> Iterator[Path]:
        """Yield an empty folder that becomes the stage when the block ends without an error.

        Raises:
            DiskFullError: The disk filled up.
        """
        final = self._folder(kind, key)
        partial = final.with_name(f".{final.name}.partial")
        shutil.rmtree(partial, ignore_errors=True)
        with disk_full_guard(self.root):
            partial.mkdir(parents=True)
            try:
                yield partial
            except BaseException:
                shutil.rmtree(partial, ignore_errors=True)
                raise
            os.replace(partial, final)

    def recall(self, kind: str, signature: object) -> Any:
        """Return the small JSON value remembered for this signature, or None."""
        path = self._note(kind, signature)
        try:
            return json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None

    def remember(self, kind: str, signature: object, value: object) -> None:
        """Remember a small JSON value for this signature."""
        path = self._note(kind, signature)
        with disk_full_guard(self.root):
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(path, json.dumps(value) + "\n")

    def clean(self) -> None:
        """Remove what killed runs left half-written. Call with the lock held."""
        for partial in self.root.glob("*/.*.partial"):
            shutil.rmtree(partial, ignore_errors=True)

    def discard_work(self, kind: str, key: str) -> None:
        """Remove a work folder whose stage is complete."""
        shutil.rmtree(self.work(kind, key), ignore_errors=True)

    def _folder(self, kind: str, key: str) -> Path:
        return self.root / kind / key[:_KEY_DIGITS]

    def _note(self, kind: str, signature: object) -> Path:
        return self.root / "notes" / f"{kind}-{content_key(signature)[:_KEY_DIGITS]}.json"


@contextlib.contextmanager
def disk_full_guard(folder: Path) -> Iterator[None]:
    """Turn the system's "no space left" into the expected failure."""
    try:
        yield
    except OSError as error:
        if error.errno not in {errno.ENOSPC, errno.EDQUOT}:
            raise
        raise disk_full(folder) from error


def copy_folder(source: Path, target: Path) -> None:
    """Copy a folder to a new one.

    `shutil.copytree` goes on after an error and then raises one without a number, which nobody knows as a full disk.

    Raises:
        OSError: The first that there was.
    """
    paths = sorted(source.rglob("*"))
    target.mkdir(parents=True)
    for path in paths:
        place = target / path.relative_to(source)
        if path.is_dir():
            place.mkdir()
        else:
            shutil.copy2(path, place)


def disk_full(folder: Path) -> errors.DiskFullError:
    """The error for a disk that filled up during the work."""
    free = shutil.disk_usage(folder).free if folder.exists() else 0
    return errors.DiskFullError(
        "The disk filled up during the work; nothing was left under a final name.",
        why=f"{free / 1e6:.1f} MB are free at {folder}.",
        fix="Free some space and run the same command again, or choose another --output.",
    )
