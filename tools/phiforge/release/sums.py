"""SHA256SUMS of a release folder: every file but itself and the signature."""

from __future__ import annotations

from typing import TYPE_CHECKING

from phiforge.hashing import hash_files
from phiforge.packaging.layout import SUMS
from phiforge.packaging.verify import find_changes, tampered
from phiforge.release.layout import SIGNING
from phiforge.store import write_atomically

if TYPE_CHECKING:
    from pathlib import Path


def write_sums(folder: Path) -> None:
    """Write SHA256SUMS over all other files of a release but its signature."""
    hashes = {path: digest for path, digest in hash_files(folder).items() if path not in SIGNING}
    write_atomically(folder / SUMS, "".join(f"{digest}  {path}\n" for path, digest in sorted(hashes.items())))


def check_sums(folder: Path) -> dict[str, str]:
    """Check every file of a release against SHA256SUMS and return the digests, by path.

    Raises:
        PackageInvalidError: There is no readable SHA256SUMS.
        PackageTamperedError: Files were changed, removed or added; the message names them.
        UnsafePathError: SHA256SUMS names a path outside the folder.
    """
    sums, faults = find_changes(folder, besides=SIGNING)
    if faults:
        raise tampered(folder, faults, len(sums))
    return sums
