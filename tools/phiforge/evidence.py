"""The schema of evidence: measurements, each with its conditions and how it was come by.

Every number that phiforge reports stands in one of these records, in a JSON file of its own. Units are in the names
(`_nats`, `_ms`, `_bytes`, `_per_s`, `_fraction`); probabilities and agreements are fractions of 1.
"""

from __future__ import annotations

import json
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

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
    """What a measurement depends on besides the variant."""

    machine: Machine
    provider: str
    threads: int
    versions: dict[str, str]
    dataset: str | None = None
    split: str | None = None
    dataset_sha256: str | None = None
    samples: int | None = None
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
    top1_agreement_fraction: Estimate
    true_token_change_fraction: Estimate
    true_token_change_rms_fraction: float
    true_token_change_percentiles_fraction: Percentiles
    perplexity_reference: float
    perplexity_variant: float
    perplexity_ratio: float
    perplexity_log_ratio_nats: Estimate
    kl_by_position: tuple[PositionBin, ...]


class TaskScore(Record):
    """Exact match on one task, before and after; a flip is a question whose answer changed between right and wrong."""

    task: str
    questions: int
    reference_correct: int
    variant_correct: int
    flips_to_wrong: int
    flips_to_right: int
    mcnemar_p: float
    recovery_fraction: float
    reference_tokens_per_answer: float
    variant_tokens_per_answer: float


class Tasks(Record):
    """Exact match on the held-out tasks, generated greedily by the shipped runtime."""

    evidence: Literal["tasks"] = "tasks"
    schema_version: str = SCHEMA_VERSION
    kind: Kind
    conditions: Conditions
    variant_sha256: str
    reference_sha256: str
    scores: tuple[TaskScore, ...]
    overall: TaskScore


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
    """Latency at one prompt length. Decode figures are at the context lengths that follow the prompt."""

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
    rows: tuple[LatencyRow, ...]
    peak_anon_bytes: int
    peak_rss_bytes: int
    memory: tuple[MemorySample, ...]


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
    Drift | Tasks | Probes | Latency | Agreement | Breakdown, Field(discriminator="evidence")
]

_ADAPTER: TypeAdapter[AnyEvidence] = TypeAdapter(AnyEvidence)


def dump_evidence(evidence: AnyEvidence) -> str:
    """Return the evidence as JSON text with sorted keys and a final newline."""
    return json.dumps(evidence.model_dump(mode="json"), indent=1, sort_keys=True) + "\n"


def load_evidence(path: Path) -> AnyEvidence:
    """Read one evidence file.

    Raises:
        EvidenceInvalidError: The file cannot be read, is no JSON, or breaks the schema.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise _invalid(str(path), str(error)) from error
    return parse_evidence(text, str(path))


def parse_evidence(text: str, name: str) -> AnyEvidence:
    """Read evidence from JSON text; `name` is what an error calls it.

    Raises:
        EvidenceInvalidError: The text is no JSON, or breaks the schema.
    """
    try:
        return _ADAPTER.validate_json(text)
    except ValidationError as error:
        raise _invalid(name, str(error)) from error


def _invalid(name: str, why: str) -> errors.EvidenceInvalidError:
    return errors.EvidenceInvalidError(
        f"The evidence file {name} cannot be used.",
        why=why.replace("\n", "; "),
        fix="Measure again with `phiforge validate` or `phiforge bench`; evidence is never edited by hand.",
    )
