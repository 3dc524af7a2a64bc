"""Where a release goes: a folder, a Hugging Face repository, an OCI layout, a folder for Foundry Local."""

from __future__ import annotations

from phiforge.release.destinations.destination import (
    Destination,
    check_apart,
    check_destination,
    parse_destination,
)
from phiforge.release.destinations.opening import open_release
from phiforge.release.destinations.published import Published, PublishedFile
from phiforge.release.destinations.publishing import publish

__all__ = [
    "Destination",
    "Published",
    "PublishedFile",
    "check_apart",
    "check_destination",
    "open_release",
    "parse_destination",
    "publish",
]
