"""Find any file of a package that was changed, removed or added after it was sealed."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from phiforge import errors
from phiforge.hashing import hash_file
from phiforge.packaging.layout import SUMS, check_inside, load_component, not_a_package

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

_LINE = re.compile(r"([0-9a-f]{64}) [ *](.+)")


@dataclass(frozen=True, kw_only=True)
class Verification:
    """A package that is as it was sealed."""

    package: Path
    files: int
    seal_sha256: str


def verify_package(package: Path) -> Verification:
    """Check every file of the package against its seal, and that its manifest is readable.

    The seal tells what changed since packaging; whether the packager can be trusted is a signature's matter.

    Raises:
        PackageInvalidError: There is no manifest or no SHA256SUMS.
        PackageTamperedError: Files were changed, removed or added; the message names them.
        UnsafePathError: SHA256SUMS or the manifest names a path outside the package.
    """
    if not package.is_dir():
        raise not_a_package(package, "There is no such folder.")
    sealed, faults = find_changes(package, besides=(SUMS,))
    if faults:
        raise tampered(package, faults, len(sealed))
    load_component(package)
    return Verification(package=package, files=len(sealed), seal_sha256=hash_file(package / SUMS))


def find_changes(folder: Path, *, besides: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    """Return what SHA256SUMS of a folder says, and what is otherwise, as "changed: <path>".

    A link is not the file it points to. A line that is another in one or two letters of its digest was itself damaged,
    since a changed file has another digest in nearly all of them.

    Args:
        folder: A package or a release.
        besides: Files that SHA256SUMS does not list, by their paths.

    Raises:
        PackageInvalidError: There is no readable SHA256SUMS.
        UnsafePathError: It names a path outside the folder.
    """
    sealed = read_sums(folder)
    present = {
        path.relative_to(folder).as_posix(): path
        for path in folder.rglob("*")
        if path.is_symlink() or not path.is_dir()
    }
    added = sorted(set(present) - set(sealed) - set(besides))
    faults = [f"added: {name}" for name in added]
    for name, digest in sealed.items():
        path = present.get(name)
        if path is None:
            faults.append(f"missing: {name}" + _misspelt(present, added, digest))
        else:
            faults += _unlike(path, name, digest)
    return sealed, faults


def _unlike(path: Path, name: str, digest: str) -> list[str]:
    """Say what is wrong with a file that is there, nothing if it is as it was sealed."""
    if path.is_symlink():
        return [f"changed: {name}"]
    try:
        own = hash_file(path)
    except OSError as error:
        return [f"unreadable: {name} ({error.strerror})"]
    if own == digest:
        return []
    near = sum(a != b for a, b in zip(own, digest, strict=True)) <= 2
    return [f"changed: {SUMS}, in the line of {name}" if near else f"changed: {name}"]


def _misspelt(present: Mapping[str, Path], added: Sequence[str], digest: str) -> str:
    """Say so if the missing file is there under another name than SHA256SUMS has."""
    found = [name for name in added if present[name].is_file() and hash_file(present[name]) == digest]
    return f", which is there as {found[0]}, so either it or {SUMS} was changed" if found else ""


def tampered(folder: Path, faults: Sequence[str], files: int) -> errors.PackageTamperedError:
    """The error for a folder whose files are not as they were sealed."""
    more = f"; and {len(faults) - 8} more" if len(faults) > 8 else ""
    return errors.PackageTamperedError(
        f"{len(faults)} of {files} files of {folder.name} are not as they were sealed.",
        why="; ".join(faults[:8]) + more,
        fix="Do not use this; build it again, or get it again from where it was published.",
    )


def read_sums(package: Path) -> dict[str, str]:
    """Read SHA256SUMS: digest by relative POSIX path.

    Raises:
        PackageInvalidError: The file is absent or a line is not `digest  path`.
        UnsafePathError: A path leaves the package.
    """
    try:
        lines = (package / SUMS).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise not_a_package(package, f"It has no readable {SUMS}.") from error
    sums: dict[str, str] = {}
    for number, line in enumerate(lines, start=1):
        match = _LINE.fullmatch(line)
        if match is None:
            raise not_a_package(package, f"Line {number} of {SUMS} is not a hash and a path.")
        sums[check_inside(match[2])] = match[1]
    return sums
