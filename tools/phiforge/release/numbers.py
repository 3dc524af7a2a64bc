"""The numbers of a variant on a profile that releases are held against each other by, read from its evidence."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from phiforge.evidence import Drift, Kind, Latency, Tasks
from phiforge.evidence_file import lasting
from phiforge.hashing import content_key
from phiforge.intervals import interval_of_mean
from phiforge.release.layout import Number

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from phiforge.evidence import AnyEvidence, Conditions, Estimate, Interval
    from phiforge.quantities import Unit


@dataclass(frozen=True, kw_only=True)
class Reading:
    """A number with what it takes to hold it against another.

    Attributes:
        number: The number, its kind and its interval.
        basis: What must be alike for two of them to be compared: the texts, the questions, or the machine.
        samples: The raw repeats of a time.
    """

    number: Number
    basis: str
    samples: tuple[float, ...] = ()

    @property
    def key(self) -> tuple[str, str, str]:
        """What tells it from the other numbers of a variant."""
        return self.number.metric, self.number.kind or "", self.number.where


def read_numbers(variant_bytes: int, evidence: Sequence[AnyEvidence]) -> tuple[Reading, ...]:
    """Return the numbers of one variant on one profile: size, drift, answers, time, memory.

    Of several records of one sort and kind on one basis the first counts.

    Args:
        variant_bytes: Size of its files.
        evidence: All records that count for the profile.
    """
    found: dict[tuple[tuple[str, str, str], str], Reading] = {}
    for reading in (_size(variant_bytes), *(item for record in evidence for item in _read(record))):
        found.setdefault((reading.key, reading.basis), reading)
    return tuple(found.values())


def on_machine(conditions: Conditions) -> str:
    """Return a short name for the machine, provider and threads of a measurement; equal machines have equal ones."""
    machine = lasting(conditions.machine).model_dump()
    return content_key([machine, conditions.provider, conditions.threads])[:12]


def _size(variant_bytes: int) -> Reading:
    number = Number(metric="variant_bytes", title="Variant size", unit="bytes", kind=None, value=variant_bytes)
    return Reading(number=number, basis="")


def _read(record: AnyEvidence) -> Iterator[Reading]:
    if isinstance(record, Drift) and record.positions:
        yield from _drift(record)
    elif isinstance(record, Tasks) and record.overall.reference_correct:
        yield _recovery(record)
    elif isinstance(record, Latency) and record.kind is Kind.MEASURED:
        yield from _latency(record)


def _drift(record: Drift) -> Iterator[Reading]:
    basis = f"{record.conditions.dataset_sha256} {record.positions}"
    kl, top1 = record.kl_nats, record.top1_agreement_fraction
    p99, interval = record.kl_percentiles_nats.p99, record.kl_p99_interval_nats

    def sure(estimate: Estimate) -> Interval:
        return interval_of_mean(estimate, record.blocks)

    for number in (
        _bounded("kl_mean_nats", "Mean KL divergence", "nats", record.kind, kl.mean, sure(kl)),
        _bounded("kl_p99_nats", "KL divergence at p99", "nats", record.kind, p99, interval),
        _bounded("top1_agreement_fraction", "Top-1 agreement", "fraction", record.kind, top1.mean, sure(top1)),
        _bounded("perplexity_ratio", "Perplexity ratio", "ratio", record.kind, record.perplexity_ratio, None),
    ):
        yield Reading(number=number, basis=basis)


def _recovery(record: Tasks) -> Reading:
    overall = record.overall
    number = _bounded(
        "answer_recovery_fraction",
        "Answer recovery",
        "fraction",
        record.kind,
        overall.recovery_fraction,
        overall.recovery_interval_fraction,
    )
    return Reading(number=number, basis=content_key(sorted([score.task, score.questions] for score in record.scores)))


def _latency(record: Latency) -> Iterator[Reading]:
    basis = on_machine(record.conditions)
    for row in record.rows:
        where = f" at a prompt of {row.prompt_tokens:,} tokens"
        ttft = _plain("ttft_ms", "Time to first token (p50)", "ms", row.ttft_p50_ms, where)
        decode = _plain("decode_tokens_per_s", "Decode speed (p50)", "tokens/s", row.decode_tokens_per_s_p50, where)
        yield Reading(number=ttft, basis=basis, samples=row.ttft_ms)
        yield Reading(number=decode, basis=basis, samples=row.decode_tokens_per_s)
    peak = _plain("peak_anon_bytes", "Peak anonymous memory", "bytes", record.peak_anon_bytes, "")
    yield Reading(number=peak, basis=basis)


def _bounded(metric: str, title: str, unit: Unit, kind: Kind, value: float, given: Interval | None) -> Number:
    low, high = (given.low, given.high) if given else (None, None)
    return Number(metric=metric, title=title, unit=unit, kind=kind, value=value, low=low, high=high)


def _plain(metric: str, title: str, unit: Unit, value: float, where: str) -> Number:
    return Number(metric=metric, title=title, unit=unit, kind=Kind.MEASURED, where=where, value=value)
