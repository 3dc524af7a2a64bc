"""The matrix of a report: a row for each model on each device, with the few numbers that a release is decided on."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from phiforge.deciding import deciding
from phiforge.evidence import Drift, Kind, Latency, Prediction, Tasks
from phiforge.reporting import text
from phiforge.reporting.names import evidence_names

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

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
        for found in map(_measured, fleet.entries)
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


def _measured(entry: Entry) -> list[Latency]:
    """The measured latency records; one without rows tells nothing."""
    found = [record for record in entry.report.evidence if isinstance(record, Latency)]
    return [record for record in found if record.kind is Kind.MEASURED and record.rows]


def _times(entry: Entry, prompt: int | None) -> Iterator[Value]:
    """Decode and first token at the prompt, and peak memory, of several records each the worst."""
    timed = _measured(entry)
    if not timed:
        yield from (Value(text.NONE, None, note=f"{ABSENT}{said}") for said in _predicted(entry, prompt))
        return
    lengths = {row.prompt_tokens for record in timed for row in record.rows}
    length = prompt if prompt in lengths else max(lengths)
    rows = [(record, row) for record in timed for row in record.rows if row.prompt_tokens == length]
    findings = entry.report.verdict.findings
    kind, note = Kind.MEASURED.value, "" if length == prompt else f"at {text.whole(length)} tokens"
    record, row = deciding(
        "decode_tokens_per_s", rows, lambda item: (item[0].kind, item[1].decode_tokens_per_s_p50), findings
    )
    speed = row.decode_tokens_per_s_p50
    yield Value(text.value(speed, "ratio", 3), speed, kind, note, _name(entry, record))
    record, row = deciding("ttft_ms", rows, lambda item: (item[0].kind, item[1].ttft_p50_ms), findings)
    yield Value(text.value(row.ttft_p50_ms, "ms", 3), row.ttft_p50_ms, kind, note, _name(entry, record))
    peak = deciding("peak_anon_bytes", timed, lambda item: (item.kind, item.peak_anon_bytes), findings)
    yield Value(text.value(peak.peak_anon_bytes, "bytes", 3), peak.peak_anon_bytes, kind, "", _name(entry, peak))


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
    records = [record for record in entry.report.evidence if isinstance(record, Drift)]
    return _decided(entry, "kl_mean_nats", "nats", records, lambda record: record.kl_nats.mean)


def _recovery(entry: Entry) -> Value:
    records = [record for record in entry.report.evidence if isinstance(record, Tasks)]
    return _decided(
        entry, "answer_recovery_fraction", "fraction", records, lambda record: record.overall.recovery_fraction
    )


def _decided(entry: Entry, metric: str, unit: Unit, records: Sequence[_Sort], read: Callable[[_Sort], float]) -> Value:
    """The number that the gate decided by; where no budget limits it, the worst of an accepted kind."""
    if not records:
        return Value(text.NONE, None, note=ABSENT)
    accepts = entry.report.profile.accepts
    counting = [record for record in records if record.kind in accepts] or records
    record = deciding(metric, counting, lambda item: (item.kind, read(item)), entry.report.verdict.findings)
    value = read(record)
    return Value(
        text.value(value, unit, 3), value if math.isfinite(value) else None, record.kind.value, "", _name(entry, record)
    )


def _name(entry: Entry, record: AnyEvidence) -> str:
    """The name under which a record stands in the entry's list of evidence."""
    records = entry.report.evidence
    return next(name for name, known in zip(evidence_names(records), records, strict=True) if known is record)
