"""Render predictions, and beside each what was measured of the same variant."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.table import Table

from phiforge.cli.render import OK, size
from phiforge.cli.terminal import console, say
from phiforge.roofline import efficiency_told

if TYPE_CHECKING:
    from rich.console import Console

    from phiforge.roofline import Held
    from phiforge.verbs.fitting import Fitted
    from phiforge.verbs.predict import Predicted, Predictions


def show_predictions(found: Predictions) -> int:
    """Print the fit, if one was asked for, and every prediction."""
    out = console()
    if found.fitted is not None:
        _show_fit(found.fitted, out)
    for item in found.predicted:
        _show(item, out)
    if not found.predicted:
        say(out, "None of these variants is for that device; nothing was predicted.")
    return OK


def _show_fit(fitted: Fitted, out: Console) -> None:
    """Print a fit as the lines of a profile, which is where it belongs."""
    fit = fitted.fit
    say(
        out,
        f"[hardware.roofline]  # of a machine with {fit.roof.bandwidth_bytes_per_s:.4g} bytes/s and "
        f"{fit.roof.operations_per_s:.4g} operations/s",
    )
    say(out, f"bandwidth_efficiency_fraction = {fit.roof.bandwidth_efficiency_fraction:.3f}")
    say(out, f"compute_efficiency_fraction = {fit.roof.compute_efficiency_fraction:.3f}")
    say(out, f"node_overhead_us = {fit.roof.node_overhead_us:.2f}")
    say(out, f'efficiency_source = "{fitted.source}"')
    say(out, f"efficiency_error_fraction = {fit.error_fraction:.3f}  # over these {fit.runs} times alone")


def _show(item: Predicted, out: Console) -> None:
    table = Table(
        "prompt tokens", "TTFT ms", "decode tokens/s", title=f"{item.variant} on {item.profile} (predicted)"
    )  # fmt: skip
    for row in item.prediction.rows:
        table.add_row(str(row.prompt_tokens), f"{row.ttft_ms:,.1f}", f"{row.decode_tokens_per_s:,.1f}")
    out.print(table)
    need = item.prediction.memory
    say(
        out,
        f"Memory with {need.context_tokens:,} tokens: weights {size(need.weights_bytes)}, KV cache "
        f"{size(need.kv_cache_bytes)} ({size(need.kv_cache_bytes_per_token)} a token), workspace "
        f"{size(need.workspace_bytes)}, together {size(need.total_bytes)}, without the runtime's own",
    )
    say(out, f"Efficiencies: {efficiency_told(item.prediction)}")
    for held in item.held:
        _show_held(held, out)
    if any(not held.of_machine for held in item.held):
        say(out, "Give its rates with --bandwidth-bytes-per-s and --operations-per-s for the prediction's error.")
    for path in (item.path, item.as_measured):
        if path is not None:
            say(out, f"Evidence: {path}")


def _show_held(held: Held, out: Console) -> None:
    said = "error" if held.of_machine else "difference"
    table = Table(
        "prompt tokens", "TTFT ms", "measured", said, "decode tokens/s", "measured", said,
        title=f"beside what was measured on {held.processor}",
    )  # fmt: skip
    cells: dict[int, list[str]] = {}
    for error in held.errors:
        cells.setdefault(error.prompt_tokens, []).extend(
            (f"{error.predicted:,.1f}", f"{error.measured:,.1f}", f"{100 * error.error_fraction:+.0f} %")
        )
    for length, row in cells.items():
        table.add_row(str(length), *row)
    out.print(table)
    say(out, held.said)
