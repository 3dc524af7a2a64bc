"""What evidence may not say: numbers that cannot be, times to come, kinds it may not have, sums that do not add up.

The schema (`evidence`) says how a record is written; this says which records are believed. A drift may be infinite,
since that is what a model that overflows has, and the gate fails it.
"""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from statistics import median
from typing import TYPE_CHECKING, Any

from phiforge.evidence import (
    SCHEMA_VERSION,
    Agreement,
    AnyEvidence,
    Breakdown,
    Comparison,
    Conditions,
    Drift,
    FreeRunning,
    Interval,
    Kind,
    Latency,
    LatencyRow,
    Percentiles,
    Prediction,
    Refusals,
    Tasks,
    TaskScore,
    invalid,
)
from phiforge.intervals import interval_of_median, interval_of_recovery

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

# Clocks of two machines differ, and one may be set to local time; more than a day is no difference of clocks.
CLOCK_TOLERANCE = timedelta(days=1)
# Of sums and ratios that were written in decimal.
_RELATIVE = 1e-6
_LARGEST_COUNT = 1 << 63
_MEASURED_ONLY = (Latency, Comparison)
_OF_DATA = (Drift, Tasks, FreeRunning, Refusals)


def check_record(record: AnyEvidence, name: str) -> None:
    """Check one piece of evidence for what its schema cannot say.

    Args:
        record: The evidence, as it was read.
        name: Of its file.

    Raises:
        EvidenceInvalidError: It is of a newer schema or of a kind that it may not have, was taken in the future, says
            not under which conditions or was taken by an emulated process, or has numbers that cannot be or that
            contradict each other.
    """
    if record.schema_version != SCHEMA_VERSION:
        why = f"The schema version of its {record.evidence} evidence is {record.schema_version!r}"
        raise invalid(name, f"{why}, this phiforge reads {SCHEMA_VERSION!r}.", newer=True)
    faults = _beyond_counts(record.model_dump()) or _faults(record)
    for fault in faults:
        raise invalid(name, f"Its {record.evidence} evidence {fault}.")


def _beyond_counts(values: object) -> list[str]:
    """Whole numbers that no float holds and no count reaches; arithmetic with them would fail."""
    if isinstance(values, dict | tuple):
        items = values.values() if isinstance(values, dict) else values
        return next((found for item in items if (found := _beyond_counts(item))), [])
    return ["has a number beyond all counts"] if isinstance(values, int) and abs(values) > _LARGEST_COUNT else []


def _faults(record: AnyEvidence) -> Iterator[str]:
    yield from _kind(record)
    yield from _conditions(record)
    for what, value, most in _numbers(record):
        if not _possible(value, most, infinite=isinstance(record, Drift) and what != "positions"):
            yield f"has {value} for {what}"
    yield from _orders(record.model_dump(exclude={"conditions"}), type(record).__name__)
    match record:
        case Drift():
            yield from _drift(record)
        case Tasks():
            yield from _tasks(record)
        case Latency():
            yield from _latency(record)
        case FreeRunning():
            yield from _free_running(record)
        case Refusals():
            yield from _refusals(record)
        case Comparison():
            yield from _comparison(record)
        case Prediction():
            yield from _prediction(record)


def _kind(record: AnyEvidence) -> Iterator[str]:
    if isinstance(record, _MEASURED_ONLY) and record.kind is not Kind.MEASURED:
        yield f"is {record.kind}, but time and memory are measured or not known"
    if isinstance(record, Prediction) != (record.kind is Kind.PREDICTED):
        yield f"is {record.kind}; a prediction is always predicted, and nothing else is"


def _conditions(record: AnyEvidence) -> Iterator[str]:
    conditions = record.conditions
    machine = conditions.machine
    # A prediction tells the device as its profile does; nothing ran, so there are neither threads nor cores.
    ran = not isinstance(record, Prediction)
    lacking = [
        name
        for name, known in (
            ("the provider", conditions.provider.strip()),
            ("the number of threads", conditions.threads > 0 or not ran),
            ("the versions of the tools", conditions.versions),
            ("the version of the runtime", _runtime_version(conditions) or not ran),
            ("the processor", machine.processor.strip()),
            ("the architecture", machine.architecture.strip() and machine.process_architecture.strip()),
            ("the cores", (machine.logical_cores > 0 and machine.physical_cores > 0) or not ran),
            ("the memory", machine.memory_bytes > 0),
            ("the system", machine.system.strip()),
            ("the time", conditions.taken_at or not ran),
        )
        if not known
    ]
    if isinstance(record, _OF_DATA):
        lacking += _data_lacking(conditions)
    if lacking:
        yield f"does not say under which conditions it was taken: {', '.join(lacking)}"
    if conditions.samples is not None and conditions.samples < 0:
        yield f"has {conditions.samples} samples"
    if conditions.taken_at is not None and conditions.taken_at > datetime.now(UTC) + CLOCK_TOLERANCE:
        yield f"is from the future: it was taken at {conditions.taken_at.isoformat()}"
    if isinstance(record, _MEASURED_ONLY) and machine.process_architecture != machine.architecture:
        yield (
            f"was taken by an emulated process: {machine.process_architecture} on {machine.architecture}, which is "
            f"slower than the machine is; use a Python for {machine.architecture}"
        )


def _runtime_version(conditions: Conditions) -> str | None:
    """The version of one of the distributions that bring onnxruntime, its plugins or onnxruntime-genai."""
    versions = conditions.versions.items()
    return next((version for name, version in versions if name.startswith("onnxruntime") and version.strip()), None)


def _data_lacking(conditions: Conditions) -> list[str]:
    data = conditions.dataset, conditions.split, conditions.dataset_sha256
    known = zip(("the data set", "its split", "its hash"), data, strict=True)
    return [name for name, value in known if not value]


def _possible(value: float, most: float, *, infinite: bool) -> bool:
    # `math.isfinite` fails on an int beyond the floats; no comparison with NaN holds.
    return 0 <= value <= most and (infinite or value != math.inf)


def _numbers(record: AnyEvidence) -> Iterator[tuple[str, float, float]]:
    """Numbers that cannot be negative or infinite, each with its name and the most it can be."""
    match record:
        case Latency() | Comparison() | Prediction() | FreeRunning() | Refusals():
            yield from _all_numbers(record.model_dump(exclude={"conditions"}))
        case Drift():
            yield "positions", record.positions, math.inf
            yield "blocks", record.blocks, math.inf
            yield "kl_nats", record.kl_nats.mean, math.inf
            for what, value in record.kl_percentiles_nats.model_dump().items():
                yield f"kl_percentiles_nats.{what}", value, math.inf
            yield "top1_agreement_fraction", record.top1_agreement_fraction.mean, 1.0
            yield "perplexity_ratio", record.perplexity_ratio, math.inf
        case Tasks():
            for score in (*record.scores, record.overall):
                yield from _score_numbers(score)
        case Agreement() | Breakdown():
            yield from _compared(record)


def _score_numbers(score: TaskScore) -> Iterator[tuple[str, float, float]]:
    for what in ("reference_correct", "variant_correct", "flips_to_wrong", "flips_to_right"):
        yield f"{score.task}.{what}", getattr(score, what), score.questions
    yield f"{score.task}.mcnemar_p", score.mcnemar_p, 1.0
    for what in ("reference_tokens_per_answer", "variant_tokens_per_answer", "tokens_per_answer_ratio"):
        yield f"{score.task}.{what}", getattr(score, what) or 0.0, math.inf


def _all_numbers(values: Mapping[str, Any]) -> Iterator[tuple[str, float, float]]:
    """Every number in some values, however deep; a fraction is 1 at most."""
    for what, value in values.items():
        if isinstance(value, dict):
            yield from _all_numbers(value)
        elif isinstance(value, tuple):
            yield from _all_numbers({f"{what}.{index}": item for index, item in enumerate(value)})
        elif isinstance(value, int | float):
            yield what, value, 1.0 if what == "agreement_fraction" else math.inf


def _compared(record: Agreement | Breakdown) -> Iterator[tuple[str, float, float]]:
    """So for evidence that holds one way of running against another."""
    if isinstance(record, Agreement):
        yield "positions", record.positions, math.inf
        yield "kl_mean_nats", record.kl_mean_nats, math.inf
        yield "top1_agreement_fraction", record.top1_agreement_fraction, 1.0
        yield "relative_logit_error", record.relative_logit_error or 0.0, math.inf
        yield "relative_spread_error", record.relative_spread_error or 0.0, math.inf
        return
    for step in record.steps:
        yield f"{step.name}.positions", step.positions, math.inf
        yield f"{step.name}.kl_nats", step.kl_nats.mean, math.inf
        yield f"{step.name}.top1_agreement_fraction", step.top1_agreement_fraction, 1.0


def _orders(values: object, what: str) -> Iterator[str]:
    """Intervals, percentiles and ranges the wrong way round, and errors below zero."""
    if isinstance(values, tuple):
        for item in values:
            yield from _orders(item, what)
    if not isinstance(values, dict):
        return
    if values.get("standard_error", 0.0) < 0:
        yield f"has a standard error below zero in {what}"
    percentiles = [values[name] for name in Percentiles.model_fields if name in values]
    interval = [values[name] for name in Interval.model_fields if values.get(name) is not None]
    span = [values[name] for name in ("start", "stop") if name in values]
    ordered = {"percentiles": percentiles, "an interval": interval, "a range": span}
    for said, found in ordered.items():
        if any(after < before - abs(before) * _RELATIVE for before, after in pairwise(found)):
            yield f"has {said} the wrong way round in {what}"
    for name, item in values.items():
        yield from _orders(item, name)


def _drift(record: Drift) -> Iterator[str]:
    if record.perplexity_ratio <= 0:
        yield f"has {record.perplexity_ratio} for perplexity_ratio"
    if not 1 <= record.blocks <= record.positions:
        yield f"has {record.blocks} blocks of {record.positions} positions"
    sizes = record.block_positions
    if sizes and (len(sizes) != record.blocks or min(sizes) < 1 or sum(sizes) != record.positions):
        yield f"has {len(sizes)} blocks of {sum(sizes)} positions one by one, and {record.blocks} of {record.positions}"
        return
    for what, values, mean in (
        ("kl_nats", record.block_kl_nats, record.kl_nats.mean),
        ("top1_agreement_fraction", record.block_top1_agreement_fraction, record.top1_agreement_fraction.mean),
    ):
        if values and (len(values) != len(sizes) or not _weighted(values, sizes, mean)):
            yield f"has {mean} for {what}, which is not the mean of its blocks"


def _weighted(values: Sequence[float], sizes: Sequence[int], mean: float) -> bool:
    """Whether a mean is that of its parts; what overflowed is infinite in both."""
    total = sum(value * size for value, size in zip(values, sizes, strict=True))
    return min(values) >= 0 and _same(mean, total / sum(sizes))


def _tasks(record: Tasks) -> Iterator[str]:
    if not record.scores:
        yield "has no task"
    for score in (*record.scores, record.overall):
        after = score.reference_correct - score.flips_to_wrong + score.flips_to_right
        if score.variant_correct != after or score.flips_to_wrong > score.reference_correct:
            yield f"has {score.variant_correct} right answers of the variant in {score.task}, its flips give {after}"
        before = score.reference_correct
        if before and not _same(score.recovery_fraction, score.variant_correct / before):
            yield f"has a recovery of {score.recovery_fraction} in {score.task}, which is not that of its counts"
        own = interval_of_recovery(
            reference_correct=before,
            to_right=score.flips_to_right,
            to_wrong=score.flips_to_wrong,
            count=score.questions,
        )
        if score.recovery_interval_fraction is not None and not _same_interval(score.recovery_interval_fraction, own):
            yield f"has an interval of the recovery in {score.task} which is not that of its counts"
    for field in ("questions", "reference_correct", "variant_correct", "flips_to_wrong", "flips_to_right"):
        whole = getattr(record.overall, field)
        if sum(getattr(score, field) for score in record.scores) != whole:
            yield f"has {whole} for {field} in all, which is not the sum of its tasks"


def _latency(record: Latency) -> Iterator[str]:
    needed = [("load_ms", record.load_ms), ("peak_anon_bytes", record.peak_anon_bytes)]
    needed += [("ttft_p50_ms", row.ttft_p50_ms) for row in record.rows]
    for what, value in needed:
        if value <= 0:
            yield f"has {value} for {what}, which nothing takes"
    if len({row.prompt_tokens for row in record.rows}) < len(record.rows):
        yield "has two rows at one prompt length"
    for row in record.rows:
        if min(row.prompt_tokens, row.decode_tokens, row.repeats) < 1:
            counts = f"{row.prompt_tokens} tokens, {row.decode_tokens} after them, {row.repeats} repeats"
            yield f"has a row without a token or a repeat: {counts}"
        if row.ttft_p95_ms < row.ttft_p50_ms * (1 - _RELATIVE):
            yield f"has percentiles the wrong way round at a prompt of {row.prompt_tokens} tokens"
        yield from _repeats(row, "ttft_ms", row.ttft_ms, row.ttft_p50_ms)
        yield from _repeats(row, "decode_tokens_per_s", row.decode_tokens_per_s, row.decode_tokens_per_s_p50)
    energy = record.energy
    if energy is None:
        return
    if energy.joules <= 0 or energy.average_watts <= 0 or energy.tokens < 1:
        yield "has an energy that is not above zero; what cannot be read is left out"
    elif not _same(energy.joules_per_token, energy.joules / energy.tokens):
        yield f"has {energy.joules_per_token} joules a token, which is not its joules over its tokens"


def _repeats(row: LatencyRow, what: str, values: Sequence[float], middle: float) -> Iterator[str]:
    """Single repeats must be those that the figures of their row are from; where there are none, nothing is said."""
    where = f"at a prompt of {row.prompt_tokens} tokens"
    if values and len(values) != row.repeats:
        yield f"has {len(values)} of {row.repeats} repeats for {what} {where}"
    elif values and not _same(median(values), middle):
        yield f"has {middle} for the median of {what} {where}, its repeats have {median(values)}"


def _free_running(record: FreeRunning) -> Iterator[str]:
    if record.prompts < 1 or record.identical > record.prompts:
        yield f"has {record.identical} identical generations of {record.prompts} prompts"
    for side, endings in (("reference", record.reference), ("variant", record.variant)):
        if endings.stopped + endings.unfinished != record.prompts or endings.looping > record.prompts:
            yield f"has endings of the {side} that do not add up to its {record.prompts} prompts"


def _refusals(record: Refusals) -> Iterator[str]:
    for item in record.categories:
        both = item.both_refuse + item.both_answer
        if both + item.only_reference_refuses + item.only_variant_refuses != item.prompts:
            yield f"has counts in {item.category} that do not add up to its {item.prompts} prompts"
    if len({item.category for item in record.categories}) < len(record.categories):
        yield "has a category twice"
    prompts = sum(item.prompts for item in record.categories)
    agreeing = sum(item.both_refuse + item.both_answer for item in record.categories)
    if prompts < 1 or not _same(record.agreement_fraction, agreeing / prompts):
        yield f"has an agreement of {record.agreement_fraction}, which is not that of its counts"


def _comparison(record: Comparison) -> Iterator[str]:
    if record.rounds < 1 or not record.rows:
        yield "has no round"
    if any(row.prompt_tokens < 1 for row in record.rows):
        yield "has a row of a prompt without a token"
    for row in record.rows:
        if not row.ratios or min(row.ratios) <= 0:
            yield f"has no ratios above zero for {row.metric} at a prompt of {row.prompt_tokens} tokens"
        elif not _same(median(row.ratios), row.ratio_p50):
            yield f"has {row.ratio_p50} for the median of the ratios of {row.metric}, they have {median(row.ratios)}"
        elif not _same_interval(row.ratio_interval, interval_of_median(row.ratios)):
            yield f"has an interval of the ratios of {row.metric} which is not that of its {len(row.ratios)} rounds"


def _prediction(record: Prediction) -> Iterator[str]:
    efficiencies = (record.bandwidth_efficiency_fraction, record.compute_efficiency_fraction)
    if min(record.bandwidth_bytes_per_s, record.operations_per_s, *efficiencies) <= 0:
        yield "has a bandwidth, a speed or an efficiency that is not above zero"
    memory = record.memory
    if memory.total_bytes != memory.weights_bytes + memory.kv_cache_bytes + memory.workspace_bytes:
        yield f"has {memory.total_bytes} bytes of memory in all, its parts have another sum"


def _same_interval(one: Interval, other: Interval) -> bool:
    ends = (one.low, other.low), (one.high, other.high)
    return all(a == b if a is None or b is None else _same(a, b) for a, b in ends)


def _same(one: float, other: float) -> bool:
    return math.isclose(one, other, rel_tol=_RELATIVE, abs_tol=1e-12)
