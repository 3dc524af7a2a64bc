"""The numbers of a variant on a profile that releases are held against each other by, read from its evidence."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from phiforge.budget_rules import kl_mean_sampling, kl_p99_sampling, top1_sampling
from phiforge.deciding import deciding
from phiforge.evidence import Drift, Kind, Latency, Tasks
from phiforge.evidence_file import lasting
from phiforge.hashing import content_key
from phiforge.release.layout import Number
from phiforge.selection import RUNTIME_WHEELS

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from phiforge.budget_rules import Sampling
    from phiforge.evidence import AnyEvidence, Conditions, Interval
    from phiforge.gate import Finding
    from phiforge.quantities import Unit


@dataclass(frozen=True, kw_only=True)
class Reading:
    """A number with what it takes to hold it against another.

    Attributes:
        number: The number, its kind and its interval.
        basis: What must be alike for two of them to be compared: the texts, the questions, or the machine.
        samples: The raw repeats of a time.
        count: How many blocks of text or questions an estimate is from; 0 for what is none.
        data: All that the evidence says of these blocks or questions; where it is equal, nothing changed.
        blocks: The number's mean in each block of text, where the evidence has it.
        block_positions: The positions of each block.
        runtimes: The distributions that ran it, of time and memory, and their versions.
    """

    number: Number
    basis: str
    samples: tuple[float, ...] = ()
    count: int = 0
    data: object = None
    blocks: tuple[float, ...] = ()
    block_positions: tuple[int, ...] = ()
    runtimes: tuple[tuple[str, str], ...] = ()

    @property
    def key(self) -> tuple[str, str, str]:
        """What tells it from the other numbers of a variant."""
        return self.number.metric, self.number.kind or "", self.number.where


def read_numbers(
    variant_bytes: int, evidence: Sequence[AnyEvidence], findings: Iterable[Finding] = ()
) -> tuple[Reading, ...]:
    """Return the numbers of one variant on one profile: size, drift, answers, time, memory.

    Of several records of one sort and kind, on one basis and by one runtime, the one counts that the gate decided by,
    else the worst.

    Args:
        variant_bytes: Size of its files.
        evidence: All records that count for the profile.
        findings: The gate's on them.
    """
    found: dict[object, list[Reading]] = {}
    for reading in (_size(variant_bytes), *(item for record in evidence for item in _read(record))):
        found.setdefault((reading.key, reading.basis, reading.runtimes), []).append(reading)
    known = tuple(findings)
    return tuple(
        deciding(readings[0].number.metric, readings, lambda item: (item.number.kind, item.number.value), known)
        for readings in found.values()
    )


def on_machine(conditions: Conditions) -> str:
    """Return a short name for the machine, provider and threads of a measurement; equal machines have equal ones."""
    machine = lasting(conditions.machine).model_dump()
    return content_key([machine, conditions.provider, conditions.threads])[:12]


def runtimes_of(conditions: Conditions) -> tuple[tuple[str, str], ...]:
    """Return the distributions that run a variant, with their versions, as far as the conditions name them."""
    return tuple(sorted((name, version) for name, version in conditions.versions.items() if name in RUNTIME_WHEELS))


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
    basis = f"{record.conditions.dataset_sha256} {record.positions} {record.top_k}"
    kl, top1 = record.kl_nats, record.top1_agreement_fraction
    p99 = record.kl_percentiles_nats.p99
    data = (kl, record.kl_percentiles_nats, top1, record.perplexity_ratio, record.blocks)

    def reading(
        metric: str, title: str, unit: Unit, value: float, sampling: Sampling | None, blocks: tuple[float, ...] = ()
    ) -> Reading:
        number = _bounded(metric, title, unit, record.kind, value, sampling.interval if sampling else None)
        positions = record.block_positions if blocks else ()
        return Reading(
            number=number, basis=basis, count=record.blocks, data=data, blocks=blocks, block_positions=positions
        )

    yield reading("kl_mean_nats", "Mean KL divergence", "nats", kl.mean, kl_mean_sampling(record), record.block_kl_nats)
    yield reading("kl_p99_nats", "KL divergence at p99", "nats", p99, kl_p99_sampling(record))
    yield reading(
        "top1_agreement_fraction",
        "Top-1 agreement",
        "fraction",
        top1.mean,
        top1_sampling(record),
        record.block_top1_agreement_fraction,
    )
    yield reading("perplexity_ratio", "Perplexity ratio", "ratio", record.perplexity_ratio, None)


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
    data = [
        (score.task, score.questions, score.reference_correct, score.flips_to_wrong, score.flips_to_right)
        for score in (*record.scores, overall)
    ]
    basis = content_key(sorted([score.task, score.questions] for score in record.scores))
    return Reading(number=number, basis=basis, count=overall.questions, data=sorted(data))


def _latency(record: Latency) -> Iterator[Reading]:
    basis, runtimes = on_machine(record.conditions), runtimes_of(record.conditions)
    for row in record.rows:
        where = f" at a prompt of {row.prompt_tokens:,} tokens"
        ttft = _plain("ttft_ms", "Time to first token (p50)", "ms", row.ttft_p50_ms, where)
        decode = _plain("decode_tokens_per_s", "Decode speed (p50)", "tokens/s", row.decode_tokens_per_s_p50, where)
        yield Reading(number=ttft, basis=basis, samples=row.ttft_ms, runtimes=runtimes)
        yield Reading(number=decode, basis=basis, samples=row.decode_tokens_per_s, runtimes=runtimes)
    peak = _plain("peak_anon_bytes", "Peak anonymous memory", "bytes", record.peak_anon_bytes, "")
    yield Reading(number=peak, basis=basis, runtimes=runtimes)


def _bounded(metric: str, title: str, unit: Unit, kind: Kind, value: float, given: Interval | None) -> Number:
    low, high = (given.low, given.high) if given else (None, None)
    return Number(metric=metric, title=title, unit=unit, kind=kind, value=value, low=low, high=high)


def _plain(metric: str, title: str, unit: Unit, value: float, where: str) -> Number:
    return Number(metric=metric, title=title, unit=unit, kind=Kind.MEASURED, where=where, value=value)
