"""Hashes of files, read in blocks, that do not depend on where the files lie or when they were written."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

BLOCK_BYTES = 1 << 20


def sha256_of_file(path: Path) -> str:
    """Gives the SHA-256 of a file's bytes in hexadecimal digits."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(BLOCK_BYTES):
            digest.update(block)
    return digest.hexdigest()


def sha256_of_files(paths: Iterable[Path]) -> str:
    """Gives one SHA-256 over files of one folder: over a line "hash  name" for each, sorted by name."""
    lines = [f"{sha256_of_file(path)}  {path.name}\n" for path in sorted(paths, key=lambda path: path.name)]
    return hashlib.sha256("".join(lines).encode()).hexdigest()
