"""The application with all its commands, in the order that `--help` lists them."""

from __future__ import annotations

from phiforge.cli.commands import build, inspect, measure, release
from phiforge.cli.options import app

__all__ = ["app", "build", "inspect", "measure", "release"]
