"""Refuse a plan that would not fit, before any work is done."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import psutil

from phiforge import errors

if TYPE_CHECKING:
    from pathlib import Path

    from phiforge.plan import Plan


def check_resources(plan: Plan, output: Path) -> None:
    """Compare the plan's predictions with what is free now.

    Raises:
        MemoryTooSmallError: Less memory is available than the build is predicted to hold at its peak.
        DiskFullError: Less disk is free than the build is predicted to write.
    """
    available = psutil.virtual_memory().available
    if available < plan.preflight.memory_bytes:
        raise errors.MemoryTooSmallError(
            f"The build needs about {_gigabytes(plan.preflight.memory_bytes)} of memory, and "
            f"{_gigabytes(available)} are available.",
            why="The prediction is the peak anonymous memory of all its processes; swap is not counted on.",
            fix="Close other programs or use a machine with more memory; nothing has been written.",
        )
    existing = next(folder for folder in (output, *output.resolve().parents) if folder.is_dir())
    free = shutil.disk_usage(existing).free
    if free < plan.preflight.disk_bytes:
        raise errors.DiskFullError(
            f"The build needs about {_gigabytes(plan.preflight.disk_bytes)} of disk, and {_gigabytes(free)} are free "
            f"at {existing}.",
            why="It writes the quantized checkpoint, the variant and the package.",
            fix="Free some space or choose another --output; nothing has been written.",
        )


def _gigabytes(count: int) -> str:
    return f"{count / 1e9:.2f} GB"
