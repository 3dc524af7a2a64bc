"""Folders that a verb writes into: made and proved to be writable before any work is done for them."""

from __future__ import annotations

import errno
import tempfile
from typing import TYPE_CHECKING

from phiforge import errors
from phiforge.store import disk_full

if TYPE_CHECKING:
    from pathlib import Path


def prepare_output(folder: Path) -> None:
    """Make an output folder unless it is there, and write a file in it, which goes again.

    Permissions do not tell: of a read-only disk, a network share or an administrator they say nothing.

    Raises:
        OutputUnwritableError: It cannot be made or written.
        DiskFullError: There is no room for it.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(prefix=".phiforge-", dir=folder) as file:
            file.write(b"?")
    except OSError as error:
        if error.errno in {errno.ENOSPC, errno.EDQUOT}:
            raise disk_full(folder) from error
        raise errors.OutputUnwritableError(
            f"The output folder {folder} cannot be written.",
            why=f"{error.strerror or error}.",
            fix="Choose another folder with --output.",
        ) from error
