"""The matrix of a report: a row for each model on each device, with the few numbers that a release is decided on."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from phiforge.evidence import Drift, Kind, Tasks
from phiforge.reporting import text
from phiforge.reporting.chosen import (
    deciding_answers,
    deciding_drift,
    deciding_memory,
    deciding_speed,
    deciding_start,
    measured,
    profile_prediction,
    prompts,
)
from phiforge.reporting.names import name_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from phiforge.evidence import AnyEvidence
    from phiforge.gate import Outcome
    from phiforge.quantities import Unit
    from phiforge.reporting.schema import Entry, Fleet

_Sort = TypeVar("_Sort", Drift, Tasks)

ABSENT = "not measured"


@dataclass(frozen=True)
class Value:
    """A number of the matrix: as text, as what it is sorted by, its kind, and the record it is from.

    A number that is absent has no order; `note` says so, and what is predicted instead.
    """

    shown: str
    order: float | None
    kind: str = ""
    note: str = ""
    evidence: str = ""


@dataclass(frozen=True)
class Row:
    """One model on one device; `values` are as `COLUMNS` has them."""

    key: str
    model: str
    device: str
    profile: str
    outcome: Outcome
    kinds: tuple[str, ...]
    values: tuple[Value, ...]


@dataclass(frozen=True)
class Matrix:
    """All rows; times are at `prompt_tokens` where every device measured it, else each says its own."""

    rows: tuple[Row, ...]
    prompt_tokens: int | None


COLUMNS = ("Decode, tokens/s", "First token", "Peak memory", "Size", "Mean KL", "Task recovery")


def matrix(fleet: Fleet) -> Matrix:
    """The matrix of a report. Times are measured ones only; a prediction stands beside as a note."""
    timed = [
        {row.prompt_tokens for record in found for row in record.rows}
        for found in (measured(entry.report) for entry in fleet.entries)
        if found
    ]
    common = set.intersection(*timed) if timed else set()
    prompt = max(common, default=None)
    return Matrix(rows=tuple(_row(entry, prompt) for entry in fleet.entries), prompt_tokens=prompt)


def _row(entry: Entry, prompt: int | None) -> Row:
    report = entry.report
    counting = {record.kind for record in report.evidence if record.kind is not Kind.PREDICTED}
    return Row(
        key=entry.key,
        model=report.checkpoint.name,
        device=report.profile.title,
        profile=report.profile.name,
        outcome=report.verdict.outcome,
        kinds=tuple(kind.value for kind in Kind if kind in counting),
        values=(*_times(entry, prompt), _size(entry), _drift(entry), _recovery(entry)),
    )


def _times(entry: Entry, prompt: int | None) -> Iterator[Value]:
    """Decode and first token at the prompt, and peak memory, of several records each the worst."""
    report = entry.report
    timed = measured(report)
    if not timed:
        yield from (Value(text.NONE, None, note=f"{ABSENT}{said}") for said in _predicted(entry, prompt))
        return
    length = prompt if prompt in prompts(timed) else max(prompts(timed))
    kind, note = Kind.MEASURED.value, "" if length == prompt else f"at {text.whole(length)} tokens"
    record, row = deciding_speed(report, timed, length)
    speed = row.decode_tokens_per_s_p50
    yield Value(text.value(speed, "ratio", 3), speed, kind, note, _name(entry, record))
    record, row = deciding_start(report, timed, length)
    yield Value(text.value(row.ttft_p50_ms, "ms", 3), row.ttft_p50_ms, kind, note, _name(entry, record))
    peak = deciding_memory(report, timed)
    yield Value(text.value(peak.peak_anon_bytes, "bytes", 3), peak.peak_anon_bytes, kind, "", _name(entry, peak))


def _predicted(entry: Entry, prompt: int | None) -> tuple[str, str, str]:
    """What a roofline says instead, as words for a note; nothing where there is no prediction."""
    found = profile_prediction(entry.report)
    if found is None or not found.rows:
        return "", "", ""
    row = next((row for row in found.rows if row.prompt_tokens == prompt), found.rows[-1])
    at = "" if row.prompt_tokens == prompt else f" at {text.whole(row.prompt_tokens)} tokens"
    return (
        f"; predicted {text.value(row.decode_tokens_per_s, 'ratio', 3)}{at}",
        f"; predicted {text.value(row.ttft_ms, 'ms', 3)}{at}",
        f"; predicted {text.value(found.memory.total_bytes, 'bytes', 3)}",
    )


def _size(entry: Entry) -> Value:
    size = entry.report.variant.bytes
    return Value(text.value(size, "bytes", 3), size, "fact")


def _drift(entry: Entry) -> Value:
    return _shown(entry, deciding_drift(entry.report), "nats", lambda record: record.kl_nats.mean)


def _recovery(entry: Entry) -> Value:
    return _shown(entry, deciding_answers(entry.report), "fraction", lambda record: record.overall.recovery_fraction)


def _shown(entry: Entry, record: _Sort | None, unit: Unit, read: Callable[[_Sort], float]) -> Value:
    if record is None:
        return Value(text.NONE, None, note=ABSENT)
    value = read(record)
    return Value(
        text.value(value, unit, 3), value if math.isfinite(value) else None, record.kind.value, "", _name(entry, record)
    )


def _name(entry: Entry, record: AnyEvidence) -> str:
    return name_of(record, entry.report.evidence)
