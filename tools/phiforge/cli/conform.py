"""Render what a GPU's provider would make of the graphs of a build."""

from __future__ import annotations

from typing import TYPE_CHECKING

from phiforge.cli.render import OK
from phiforge.cli.terminal import console, say

if TYPE_CHECKING:
    from collections.abc import Sequence

    from phiforge.verbs.conform import Conformed


def show_conformance(found: Sequence[Conformed]) -> int:
    """Print of each variant how many of its nodes run on the GPU, what stays on the CPU and what is copied."""
    out = console()
    if not found:
        say(out, "None of these targets is a GPU; there is nothing to check.")
    for item in found:
        told = item.found
        where = f"{told.nodes - len(told.misfits)} of {told.nodes} nodes run on {item.provider}"
        say(out, ("✓", "green"), f" {item.variant}: {where}")
        for misfit in told.misfits:
            say(out, f"    on the CPU, integers alone: {misfit.operator} {misfit.node}")
        for crossing in told.crossings:
            said = f"{crossing.value}, from {crossing.producer} to {crossing.consumer}"
            say(out, f"    copied at every run: {said}")
    return OK
