"""The layout of a model repository of the Hugging Face Hub: the release folder, and which of its files are large."""

from __future__ import annotations

from typing import TYPE_CHECKING

from phiforge.release.destinations.disk import copy_tree, write_synced
from phiforge.release.destinations.existing import GIT_ATTRIBUTES, SEALS

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

# Binary files of a release, small ones as well, so that a file does not change its kind when it grows.
_LARGE_SUFFIXES = (".onnx", ".data", ".bin", ".safetensors")
# The Hub takes no larger file into Git itself (huggingface.co/docs/hub/repositories-getting-started).
_LARGE_BYTES = 10 * 1024 * 1024
_FILTER = "filter=lfs diff=lfs merge=lfs -text"


def is_large(name: str, size: int) -> bool:
    """Say whether the Hub keeps a file of this name and size in Git LFS."""
    return name.endswith(_LARGE_SUFFIXES) or size > _LARGE_BYTES


def fill_repository(prepared: Path, folder: Path, on_file: Callable[[str, int], None]) -> None:
    """Copy a release into a new folder in the layout of a repository, still without its seals.

    Args:
        prepared: The release folder.
        folder: The new folder.
        on_file: Told of each file: (name, bytes).
    """
    copy_tree(prepared, folder, on_file, skip=SEALS)
    write_synced(folder / GIT_ATTRIBUTES, git_attributes(folder).encode("utf-8"))


def git_attributes(folder: Path) -> str:
    """Write .gitattributes: the suffixes of binary files, and each other file that is too large for Git."""
    lines = [f"*{suffix} {_FILTER}" for suffix in _LARGE_SUFFIXES]
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        name = path.relative_to(folder).as_posix()
        if path.stat().st_size > _LARGE_BYTES and not name.endswith(_LARGE_SUFFIXES):
            # Git's patterns have no quotes for a space; the class of blanks means the same.
            lines.append(f"/{name.replace(' ', '[[:space:]]')} {_FILTER}")
    return "\n".join(lines) + "\n"
