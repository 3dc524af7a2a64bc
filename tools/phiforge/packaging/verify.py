"""Find any file of a package that was changed, removed or added after it was sealed."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from phiforge import errors
from phiforge.hashing import hash_file
from phiforge.packaging.layout import SUMS, check_inside, load_component, not_a_package

if TYPE_CHECKING:
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
    sealed = read_sums(package)
    present = {
        path.relative_to(package).as_posix(): path
        for path in package.rglob("*")
        if path.is_symlink() or not path.is_dir()
    }
    present.pop(SUMS, None)
    faults = [f"added: {name}" for name in sorted(set(present) - set(sealed))]
    for name, digest in sealed.items():
        path = present.get(name)
        if path is None:
            faults.append(f"missing: {name}")
        elif path.is_symlink() or hash_file(path) != digest:
            faults.append(f"changed: {name}")
    if faults:
        more = f"; and {len(faults) - 8} more" if len(faults) > 8 else ""
        raise errors.PackageTamperedError(
            f"{len(faults)} of {len(set(present) | set(sealed))} files of {package.name} are not as they were sealed.",
            why="; ".join(faults[:8]) + more,
            fix="Do not use this package; build it again, or get it again from where it was published.",
        )
    load_component(package)
    return Verification(package=package, files=len(sealed), seal_sha256=hash_file(package / SUMS))


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
