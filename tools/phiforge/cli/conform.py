"""Render what a GPU's provider would make of the graphs of a build."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.markup import escape

from phiforge.cli.render import OK, console

if TYPE_CHECKING:
    from collections.abc import Sequence

    from phiforge.verbs.conform import Conformed


def show_conformance(found: Sequence[Conformed]) -> int:
    """Print of each variant how many of its nodes run on the GPU, what stays on the CPU and what is copied."""
    out = console()
    if not found:
        out.print("None of these targets is a GPU; there is nothing to check.")
    for item in found:
        told = item.found
        where = f"{told.nodes - len(told.misfits)} of {told.nodes} nodes run on {item.provider}"
        out.print(f"[green]✓[/] {escape(item.variant)}: {escape(where)}")
        for misfit in told.misfits:
            out.print(
                f"    on the CPU, integers alone: {escape(misfit.operator)} {escape(misfit.node)}", highlight=False
            )
        for crossing in told.crossings:
            said = f"{crossing.value}, from {crossing.producer} to {crossing.consumer}"
            out.print(f"    copied at every run: {escape(said)}", highlight=False)
    return OK
