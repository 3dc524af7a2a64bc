"""Render predictions, each number beside the measured one where there is any."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.markup import escape
from rich.table import Table

from phiforge.cli.render import OK, console, size

if TYPE_CHECKING:
    from rich.console import Console

    from phiforge.roofline import PredictionError
    from phiforge.verbs.predict import Fitted, Predicted, Predictions


def show_predictions(found: Predictions) -> int:
    """Print the fit, if one was asked for, and every prediction."""
    out = console()
    if found.fitted is not None:
        _show_fit(found.fitted, out)
    for item in found.predicted:
        _show(item, out)
    if not found.predicted:
        out.print("None of these variants is for that device; nothing was predicted.")
    return OK


def _show_fit(fitted: Fitted, out: Console) -> None:
    """Print a fit as the lines of a profile, which is where it belongs."""
    fit = fitted.fit
    out.print(
        f"\\[hardware.roofline]  # of a machine with {fit.roof.bandwidth_bytes_per_s:.4g} bytes/s and "
        f"{fit.roof.operations_per_s:.4g} operations/s\n"
        f"bandwidth_efficiency_fraction = {fit.roof.bandwidth_efficiency_fraction:.3f}\n"
        f"compute_efficiency_fraction = {fit.roof.compute_efficiency_fraction:.3f}\n"
        f"node_overhead_us = {fit.roof.node_overhead_us:.2f}\n"
        f'efficiency_source = "{escape(fitted.source)}"\n'
        f"efficiency_error_fraction = {fit.error_fraction:.3f}"
    )


def _show(item: Predicted, out: Console) -> None:
    held = {(error.metric, error.prompt_tokens): error for error in item.errors}
    table = Table(
        "prompt tokens", "TTFT ms", "measured", "decode tokens/s", "measured",
        title=f"{escape(item.variant)} on {escape(item.profile)} (predicted)",
    )  # fmt: skip
    for row in item.prediction.rows:
        table.add_row(
            str(row.prompt_tokens),
            f"{row.ttft_ms:,.1f}",
            _beside(held.get(("ttft_ms", row.prompt_tokens))),
            f"{row.decode_tokens_per_s:,.1f}",
            _beside(held.get(("decode_tokens_per_s", row.prompt_tokens))),
        )
    out.print(table)
    need = item.prediction.memory
    out.print(
        f"Memory with {need.context_tokens:,} tokens: weights {size(need.weights_bytes)}, KV cache "
        f"{size(need.kv_cache_bytes)} ({size(need.kv_cache_bytes_per_token)} a token), workspace "
        f"{size(need.workspace_bytes)}, together {size(need.total_bytes)}, without the runtime's own"
    )
    out.print(f"Efficiencies: {escape(item.prediction.efficiency_source)}")
    out.print(f"Evidence: {item.path}")


def _beside(error: PredictionError | None) -> str:
    return "" if error is None else f"{error.measured:,.1f} (error {100 * error.error_fraction:+.0f} %)"
