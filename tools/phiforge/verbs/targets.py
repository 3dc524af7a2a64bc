"""Targets: the device profiles of the project."""

from __future__ import annotations

from typing import TYPE_CHECKING

from phiforge import catalog
from phiforge.target import load_profile

if TYPE_CHECKING:
    from pathlib import Path

    from phiforge.target import Profile


def targets(project: Path | None = None) -> tuple[Profile, ...]:
    """Return every device profile of the project, sorted by name.

    Raises:
        ProfileInvalidError: One of them breaks its schema.
    """
    root = project or catalog.find_project()
    return tuple(load_profile(catalog.profile_path(root, name)) for name in catalog.profile_names(root))
