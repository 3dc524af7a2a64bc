"""Render which variant of a package this machine gets."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.table import Column, Table

from phiforge.cli.render import OK, size
from phiforge.cli.terminal import console, say

if TYPE_CHECKING:
    from phiforge.evidence import Machine
    from phiforge.selection import Choice
    from phiforge.verbs.explain import Explanation


def show_explanation(explanation: Explanation) -> int:
    """Print the machine, what becomes of each variant, and the one this machine gets.

    Raises:
        FallbackError: It gets none.
    """
    from phiforge.verbs.explain import chosen_variant

    out = console()
    say(out, machine_line(explanation.machine))
    table = Table("", "variant", "for", "profile", Column("why", overflow="fold"))
    for choice in explanation.choices:
        table.add_row(*_cells(choice, chosen=choice.variant == explanation.chosen))
    out.print(table)
    for remedy in dict.fromkeys(choice.remedy for choice in explanation.choices if choice.remedy):
        names = ", ".join(choice.variant for choice in explanation.choices if choice.remedy == remedy)
        say(out, f"For {names}: {remedy}")
    got = chosen_variant(explanation)
    say(out, (f"This machine gets {got.variant}", "bold green"), f" on {got.adapters[0]}.")
    return OK


def machine_line(machine: Machine) -> str:
    """What a machine is, in one line."""
    emulated = machine.process_architecture != machine.architecture
    process = f" (this process is emulated, for {machine.process_architecture})" if emulated else ""
    return (
        f"{machine.processor}, {machine.physical_cores} cores, {size(machine.memory_bytes)} of memory, "
        f"{machine.system}, {machine.architecture}{process}"
    )


def _cells(choice: Choice, *, chosen: bool) -> tuple[str, ...]:
    mark = "✓" if choice.eligible else "✗"
    via = "" if choice.provider == choice.device else f" ({choice.provider})"
    return "→" if chosen else mark, choice.variant, f"{choice.device}{via}", choice.profile or "–", choice.why
