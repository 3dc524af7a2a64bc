"""Render a tuning: what was tried, what was chosen and why."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.table import Column, Table
from rich.text import Text

from phiforge.cli.render import OK, size
from phiforge.cli.terminal import console, say
from phiforge.visible import visible

if TYPE_CHECKING:
    from rich.console import Console

    from phiforge.tuning import Candidate, StageResult
    from phiforge.verbs.tune import TuningResult


def show_tuning(result: TuningResult) -> int:
    """Print candidates, comparisons and the choice."""
    out, tuning = console(), result.tuning
    for candidate in tuning.candidates:
        _candidate(candidate, out)
    for trial in tuning.trials:
        if trial.error:
            say(out, ("✗", "red"), f" {trial.candidate}, {trial.settings.told()}: {trial.error}")
    for stage in tuning.stages:
        _stage(stage, out)
    choice = tuning.choice
    if choice is not None:
        say(
            out,
            (f"Chosen: {choice.candidate}", "bold green"),
            f" with {choice.settings.told()}: "
            f"{choice.turn_p50_ms:,.0f} ms for {tuning.turn.told()} ({tuning.kind}, median of {tuning.rounds} rounds)",
        )
    say(out, f"Tuning: {result.file}")
    return OK


def _candidate(candidate: Candidate, out: Console) -> None:
    mark = ("✓", "green") if candidate.eligible else ("✗", "red")
    about = size(candidate.bytes) if candidate.bytes is not None else "unusable"
    told = "may be chosen" if candidate.eligible else "may not be chosen"
    reasons = f": {' '.join(candidate.reasons)}" if candidate.reasons else ""
    say(out, mark, f" {candidate.name} ({about}) {told}{reasons}")


def _stage(stage: StageResult, out: Console) -> None:
    name = Column(stage.stage, overflow="fold")
    table = Table(name, "turn p50 ms", "TTFT p50 ms", "decode tokens/s", "memory", "rounds")
    for standing in stage.standings:
        style = "bold" if standing.name == stage.chosen else ""
        table.add_row(
            Text(visible(standing.name), style),
            _number(standing.turn_p50_ms),
            _number(standing.ttft_p50_ms),
            _number(standing.decode_tokens_per_s_p50),
            "failed" if standing.peak_anon_bytes_max is None else size(standing.peak_anon_bytes_max),
            str(standing.rounds),
        )
    out.print(table)
    say(out, f"  {stage.why} Noise of one trial: {stage.noise_fraction:.1%}.")


def _number(value: float | None) -> str:
    return "failed" if value is None else f"{value:,.1f}"
