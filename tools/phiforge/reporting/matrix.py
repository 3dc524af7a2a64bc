"""The matrix of a report: a row for each model on each device, with the few numbers that a release is decided on."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from phiforge.evidence import Drift, Kind, Latency, Prediction, Tasks
from phiforge.reporting import text
from phiforge.reporting.names import evidence_names

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from phiforge.evidence import AnyEvidence, LatencyRow
    from phiforge.gate import Outcome
    from phiforge.reporting.schema import Entry, Fleet

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
    timed = [{row.prompt_tokens for row in found.rows} for found in map(_measured, fleet.entries) if found]
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


def _measured(entry: Entry) -> Latency | None:
    """The slowest of the measured latency records, as the gate takes the worst; one without rows tells nothing."""
    found = [record for record in entry.report.evidence if isinstance(record, Latency)]
    timed = [record for record in found if record.kind is Kind.MEASURED and record.rows]
    return min(timed, key=lambda record: min(row.decode_tokens_per_s_p50 for row in record.rows), default=None)


def _times(entry: Entry, prompt: int | None) -> Iterator[Value]:
    timed = _measured(entry)
    if timed is None:
        yield from (Value(text.NONE, None, note=f"{ABSENT}{said}") for said in _predicted(entry, prompt))
        return
    row = _at(timed.rows, prompt)
    note = "" if row.prompt_tokens == prompt else f"at {text.whole(row.prompt_tokens)} tokens"
    name, kind = _name(entry, timed), timed.kind.value
    speed, peak = row.decode_tokens_per_s_p50, timed.peak_anon_bytes
    yield Value(text.value(speed, "ratio", 3), speed, kind, note, name)
    yield Value(text.value(row.ttft_p50_ms, "ms", 3), row.ttft_p50_ms, kind, note, name)
    yield Value(text.value(peak, "bytes", 3), peak, kind, "", name)


def _at(rows: Sequence[LatencyRow], prompt: int | None) -> LatencyRow:
    longest = max(rows, key=lambda row: row.prompt_tokens)
    return next((row for row in rows if row.prompt_tokens == prompt), longest)


def _predicted(entry: Entry, prompt: int | None) -> tuple[str, str, str]:
    """What a roofline says instead, as words for a note; nothing where there is no prediction."""
    found = next((record for record in entry.report.evidence if isinstance(record, Prediction)), None)
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
    record = next((record for record in entry.report.evidence if isinstance(record, Drift)), None)
    if record is None:
        return Value(text.NONE, None, note=ABSENT)
    mean = record.kl_nats.mean
    return Value(
        text.value(mean, "nats", 3), mean if math.isfinite(mean) else None, record.kind.value, "", _name(entry, record)
    )


def _recovery(entry: Entry) -> Value:
    record = next((record for record in entry.report.evidence if isinstance(record, Tasks)), None)
    if record is None:
        return Value(text.NONE, None, note=ABSENT)
    kept = record.overall.recovery_fraction
    return Value(text.value(kept, "fraction", 3), kept, record.kind.value, "", _name(entry, record))


def _name(entry: Entry, record: AnyEvidence) -> str:
    """The name under which a record stands in the entry's list of evidence."""
    records = entry.report.evidence
    return next(name for name, known in zip(evidence_names(records), records, strict=True) if known is record)
