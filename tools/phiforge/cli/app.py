"""The application with all its commands, in the order that `--help` lists them."""

from __future__ import annotations

from phiforge.cli.commands import build, compare, inspect, matrix, measure, predict, release
from phiforge.cli.options import app

__all__ = ["app", "build", "compare", "inspect", "matrix", "measure", "predict", "release"]
