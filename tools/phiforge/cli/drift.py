"""Show where a variant's drift comes from."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.table import Table

from phiforge.cli.render import OK
from phiforge.cli.terminal import console, say

if TYPE_CHECKING:
    from pathlib import Path

    from phiforge.validation.drift_sources import DriftSources

# Lines shown of each level; the file has all.
SHOWN = 8
_TITLES = {"kind": "Part", "layer": "Layer", "tensor": "Tensor"}


def show_sources(sources: DriftSources, file: Path) -> int:
    """Print the costliest parts of each level, and where all are."""
    out = console()
    say(
        out,
        f"Mean KL {sources.kl_nats:.5f} nats over {sources.positions:,} positions; with the layers' weights and "
        f"activations switched back {sources.floor_nats:.5f}. Evidence: surrogate, the graphs on the CPU.",
    )
    for level, title in _TITLES.items():
        rows = [item for item in sources.sources if item.level == level][:SHOWN]
        table = Table(box=None, pad_edge=False)
        for column in (title, "KL without it, nats", "saves, nats", "of the drift"):
            table.add_column(column, justify="left" if column == title else "right", no_wrap=True, overflow="ignore")
        for item in rows:
            share = 100 * item.saved_nats / sources.kl_nats if sources.kl_nats else 0.0
            table.add_row(
                item.name,
                f"{item.kl_nats:.5f} ± {item.standard_error:.5f}",
                f"{item.saved_nats:+.5f}",
                f"{share:.0f} %",
            )
        out.print(table)
    say(out, f"All of them: {file}")
    return OK
