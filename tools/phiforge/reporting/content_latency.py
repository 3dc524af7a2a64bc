"""The sections about time, memory and energy: measured, held against an earlier release, and predicted."""

from __future__ import annotations

import statistics
from typing import TYPE_CHECKING

from phiforge.gate import number
from phiforge.reporting import text
from phiforge.reporting.layout import Cell, Section, Table, num, word
from phiforge.roofline import efficiency_told, hold

if TYPE_CHECKING:
    from collections.abc import Sequence

    from phiforge.evidence import Comparison, Latency, LatencyRow, Prediction
    from phiforge.gate import Unit
    from phiforge.roofline import PredictionError

_MEASURES = (
    ("Time to first token, p50", "ttft_p50_ms"),
    ("Time to first token, p95", "ttft_p95_ms"),
    ("Prefill, p50", "prefill_tokens_per_s_p50"),
    ("Decode, p50", "decode_tokens_per_s_p50"),
    ("Decode, p95", "decode_tokens_per_s_p95"),
    ("Between tokens, p50", "inter_token_p50_ms"),
    ("Between tokens, p99", "inter_token_p99_ms"),
    ("Tokens decoded", "decode_tokens"),
    ("Repeats", "repeats"),
)


def latency(latency: Latency | None, key: str, added: str) -> Section:
    """Time to first token and speeds, a column for each prompt length, and what was measured around them."""
    title = f"Time{added}"
    if latency is None:
        return Section(key, title, "There is no latency evidence: how fast the variant is on this device is not known.")
    rows = latency.rows
    table = Table(
        columns=("Prompt, tokens", *(text.whole(row.prompt_tokens) for row in rows)),
        rows=tuple((word(label), *(num(_measure(row, name)) for row in rows)) for label, name in _MEASURES),
    )
    intro = (
        f"A fresh process; load takes {text.value(latency.load_ms, 'ms')}; {text.whole(latency.warmups)} "
        f"warm-up{'' if latency.warmups == 1 else 's'} before the repeats. Time to first token counts from the "
        "prompt's tokens to the first new one. Decode p95 is the speed that 95 % of the repeats reach or exceed."
    )
    tables = (
        *((table,) if rows else ()),
        *_cliffs(latency),
        *_starts(latency),
        *_turns(latency),
        *_contention(latency),
        *_energy(latency),
    )
    return Section(key, title, intro, kind=latency.kind, tables=tables, evidence=key)


def memory(latency: Latency | None, key: str, added: str) -> Section:
    """Peaks of memory."""
    title = f"Memory{added}"
    if latency is None:
        return Section(key, title, "There is no latency evidence, which memory is part of.")
    table = Table(
        columns=("Peak", "Bytes", ""),
        rows=tuple(
            (word(label), num(text.whole(peak)), num(text.value(peak, "bytes")))
            for label, peak in (("Anonymous", latency.peak_anon_bytes), ("Resident", latency.peak_rss_bytes))
        ),
    )
    intro = "Anonymous memory is what the process needs for itself; resident adds mapped files, which can be dropped."
    evidence = key.replace("memory", "latency", 1)
    return Section(key, title, intro, kind=latency.kind, tables=(table,), evidence=evidence)


def comparison(record: Comparison, key: str, added: str) -> Section:
    """The variant's time over that of an earlier release."""
    table = Table(
        columns=("Time", "Prompt, tokens", "Ratio, p50", "90 % interval", "Rounds"),
        rows=tuple(
            (
                word({"ttft": "Time to first token", "decode": "Decode, time per token"}[row.metric]),
                num(text.whole(row.prompt_tokens)),
                num(number(row.ratio_p50)),
                num(text.interval(row.ratio_interval, "ratio", 4)),
                num(text.whole(len(row.ratios))),
            )
            for row in record.rows
        ),
        stacked=True,
    )
    intro = (
        f"This variant's time over that of {text.short_hash(record.against_sha256)}, measured in turn on one machine, "
        "so that noise meets both alike. Above 1 it is slower."
    )
    return Section(key, f"Against the earlier release{added}", intro, record.kind, tables=(table,), evidence=key)


def prediction(record: Prediction, key: str, added: str, measured: Latency | None) -> Section:
    """What a roofline says of the device, beside what was measured where something was."""
    held = hold(record, measured) if measured else None
    known = {(error.metric, error.prompt_tokens): error for error in (held.errors if held else ())}
    rows = tuple(
        (
            num(text.whole(row.prompt_tokens)),
            num(text.value(row.ttft_ms, "ms", 3)),
            *_beside(known.get(("ttft_ms", row.prompt_tokens)), "ms"),
            num(text.value(row.decode_tokens_per_s, "tokens/s", 3)),
            *_beside(known.get(("decode_tokens_per_s", row.prompt_tokens)), "tokens/s"),
        )
        for row in record.rows
    )
    apart = "Difference" if held is not None and not held.of_machine else "Error"
    columns = (
        "Prompt, tokens",
        "First token, predicted",
        "First token, measured",
        apart,
        "Decode, predicted",
        "Decode, measured",
        apart,
    )
    caption = f"{apart} is predicted ÷ measured minus 1{f'. {held.said}' if held else ''}"
    times = Table(columns=columns, rows=rows, caption=caption, stacked=True)
    intro = (
        f"A roofline, no measurement: {number(record.bandwidth_bytes_per_s / 1e9)} GB/s at "
        f"{text.value(record.bandwidth_efficiency_fraction, 'fraction', 3)} and "
        f"{number(record.operations_per_s / 1e12)} trillion operations/s at "
        f"{text.value(record.compute_efficiency_fraction, 'fraction', 3)} of what the device is said to do. "
        f"Efficiency: {efficiency_told(record)}"
    )
    tables = (times, _memory_need(record))
    return Section(key, f"Prediction{added}", intro, kind=record.kind, tables=tables, evidence=key)


def _beside(error: PredictionError | None, unit: Unit) -> tuple[Cell, Cell]:
    if error is None:
        return num(f"{text.NONE} not measured"), num(text.NONE)
    return num(text.value(error.measured, unit, 3)), num(text.points(error.error_fraction, " %"))


def _memory_need(record: Prediction) -> Table:
    need = record.memory
    return Table(
        columns=("Memory", "Bytes"),
        rows=tuple(
            (word(label), num(text.value(amount, "bytes")))
            for label, amount in (
                ("Weights", need.weights_bytes),
                ("KV cache", need.kv_cache_bytes),
                ("KV cache, each token", need.kv_cache_bytes_per_token),
                ("Workspace", need.workspace_bytes),
                ("In all", need.total_bytes),
            )
        ),
        caption=f"Memory at a context of {text.whole(need.context_tokens)} tokens",
    )


def _measure(row: LatencyRow, name: str) -> str:
    amount = getattr(row, name)
    if isinstance(amount, int):
        return text.whole(amount)
    return text.value(amount, "ms" if name.endswith("_ms") else "tokens/s", 3)


def _cliffs(latency: Latency) -> tuple[Table, ...]:
    if not latency.by_position:
        return ()
    rows = tuple(
        (
            word(f"{'Step' if cliff.shape == 'step' else 'Stall'} at {text.whole(cliff.position)}"),
            num(text.value(cliff.before_ms, "ms", 3)),
            num(text.value(cliff.after_ms, "ms", 3)),
            num(f"{text.TIMES} {number(cliff.ratio, 3)}"),
            word(cliff.cause or "not known"),
        )
        for cliff in latency.cliffs
    ) or ((word("None found"), num(text.NONE), num(text.NONE), num(text.NONE), word(text.NONE)),)
    columns = ("Cliff, context position", "Before", "After", "Ratio", "Cause")
    return (Table(columns=columns, rows=rows, caption="Where decoding becomes slower", stacked=True),)


def _starts(latency: Latency) -> tuple[Table, ...]:
    rows = [
        (word(label), num(_middle(times)), num(text.whole(len(times))))
        for label, times in (("Load, cold", latency.load_cold_ms), ("Load, warm", latency.load_warm_ms))
        if times
    ]
    rows += [
        (
            word(f"First token after {number(row.idle_s, 3)} s idle, prompt of {text.whole(row.prompt_tokens)}"),
            num(_middle(row.ttft_ms)),
            num(text.whole(len(row.ttft_ms))),
        )
        for row in latency.idle
        if row.ttft_ms
    ]
    if not rows:
        return ()
    return (Table(columns=("Start", "p50", "Repeats"), rows=tuple(rows), caption="Loading and waking up"),)


def _turns(latency: Latency) -> tuple[Table, ...]:
    turn = latency.second_turn
    if turn is None:
        return ()
    rows = tuple(
        (word(label), num(_middle(times)), num(text.whole(len(times))))
        for label, times in (("With the cache kept", turn.kept_ttft_ms), ("Computed anew", turn.anew_ttft_ms))
        if times
    )
    first, second = text.whole(turn.first_turn_tokens), text.whole(turn.second_turn_tokens)
    caption = f"First token of a second turn of {second} tokens, after a first one of {first}"
    return (Table(columns=("Second turn", "p50", "Repeats"), rows=rows, caption=caption),)


def _contention(latency: Latency) -> tuple[Table, ...]:
    if not latency.contention:
        return ()
    rows = tuple(
        (
            word(load(row.busy_cores, row.busy_accelerator)),
            num(text.whole(row.prompt_tokens)),
            num(text.value(row.ttft_p50_ms, "ms", 3)),
            num(text.value(row.decode_tokens_per_s_p50, "tokens/s", 3)),
        )
        for row in latency.contention
    )
    columns = ("Meanwhile", "Prompt, tokens", "First token, p50", "Decode, p50")
    return (Table(columns=columns, rows=rows, caption="While other processes use the machine", stacked=True),)


def load(busy_cores: int, busy_accelerator: bool) -> str:
    """What other processes do, in words."""
    said = [f"{busy_cores} busy core{'' if busy_cores == 1 else 's'}"] if busy_cores else []
    said += ["a busy accelerator"] if busy_accelerator else []
    return " and ".join(said) or "nothing else"


def _energy(latency: Latency) -> tuple[Table, ...]:
    energy = latency.energy
    if energy is None:
        return ()
    idle = text.NONE if energy.idle_watts is None else f"{number(energy.idle_watts, 3)} W"
    rows = (
        (word("Energy per token"), num(f"{number(energy.joules_per_token, 3)} J")),
        (word("Average power"), num(f"{number(energy.average_watts, 3)} W")),
        (word("Power when idle"), num(idle)),
        (word("Over"), num(f"{text.whole(energy.tokens)} tokens, {number(energy.joules, 3)} J")),
    )
    caption = f"Energy of {energy.covers}, told by {energy.source}"
    return (Table(columns=("Energy", "Value"), rows=rows, caption=caption),)


def _middle(times: Sequence[float]) -> str:
    return text.value(statistics.median(times), "ms", 3)
