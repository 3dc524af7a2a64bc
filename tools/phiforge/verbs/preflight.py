"""Refuse a plan that would not fit, before any work is done."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import psutil

from phiforge import errors
from phiforge.devices import check_devices

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from phiforge.plan import Plan


def check_memory_of_devices(plan: Plan) -> None:
    """Hold every variant against the memory of the devices it is for.

    Raises:
        DeviceTooSmallError: A device cannot hold its variant with the context that its profile promises.
    """
    for variant in plan.variants:
        check_devices(variant.devices, variant.name, compiled=variant.npu is not None)


def check_resources(plan: Plan, output: Path, others: Callable[[], Mapping[str, Plan]]) -> None:
    """Compare the plan's predictions with what is free now.

    Args:
        plan: The plan.
        output: Where the build writes.
        others: The plans of the same build with other pipelines, by name; asked for only when this one does not fit.

    Raises:
        MemoryTooSmallError: Less memory is available than the build is predicted to hold at its peak.
        DiskFullError: Less disk is free than the build is predicted to write.
    """
    available = psutil.virtual_memory().available
    if available < plan.preflight.memory_bytes:
        raise errors.MemoryTooSmallError(
            f"The build needs about {_gigabytes(plan.preflight.memory_bytes)} of memory, and "
            f"{_gigabytes(available)} are available.",
            why=f"Its step {plan.preflight.largest_step.step!r} is predicted to hold so much anonymous memory at its "
            "peak; swap is not counted on.",
            fix=f"{_fitting(others(), available)} Nothing has been written.",
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


def _fitting(plans: Mapping[str, Plan], available: int) -> str:
    """Say which pipelines would fit, the least demanding first."""
    needs = sorted((plan.preflight.memory_bytes, name) for name, plan in plans.items())
    fitting = [f"--pipeline {name} ({_gigabytes(need)})" for need, name in needs if need <= available]
    if fitting:
        return f"What fits: {', '.join(fitting)}. Or close other programs."
    least = f" The least demanding pipeline, {needs[0][1]}, needs {_gigabytes(needs[0][0])}." if needs else ""
    return f"Close other programs or use a machine with more memory.{least}"


def _gigabytes(count: int) -> str:
    return f"{count / 1e9:.2f} GB"
