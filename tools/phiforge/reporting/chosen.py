"""Which of several records a report shows where it shows one: the one the gate decided by, else the worst."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from phiforge.deciding import deciding
from phiforge.evidence import Drift, Kind, Latency, LatencyRow, Prediction, Tasks
from phiforge.roofline import hold

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from phiforge.reporting.schema import Report

_Sort = TypeVar("_Sort", Drift, Tasks)


def measured(report: Report) -> list[Latency]:
    """The measured latency records; one without rows tells nothing."""
    found = [record for record in report.evidence if isinstance(record, Latency)]
    return [record for record in found if record.kind is Kind.MEASURED and record.rows]


def prompts(timed: Sequence[Latency]) -> set[int]:
    """The prompt lengths that any of these measured, in tokens."""
    return {row.prompt_tokens for record in timed for row in record.rows}


def deciding_speed(report: Report, timed: Sequence[Latency], prompt_tokens: int) -> tuple[Latency, LatencyRow]:
    """The record and its row with the decode speed at a prompt that one of them measured."""
    return _row("decode_tokens_per_s", report, timed, prompt_tokens, lambda row: row.decode_tokens_per_s_p50)


def deciding_start(report: Report, timed: Sequence[Latency], prompt_tokens: int) -> tuple[Latency, LatencyRow]:
    """The record and its row with the time to first token at a prompt that one of them measured."""
    return _row("ttft_ms", report, timed, prompt_tokens, lambda row: row.ttft_p50_ms)


def deciding_memory(report: Report, timed: Sequence[Latency]) -> Latency:
    """The record with the peak of anonymous memory."""
    findings = report.verdict.findings
    return deciding("peak_anon_bytes", timed, lambda item: (item.kind, item.peak_anon_bytes), findings)


def deciding_drift(report: Report) -> Drift | None:
    """The record with the mean KL divergence; where no budget limits it, the worst of an accepted kind."""
    records = [record for record in report.evidence if isinstance(record, Drift)]
    return _accepted("kl_mean_nats", report, records, lambda record: record.kl_nats.mean)


def deciding_answers(report: Report) -> Tasks | None:
    """The record with the answer recovery; where no budget limits it, the worst of an accepted kind."""
    records = [record for record in report.evidence if isinstance(record, Tasks)]
    return _accepted("answer_recovery_fraction", report, records, lambda record: record.overall.recovery_fraction)


def profile_prediction(report: Report) -> Prediction | None:
    """The prediction for the profile's device; where there is none, one for a machine that measured.

    A profile tells no threads, while a machine that measured had some.
    """
    found = [record for record in report.evidence if isinstance(record, Prediction)]
    return min(found, key=lambda record: record.conditions.threads > 0, default=None)


def measured_beside(report: Report, prediction: Prediction) -> Latency | None:
    """The measurement to hold a prediction against: of the predicted machine if there is one, else the slowest."""
    timed = measured(report)
    held = [(record, hold(prediction, record)) for record in timed]
    own = [record for record, found in held if found is not None and found.of_machine] or timed
    return deciding_speed(report, own, max(prompts(own)))[0] if own else None


def prediction_beside(report: Report, timed: Latency) -> Prediction | None:
    """The prediction to draw beside a measurement: for the machine that measured if there is one, or the profile's."""
    found = [record for record in report.evidence if isinstance(record, Prediction)]
    held = [(record, hold(record, timed)) for record in found]
    own = (record for record, beside in held if beside is not None and beside.of_machine)
    return next(own, None) or profile_prediction(report)


def _row(
    metric: str, report: Report, timed: Sequence[Latency], prompt_tokens: int, read: Callable[[LatencyRow], float]
) -> tuple[Latency, LatencyRow]:
    rows = [(record, row) for record in timed for row in record.rows if row.prompt_tokens == prompt_tokens]
    return deciding(metric, rows, lambda item: (item[0].kind, read(item[1])), report.verdict.findings)


def _accepted(metric: str, report: Report, records: Sequence[_Sort], read: Callable[[_Sort], float]) -> _Sort | None:
    counting = [record for record in records if record.kind in report.profile.accepts] or records
    findings = report.verdict.findings
    return deciding(metric, counting, lambda item: (item.kind, read(item)), findings) if counting else None
