"""The sections about drift: against the reference, by parts of the quantization, between two ways of running."""

from __future__ import annotations

from typing import TYPE_CHECKING

from phiforge.evidence import Agreement, Breakdown
from phiforge.gate import number
from phiforge.reporting import text
from phiforge.reporting.layout import Cell, Section, Table, kind_of, num, word
from phiforge.reporting.names import named

if TYPE_CHECKING:
    from collections.abc import Sequence

    from phiforge.evidence import AnyEvidence, Drift, DriftStep, Estimate

_PERCENTILES = (
    ("p1", "p1"),
    ("p5", "p5"),
    ("p50", "p50"),
    ("p90", "p90"),
    ("p95", "p95"),
    ("p99", "p99"),
    ("p99_9", "p99.9"),
    ("max", "max"),
)
_COMPARED = {
    "emulator-prefill": "Emulator, prefill",
    "emulator-decode": "Emulator, decode",
    "provider-prefill": "Provider, prefill",
    "provider-decode": "Provider, decode",
    "float32": "Float16",
    "other-variant": "This variant",
}


def drift(drift: Drift | None, key: str, added: str) -> Section:
    """How far the variant's next-token distributions are from the reference's."""
    title = f"Drift{added}"
    if drift is None:
        return Section(key, title, "There is no drift evidence: how far the variant is from the model is not known.")
    means = Table(
        columns=("Quantity", "Value"),
        rows=(
            (word("KL divergence from the reference"), num(text.estimate(drift.kl_nats, "nats"))),
            (word("99th percentile of KL, 90 % interval"), num(text.interval(drift.kl_p99_interval_nats, "nats"))),
            (word("Top-1 agreement"), num(text.estimate(drift.top1_agreement_fraction, "fraction"))),
            (word("True-token change, mean"), num(_change(drift.true_token_change_fraction))),
            (word("True-token change, rms"), num(text.points(drift.true_token_change_rms_fraction).lstrip("+"))),
            (word("Perplexity, reference"), num(number(drift.perplexity_reference))),
            (word("Perplexity, variant"), num(number(drift.perplexity_variant))),
            (word("Perplexity ratio"), num(number(drift.perplexity_ratio))),
            (word("Log of the perplexity ratio"), num(text.estimate(drift.perplexity_log_ratio_nats, "nats"))),
        ),
        caption="Means over positions",
    )
    kl, change = drift.kl_percentiles_nats, drift.true_token_change_percentiles_fraction
    percentiles = Table(
        columns=("Percentile", "KL, nats", "True-token change, points"),
        rows=tuple(
            (word(label), num(text.tiny(number(getattr(kl, name), 3))), num(text.points(getattr(change, name), "")))
            for name, label in _PERCENTILES
        ),
        caption="Percentiles over positions",
    )
    intro = (
        f"Next-token distributions against the reference, teacher-forced on {text.whole(drift.positions)} positions in "
        f"{text.whole(drift.blocks)} blocks of held-out text. KL is over the reference's {text.whole(drift.top_k)} "
        "likeliest tokens and one bucket for the rest, which never exceeds the full KL. True-token change is the "
        "variant's probability of the token that follows minus the reference's. ± is one standard error over blocks."
    )
    return Section(key, title, intro, kind=drift.kind, tables=(means, percentiles), evidence=key)


def agreement(evidence: Sequence[AnyEvidence]) -> tuple[Section, ...]:
    """How alike two ways of running the variant are, or two variants; no section where nothing was compared."""
    found = named(Agreement, evidence)
    if not found:
        return ()
    columns = ("Compared", "Against", "Evidence", "Positions", "Relative logit error", "Mean KL", "Top-1 agreement")
    table = Table(columns=columns, rows=tuple(_agreement(name, record) for name, _, record in found), stacked=True)
    intro = (
        "The same tokens through both. Relative logit error is the norm of the difference over the norm of the "
        "second's logits, and for float16 the root mean square of the difference over the spread of the second's; "
        "between two variants, whose logits differ by right, there is none."
    )
    return (Section("agreement", "Agreement", intro, tables=(table,)),)


def breakdown(evidence: Sequence[AnyEvidence]) -> tuple[Section, ...]:
    """Drift with more and more of the quantization switched on; no section where it was not taken apart."""
    found = named(Breakdown, evidence)
    if not found:
        return ()
    columns = ("Quantized", "Evidence", "Positions", "KL from the reference", "Top-1 agreement")
    tables = tuple(
        Table(columns=columns, rows=tuple(_step(name, step) for step in record.steps), stacked=True)
        for name, _, record in found
    )
    intro = (
        "Drift from the reference with more and more of the quantization switched on. Only rows of the same kind and "
        "the same positions may be held against each other. ± is one standard error over blocks."
    )
    return (Section("breakdown", "Where the drift comes from", intro, tables=tables),)


def _change(change: Estimate) -> str:
    return text.estimate(change, "fraction").replace(" %", " points")


def _agreement(name: str, record: Agreement) -> tuple[Cell, ...]:
    error = record.relative_logit_error if record.relative_spread_error is None else record.relative_spread_error
    other = f" ({text.short_hash(record.against_sha256)})" if record.against_sha256 else ""
    return (
        word(_COMPARED[record.comparison]),
        word(f"{record.against}{other}"),
        kind_of(record.kind, name),
        num(text.whole(record.positions)),
        num(text.NONE if error is None else text.value(error, "fraction")),
        num(text.value(record.kl_mean_nats, "nats")),
        num(text.value(record.top1_agreement_fraction, "fraction")),
    )


def _step(name: str, step: DriftStep) -> tuple[Cell, ...]:
    return (
        word(step.name),
        kind_of(step.kind, name),
        num(text.whole(step.positions)),
        num(text.estimate(step.kl_nats, "nats")),
        num(text.value(step.top1_agreement_fraction, "fraction")),
    )
