"""Print what else a latency measurement found, and comparisons with an earlier package."""

from __future__ import annotations

from statistics import median
from typing import TYPE_CHECKING

from rich.table import Table

from phiforge.cli.render import OK
from phiforge.cli.terminal import console, say

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from phiforge.evidence import Comparison, Latency


def latency_details(latency: Latency) -> Iterator[str]:
    """Yield a line for each thing that was measured besides rows and memory."""
    warm = f"{median(latency.load_warm_ms):.0f} ms warm" if latency.load_warm_ms else ""
    cold = f"{median(latency.load_cold_ms):.0f} ms cold" if latency.load_cold_ms else ""
    if warm or cold:
        yield f"Load again (p50): {', '.join(part for part in (warm, cold) if part)}"
    if latency.by_position:
        first, last = latency.by_position[0], latency.by_position[-1]
        yield (
            f"Decode by position: {first.inter_token_p50_ms:.2f} ms a token at {first.start:,}, "
            f"{last.inter_token_p50_ms:.2f} ms at {last.stop - 1:,}; {_cliffs(latency)}"
        )
    turn = latency.second_turn
    if turn is not None:
        yield (
            f"Second turn of {turn.second_turn_tokens} tokens after {turn.first_turn_tokens}: first token after "
            f"{median(turn.kept_ttft_ms):.1f} ms with the cache kept, {median(turn.anew_ttft_ms):.1f} ms anew (p50)"
        )
    for row in latency.idle:
        yield f"First token after {row.idle_s:g} s of doing nothing: {median(row.ttft_ms):.1f} ms (p50)"
    for other in latency.contention:
        others = f"{other.busy_cores} busy cores" + (", the accelerator busy" if other.busy_accelerator else "")
        yield (
            f"With {others}: first token of {other.prompt_tokens} after {other.ttft_p50_ms:.1f} ms, "
            f"{other.decode_tokens_per_s_p50:.1f} tokens/s (p50)"
        )
    energy = latency.energy
    if energy is not None:
        yield (
            f"Energy of {energy.covers} ({energy.source}): {energy.joules_per_token:.3g} J a token, "
            f"{energy.average_watts:.3g} W"
        )


def comparison_files(files: Mapping[str, Path]) -> int:
    """Print each comparison, and where it was written."""
    from phiforge.evidence import Comparison, load_evidence

    for name, file in files.items():
        evidence = load_evidence(file)
        assert isinstance(evidence, Comparison)
        show_comparison(name, evidence)
        say(console(), f"Evidence: {file}")
    return OK


def show_comparison(name: str, comparison: Comparison) -> None:
    """Print the ratios of one comparison."""
    title = f"{name}: time over that of {comparison.against_sha256[:12]}, {comparison.rounds} rounds"
    table = Table("time of", "prompt tokens", "ratio p50", "90 % interval", title=title)
    for row in comparison.rows:
        ends = [f"{end:.3f}" if end is not None else "no bound" for end in (row.ratio_interval.low,
                                                                           row.ratio_interval.high)]  # fmt: skip
        what = "the first token" if row.metric == "ttft" else "decoding"
        table.add_row(what, f"{row.prompt_tokens:,}", f"{row.ratio_p50:.3f}", " to ".join(ends))
    console().print(table)


def _cliffs(latency: Latency) -> str:
    if not latency.cliffs:
        return "no cliff"
    return "; ".join(
        f"{cliff.shape} of {cliff.ratio:.1f} times at {cliff.position:,} ({cliff.cause or 'cause unknown'})"
        for cliff in latency.cliffs
    )
