"""Verify: find any changed, missing or added file of a package."""

from __future__ import annotations

from typing import TYPE_CHECKING

from phiforge.packaging.verify import Verification, verify_package

if TYPE_CHECKING:
    from pathlib import Path


def verify(package: Path) -> Verification:
    """Check a package against its seal.

    Raises:
        PackageInvalidError: It is no package.
        PackageTamperedError: Files were changed, removed or added.
    """
    return verify_package(package)
