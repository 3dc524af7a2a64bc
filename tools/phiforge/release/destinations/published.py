"""What a publication did, or would do: every file with its size, its hash and what becomes of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from phiforge.hashing import hash_files

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

Action = Literal["add", "keep", "replace", "remove"]


@dataclass(frozen=True, kw_only=True)
class PublishedFile:
    """One file of a destination.

    Attributes:
        name: Path in the destination, with slashes.
        bytes: Its size; 0 where it is removed.
        sha256: The hash of its content; of what was there where it is removed, empty where the Hub does not say it.
        action: What becomes of the destination's file.
        lfs: Whether the Hub keeps it as a large file (Git LFS).
    """

    name: str
    bytes: int
    sha256: str
    action: Action
    lfs: bool = False


@dataclass(frozen=True, kw_only=True)
class Published:
    """Where a release is.

    Attributes:
        location: The destination, as it is written on the command line, with what the publication added to it.
        files: The files that make the release, sorted by name.
        asked: Whether the destination was asked what is there; a dry run does not ask the Hub.
    """

    location: str
    files: tuple[PublishedFile, ...]
    asked: bool = True


def compare_files(folder: Path, before: Mapping[str, str]) -> tuple[PublishedFile, ...]:
    """List a folder's files against what the destination had before.

    Args:
        folder: What is published.
        before: SHA-256 of the destination's files, by name.
    """
    return compare_listings(hash_files(folder), before, [folder])


def compare_listings(
    after: Mapping[str, str], before: Mapping[str, str], folders: Sequence[Path]
) -> tuple[PublishedFile, ...]:
    """List the files of a destination after a publication against those before it.

    Args:
        after: SHA-256 of its files by name, afterwards.
        before: The same, before.
        folders: Where the files are looked for to know their sizes, in this order.
    """
    files = []
    for name, digest in after.items():
        path = next(folder / name for folder in folders if (folder / name).exists())
        action = action_for(digest, before.get(name))
        files.append(PublishedFile(name=name, bytes=path.stat().st_size, sha256=digest, action=action))
    gone = before.keys() - after.keys()
    files += [PublishedFile(name=name, bytes=0, sha256=before[name], action="remove") for name in gone]
    return tuple(sorted(files, key=lambda file: file.name))


def action_for(digest: str, before: str | None) -> Action:
    """Say what becomes of a file whose destination had this hash before, or none."""
    if before is None:
        return "add"
    return "keep" if before == digest else "replace"
