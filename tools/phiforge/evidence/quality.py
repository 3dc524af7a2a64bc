"""The records of what a variant says: drift, answers, generations, refusals, probes, agreement."""

from __future__ import annotations

from typing import Literal, TypeAlias

from phiforge.evidence.record import SCHEMA_VERSION, Conditions, Estimate, Interval, Kind, Percentiles, Record


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

    `block_positions`, `block_kl_nats` and `block_top1_agreement_fraction` have one number for each block of text, in
    the order of the texts: its positions, and its means. By them two variants are held against each other on the same
    blocks; evidence of an earlier phiforge has none.
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
    block_positions: tuple[int, ...] = ()
    block_kl_nats: tuple[float, ...] = ()
    block_top1_agreement_fraction: tuple[float, ...] = ()


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

    `metric` is None over questions that are judged in several ways.
    `accuracy_change_interval_fraction` is of the variant's accuracy minus the reference's, by paired bootstrap.
    `recovery_interval_fraction` is what the gate judges: a score interval, which is wide also where nothing flipped.
    `tokens_per_answer_ratio` is the variant's tokens over the reference's; None where answers are not generated.
    """

    task: str
    metric: Metric | None = None
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
    """Share of the reference's positions `start <= position < stop` up to which the variant generated the same.

    `count` is how many positions the reference's generations have there, over all prompts.
    """

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
