"""Where a release goes: a folder, a Hugging Face repository, an OCI layout, a folder for Foundry Local."""

from __future__ import annotations

from phiforge.release.destinations.destination import (
    Destination,
    check_apart,
    check_destination,
    check_name,
    parse_destination,
)
from phiforge.release.destinations.opening import locate, open_release
from phiforge.release.destinations.published import Published, PublishedFile
from phiforge.release.destinations.publishing import publish
from phiforge.release.destinations.rereading import held, reread
from phiforge.release.destinations.succession import Successor, check_succession

__all__ = [
    "Destination",
    "Published",
    "PublishedFile",
    "Successor",
    "check_apart",
    "check_destination",
    "check_name",
    "check_succession",
    "held",
    "locate",
    "open_release",
    "parse_destination",
    "publish",
    "reread",
]
