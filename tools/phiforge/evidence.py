"""The schema of evidence: measurements, each with its conditions and how it was come by.

Every number that phiforge reports stands in one of these records, in a JSON file of its own. Units are in the names
(`_nats`, `_ms`, `_bytes`, `_per_s`, `_fraction`); probabilities and agreements are fractions of 1.
"""

from __future__ import annotations

import json
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Literal, TypeAlias

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from phiforge import errors

if TYPE_CHECKING:
    from pathlib import Path

SCHEMA_VERSION = "1.0"


class Kind(StrEnum):
    """How a number was come by; kinds are never mixed."""

    MEASURED = "measured"
    EMULATED = "emulated"
    SURROGATE = "surrogate"
    PREDICTED = "predicted"


class Record(BaseModel):
    """Base of all evidence: frozen, unknown keys forbidden."""

    model_config = ConfigDict(extra="forbid", frozen=True, ser_json_inf_nan="constants")


class Machine(Record):
    """The machine a measurement ran on."""

    processor: str
    architecture: str
    process_architecture: str
    logical_cores: int
    physical_cores: int
    memory_bytes: int
    system: str
    power_source: str | None = None


class Conditions(Record):
    """What a measurement depends on besides the variant; `taken_at` is in UTC."""

    machine: Machine
    provider: str
    threads: int
    versions: dict[str, str]
    dataset: str | None = None
    split: str | None = None
    dataset_sha256: str | None = None
    samples: int | None = None
    taken_at: AwareDatetime | None = None
    notes: tuple[str, ...] = ()


class Percentiles(Record):
    """Percentiles of one distribution; the unit is in the name of the field that holds them."""

    p1: float
    p5: float
    p50: float
    p90: float
    p95: float
    p99: float
    p99_9: float
    max: float


class Estimate(Record):
    """A mean and its standard error, which comes from blocks of text and not from single tokens."""

    mean: float
    standard_error: float


class Interval(Record):
    """The 90 % confidence interval of a number: each end is a one-sided bound at 95 %. None is no bound at all."""

    low: float | None
    high: float | None


class PositionBin(Record):
    """Mean KL of the positions `start <= position < stop` within their text."""

    start: int
    stop: int
    count: int
    kl_nats: Estimate


class Drift(Record):
    """How far the variant's next-token distributions are from the reference's, teacher-forced on held-out text.

    `kl_nats` is KL(reference || variant) over the reference's top-k tokens and the rest of the vocabulary as one
    bucket, which never exceeds the KL over the whole vocabulary.
    """

    evidence: Literal["drift"] = "drift"
    schema_version: str = SCHEMA_VERSION
    kind: Kind
    conditions: Conditions
    variant_sha256: str
    reference_sha256: str
    top_k: int
    positions: int
    blocks: int
    kl_nats: Estimate
    kl_percentiles_nats: Percentiles
    kl_p99_interval_nats: Interval | None = None
    top1_agreement_fraction: Estimate
    true_token_change_fraction: Estimate
    true_token_change_rms_fraction: float
    true_token_change_percentiles_fraction: Percentiles
    perplexity_reference: float
    perplexity_variant: float
    perplexity_ratio: float
    perplexity_log_ratio_nats: Estimate
    kl_by_position: tuple[PositionBin, ...]


Metric: TypeAlias = Literal["exact-match", "log-likelihood", "instructions", "code"]


class TaskSource(Record):
    """The file a task came from, and what it declares of itself; `licence` is an SPDX expression."""

    file: str
    format: str
    split: str
    licence: str
    sha256: str


class TaskScore(Record):
    """One task before and after; a flip is a question whose answer changed between right and wrong.

    `accuracy_change_interval_fraction` is of the variant's accuracy minus the reference's, by paired bootstrap.
    `recovery_interval_fraction` is what the gate judges: a score interval, which is wide also where nothing flipped.
    `tokens_per_answer_ratio` is the variant's tokens over the reference's; None where answers are not generated.
    """

    task: str
    metric: Metric = "exact-match"
    source: TaskSource | None = None
    questions: int
    reference_correct: int
    variant_correct: int
    flips_to_wrong: int
    flips_to_right: int
    mcnemar_p: float
    accuracy_change_interval_fraction: Interval | None = None
    recovery_fraction: float
    recovery_interval_fraction: Interval | None = None
    reference_tokens_per_answer: float
    variant_tokens_per_answer: float
    tokens_per_answer_ratio: float | None = None
    tokens_per_answer_ratio_interval: Interval | None = None


class Tasks(Record):
    """Answers to the held-out tasks, generated greedily or chosen by log-likelihood, by the shipped runtime."""

    evidence: Literal["tasks"] = "tasks"
    schema_version: str = SCHEMA_VERSION
    kind: Kind
    conditions: Conditions
    variant_sha256: str
    reference_sha256: str
    scores: tuple[TaskScore, ...]
    overall: TaskScore


class Endings(Record):
    """How generations ended: by a stop id or at the limit, and how many of the latter repeat themselves.

    `early` are those that stopped before half of the reference's length.
    """

    stopped: int
    unfinished: int
    looping: int
    early: int


class AgreementBin(Record):
    """Share of prompts whose generation is still the reference's at `start <= generated position < stop`."""

    start: int
    stop: int
    count: int
    agreement_fraction: float


class FreeRunning(Record):
    """Greedy generations of reference and variant from the same prompts, each going on from its own tokens.

    `first_divergence_percentiles_tokens` is of the first generated position where they differ; a generation that never
    differs counts with its length.
    """

    evidence: Literal["free-running"] = "free-running"
    schema_version: str = SCHEMA_VERSION
    kind: Kind
    conditions: Conditions
    variant_sha256: str
    reference_sha256: str
    prompts: int
    identical: int
    limit_tokens: int
    first_divergence_percentiles_tokens: Percentiles
    agreement_by_position: tuple[AgreementBin, ...]
    reference: Endings
    variant: Endings
    length_ratio: float
    length_ratio_interval: Interval


class RefusalCategory(Record):
    """Agreement on one category of prompts: both refuse, both answer, or one of them only refuses."""

    category: str
    prompts: int
    both_refuse: int
    both_answer: int
    only_reference_refuses: int
    only_variant_refuses: int


class Refusals(Record):
    """Whether the variant refuses what the reference refuses; nothing is said of whether it should."""

    evidence: Literal["refusals"] = "refusals"
    schema_version: str = SCHEMA_VERSION
    kind: Kind
    conditions: Conditions
    variant_sha256: str
    reference_sha256: str
    categories: tuple[RefusalCategory, ...]
    agreement_fraction: float
    agreement_interval_fraction: Interval


class Probe(Record):
    """One yes-or-no check; a failed blocking probe fails the verdict."""

    name: str
    passed: bool
    blocking: bool = True
    detail: str


class Probes(Record):
    """Checks of what statistics hide: tokenizer, chat template, stopping, the longrope switch, where nodes ran."""

    evidence: Literal["probes"] = "probes"
    schema_version: str = SCHEMA_VERSION
    kind: Kind
    conditions: Conditions
    variant_sha256: str
    probes: tuple[Probe, ...]


class LatencyRow(Record):
    """Latency at one prompt length. Decode figures are at the context lengths that follow the prompt.

    `ttft_ms` and `decode_tokens_per_s` are of each repeat, in order.
    """

    prompt_tokens: int
    decode_tokens: int
    repeats: int
    ttft_p50_ms: float
    ttft_p95_ms: float
    prefill_tokens_per_s_p50: float
    decode_tokens_per_s_p50: float
    decode_tokens_per_s_p95: float
    inter_token_p50_ms: float
    inter_token_p99_ms: float
    ttft_ms: tuple[float, ...] = ()
    decode_tokens_per_s: tuple[float, ...] = ()
    inter_token_percentiles_ms: Percentiles | None = None
    inter_token_p99_interval_ms: Interval | None = None


class DecodeBin(Record):
    """Time of the tokens decoded at `start <= context position < stop`."""

    start: int
    stop: int
    count: int
    inter_token_p50_ms: float
    inter_token_p95_ms: float


class Cliff(Record):
    """A context position at which decoding becomes slower for good, or stalls once, far beyond the noise.

    `ratio` is after over before for a step, and the stall over the median token for a stall. `cause` is "" where none
    is known.
    """

    position: int
    shape: Literal["step", "stall"]
    before_ms: float
    after_ms: float
    ratio: float
    cause: str = ""


class IdleRow(Record):
    """Time to first token of a short prompt after the process did nothing for so long."""

    idle_s: float
    prompt_tokens: int
    ttft_ms: tuple[float, ...]


class SecondTurn(Record):
    """Time to first token of a second turn with the cache kept, and of the whole conversation computed anew."""

    first_turn_tokens: int
    second_turn_tokens: int
    kept_ttft_ms: tuple[float, ...]
    anew_ttft_ms: tuple[float, ...]


class ContentionRow(Record):
    """Latency while other processes use so many cores, or the same accelerator."""

    busy_cores: int
    busy_accelerator: bool = False
    prompt_tokens: int
    ttft_p50_ms: float
    decode_tokens_per_s_p50: float


class Energy(Record):
    """Energy that `source` (a counter of the machine) told during decoding; for the whole of what it covers."""

    source: str
    covers: str
    tokens: int
    joules: float
    joules_per_token: float
    average_watts: float
    idle_watts: float | None = None


class MemorySample(Record):
    """Memory of the measuring process at one moment after its start."""

    t_s: float
    anon_bytes: int
    rss_bytes: int


class Latency(Record):
    """Time and memory of one variant in a fresh process; TTFT counts from the prompt's tokens to the first new one.

    `decode_tokens_per_s_p95` is the speed that 95 % of the repeats reach or exceed.
    """

    evidence: Literal["latency"] = "latency"
    schema_version: str = SCHEMA_VERSION
    kind: Kind
    conditions: Conditions
    variant_sha256: str
    warmups: int
    load_ms: float
    load_cold_ms: tuple[float, ...] = ()
    load_warm_ms: tuple[float, ...] = ()
    rows: tuple[LatencyRow, ...]
    by_position: tuple[DecodeBin, ...] = ()
    cliffs: tuple[Cliff, ...] = ()
    idle: tuple[IdleRow, ...] = ()
    second_turn: SecondTurn | None = None
    contention: tuple[ContentionRow, ...] = ()
    energy: Energy | None = None
    peak_anon_bytes: int
    peak_rss_bytes: int
    memory: tuple[MemorySample, ...]


class ComparisonRow(Record):
    """Time of the variant over that of the other one in each round of one interleaved run; above 1 it is slower."""

    metric: Literal["ttft", "decode"]
    prompt_tokens: int
    ratios: tuple[float, ...]
    ratio_p50: float
    ratio_interval: Interval


class Comparison(Record):
    """A variant against that of an earlier release, measured in turn on one machine, so that noise meets both alike."""

    evidence: Literal["comparison"] = "comparison"
    schema_version: str = SCHEMA_VERSION
    kind: Kind
    conditions: Conditions
    variant_sha256: str
    against_sha256: str
    rounds: int
    rows: tuple[ComparisonRow, ...]


class PredictedRow(Record):
    """Time at one prompt length; decoding is at the context that follows the prompt."""

    prompt_tokens: int
    ttft_ms: float
    decode_tokens_per_s: float


class MemoryNeed(Record):
    """Memory of a variant at a context: its files, its KV cache, and what the graph needs while it runs."""

    context_tokens: int
    weights_bytes: int
    kv_cache_bytes_per_token: int
    kv_cache_bytes: int
    workspace_bytes: int
    total_bytes: int


class Prediction(Record):
    """A roofline's answer for a device that need not be here; the efficiencies are fitted from measurements only.

    `efficiency_source` says from which, and `efficiency_error_fraction` how far the roofline was from them.
    `node_overhead_us` is the time that each node of a graph takes besides.
    """

    evidence: Literal["prediction"] = "prediction"
    schema_version: str = SCHEMA_VERSION
    kind: Kind
    conditions: Conditions
    variant_sha256: str
    profile: str
    bandwidth_bytes_per_s: float
    operations_per_s: float
    bandwidth_efficiency_fraction: float
    compute_efficiency_fraction: float
    node_overhead_us: float = 0.0
    efficiency_source: str
    efficiency_error_fraction: float | None = None
    rows: tuple[PredictedRow, ...]
    memory: MemoryNeed


class Agreement(Record):
    """How alike two ways of running one variant are, or two variants, on the same tokens.

    `comparison` says what is held against what. `relative_logit_error` is the norm of the difference over the norm of
    the second's logits; None between two variants, whose logits differ by right. `relative_spread_error` is the root of
    the mean square of the difference over the standard deviation of the second's logits, where that was asked for.
    """

    evidence: Literal["agreement"] = "agreement"
    schema_version: str = SCHEMA_VERSION
    kind: Kind
    conditions: Conditions
    variant_sha256: str
    comparison: Literal[
        "emulator-prefill", "emulator-decode", "provider-prefill", "provider-decode", "float32", "other-variant"
    ]
    against: str
    against_sha256: str | None = None
    positions: int
    relative_logit_error: float | None
    relative_spread_error: float | None = None
    kl_mean_nats: float
    top1_agreement_fraction: float


class DriftStep(Record):
    """Drift against the reference with a part of the quantization alone, such as "weights"."""

    name: str
    kind: Kind
    positions: int
    kl_nats: Estimate
    top1_agreement_fraction: float


class Breakdown(Record):
    """Where the drift comes from: the same texts with more and more of the quantization switched on."""

    evidence: Literal["breakdown"] = "breakdown"
    schema_version: str = SCHEMA_VERSION
    kind: Kind
    conditions: Conditions
    variant_sha256: str
    reference_sha256: str
    steps: tuple[DriftStep, ...]


AnyEvidence: TypeAlias = Annotated[
    Drift | Tasks | FreeRunning | Refusals | Probes | Latency | Comparison | Prediction | Agreement | Breakdown,
    Field(discriminator="evidence"),
]

_ADAPTER: TypeAdapter[AnyEvidence] = TypeAdapter(AnyEvidence)


def dump_evidence(evidence: AnyEvidence) -> str:
    """Return the evidence as JSON text with sorted keys and a final newline."""
    return json.dumps(evidence.model_dump(mode="json"), indent=1, sort_keys=True) + "\n"


def load_evidence(path: Path) -> AnyEvidence:
    """Read one evidence file.

    Raises:
        EvidenceInvalidError: The file cannot be read, or errors as `parse_evidence`.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise _invalid(str(path), str(error)) from error
    return parse_evidence(text, str(path))


def parse_evidence(text: str, name: str) -> AnyEvidence:
    """Read evidence from JSON text; `name` is what an error calls it.

    Raises:
        EvidenceInvalidError: The text is no JSON, breaks the schema, or says what evidence may not say
            (`evidence_checks`).
    """
    # Imported here: the checks are written in terms of the records above.
    from phiforge.evidence_checks import check_record

    try:
        record = _ADAPTER.validate_json(text)
    except ValidationError as error:
        raise _invalid(name, str(error)) from error
    check_record(record, name)
    return record


def _invalid(name: str, why: str) -> errors.EvidenceInvalidError:
    return errors.EvidenceInvalidError(
        f"The evidence file {name} cannot be used.",
        why=why.replace("\n", "; "),
        fix="Measure again with `phiforge validate` or `phiforge bench`; evidence is never edited by hand.",
    )
