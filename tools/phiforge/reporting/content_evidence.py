"""The sections about evidence: drift, answers, probes, time, memory, conditions."""

from __future__ import annotations

from typing import TYPE_CHECKING

from phiforge.gate import number
from phiforge.reporting import text
from phiforge.reporting.layout import Cell, Section, Table, code, fact, kind_of, num, word
from phiforge.reporting.names import labels

if TYPE_CHECKING:
    from collections.abc import Sequence

    from phiforge.evidence import (
        Agreement,
        AnyEvidence,
        Breakdown,
        Conditions,
        Drift,
        DriftStep,
        Estimate,
        Latency,
        LatencyRow,
        Machine,
        Probes,
        Tasks,
        TaskScore,
    )
    from phiforge.reporting.schema import Report

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


def drift(drift: Drift | None, key: str, added: str) -> Section:
    """How far the variant's next-token distributions are from the reference's."""
    title = f"Drift{added}"
    if drift is None:
        return Section(key, title, "There is no drift evidence: how far the variant is from the model is not known.")
    means = Table(
        columns=("Quantity", "Value"),
        rows=(
            (word("KL divergence from the reference"), num(text.estimate(drift.kl_nats, "nats"))),
            (word("Top-1 agreement"), num(text.estimate(drift.top1_agreement_fraction, "fraction"))),
            (word("True-token change, mean"), num(_change(drift.true_token_change_fraction))),
            (word("True-token change, rms"), num(_points(drift.true_token_change_rms_fraction).lstrip("+"))),
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
            (word(label), num(text.tiny(number(getattr(kl, name), 3))), num(_points(getattr(change, name), "")))
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
    return Section(key, title, intro, kind=drift.kind, tables=(means, percentiles))


def tasks(tasks: Tasks | None, key: str, added: str) -> Section:
    """Exact match on the tasks, with flips both ways."""
    title = f"Answers{added}"
    if tasks is None:
        return Section(key, title, "There are no answers to tasks: how the variant answers is not known.")
    scores = (*tasks.scores, tasks.overall)
    table = Table(
        columns=(
            "Task",
            "Questions",
            "Right before",
            "Right after",
            "Right → wrong",
            "Wrong → right",
            "McNemar p",
            "Recovery",
            "Tokens before",
            "Tokens after",
        ),
        rows=tuple(_score(score) for score in scores),
        stacked=True,
    )
    intro = (
        "Exact match of greedy answers, the reference before and the variant after. Recovery is right after ÷ right "
        "before; McNemar's p asks whether the flips are lopsided; tokens are the mean length of an answer."
    )
    return Section(key, title, intro, kind=tasks.kind, tables=(table,))


def probes(probes: Probes | None, key: str, added: str) -> Section:
    """Yes-or-no checks."""
    title = f"Probes{added}"
    if probes is None:
        return Section(key, title, "There are no probes: tokenizer, template and stopping were not checked.")
    rows = tuple(
        (
            Cell(
                "passed" if probe.passed else "failed", "pass" if probe.passed else "fail" if probe.blocking else "note"
            ),
            word(probe.name),
            word("blocking" if probe.blocking else "advisory"),
            word(probe.detail),
        )
        for probe in probes.probes
    )
    table = Table(columns=("Result", "Probe", "Weight", "Detail"), rows=rows, stacked=True)
    intro = "Checks of what statistics hide. A failed blocking probe fails the verdict; an advisory one is a note."
    return Section(key, title, intro, kind=probes.kind, tables=(table,))


def latency(latency: Latency | None, key: str, added: str) -> Section:
    """Time to first token and speeds, a column for each prompt length."""
    title = f"Time{added}"
    if latency is None:
        return Section(key, title, "There is no latency evidence: how fast the variant is on this device is not known.")
    rows = latency.rows
    table = Table(
        columns=("Prompt, tokens", *(text.whole(row.prompt_tokens) for row in rows)),
        rows=tuple((word(label), *(num(_measure(row, name)) for row in rows)) for label, name in _MEASURES),
    )
    intro = (
        f"A fresh process; load takes {text.value(latency.load_ms, 'ms')}; {text.whole(latency.warmups)} "
        f"warm-up{'' if latency.warmups == 1 else 's'} before the repeats. Time to first token counts from the "
        "prompt's tokens to the first new one. Decode p95 is the speed that 95 % of the repeats reach or exceed."
    )
    return Section(key, title, intro, kind=latency.kind, tables=(table,) if rows else ())


def memory(latency: Latency | None, key: str, added: str) -> Section:
    """Peaks of memory."""
    title = f"Memory{added}"
    if latency is None:
        return Section(key, title, "There is no latency evidence, which memory is part of.")
    table = Table(
        columns=("Peak", "Bytes", ""),
        rows=tuple(
            (word(label), num(text.whole(peak)), num(text.value(peak, "bytes")))
            for label, peak in (("Anonymous", latency.peak_anon_bytes), ("Resident", latency.peak_rss_bytes))
        ),
    )
    intro = "Anonymous memory is what the process needs for itself; resident adds mapped files, which can be dropped."
    return Section(key, title, intro, kind=latency.kind, tables=(table,))


def agreement(records: Sequence[Agreement]) -> tuple[Section, ...]:
    """How alike two ways of running the variant are, or two variants; no section where nothing was compared."""
    if not records:
        return ()
    columns = ("Compared", "Against", "Evidence", "Positions", "Relative logit error", "Mean KL", "Top-1 agreement")
    table = Table(columns=columns, rows=tuple(_agreement(record) for record in records), stacked=True)
    intro = (
        "The same tokens through both. Relative logit error is the norm of the difference over the norm of the "
        "second's logits, and for float16 the root mean square of the difference over the spread of the second's; "
        "between two variants, whose logits differ by right, there is none."
    )
    return (Section("agreement", "Agreement", intro, tables=(table,)),)


def breakdown(records: Sequence[Breakdown]) -> tuple[Section, ...]:
    """Drift with more and more of the quantization switched on; no section where it was not taken apart."""
    if not records:
        return ()
    columns = ("Quantized", "Evidence", "Positions", "KL from the reference", "Top-1 agreement")
    tables = tuple(
        Table(columns=columns, rows=tuple(_step(step) for step in record.steps), stacked=True) for record in records
    )
    intro = (
        "Drift from the reference with more and more of the quantization switched on. Only rows of the same kind and "
        "the same positions may be held against each other. ± is one standard error over blocks."
    )
    return (Section("breakdown", "Where the drift comes from", intro, tables=tables),)


def conditions(report: Report) -> Section:
    """Under which conditions each piece of evidence was taken; equal machines and versions are named once."""
    records = report.evidence
    title = "Conditions"
    if not records:
        return Section("conditions", title, "There is no evidence, so there are no conditions.")
    names = labels(records)
    sources = Table(
        columns=("Evidence", "Kind", "Provider", "Threads", "Data set", "Split", "Samples", "Data hash", "Notes"),
        rows=tuple(_source(label, record) for label, record in zip(names, records, strict=True)),
        stacked=True,
    )
    machines: dict[tuple[tuple[Cell, ...], ...], list[str]] = {}
    for label, record in zip(names, records, strict=True):
        machines.setdefault(_machine(record.conditions.machine, record.conditions), []).append(label)
    tables = tuple(
        Table(columns=("", ""), rows=rows, caption=f"Machine and versions for {', '.join(owners)}")
        for rows, owners in machines.items()
    )
    intro = f"Made by phiforge {report.phiforge_version}; report schema {report.schema_version}."
    return Section("conditions", title, intro, tables=(sources, *tables))


_COMPARED = {
    "emulator-prefill": "Emulator, prefill",
    "emulator-decode": "Emulator, decode",
    "provider-prefill": "Provider, prefill",
    "provider-decode": "Provider, decode",
    "float32": "Float16",
    "other-variant": "This variant",
}
_MEASURES = (
    ("Time to first token, p50", "ttft_p50_ms"),
    ("Time to first token, p95", "ttft_p95_ms"),
    ("Prefill, p50", "prefill_tokens_per_s_p50"),
    ("Decode, p50", "decode_tokens_per_s_p50"),
    ("Decode, p95", "decode_tokens_per_s_p95"),
    ("Between tokens, p50", "inter_token_p50_ms"),
    ("Between tokens, p99", "inter_token_p99_ms"),
    ("Tokens decoded", "decode_tokens"),
    ("Repeats", "repeats"),
)


def _measure(row: LatencyRow, name: str) -> str:
    amount = getattr(row, name)
    if isinstance(amount, int):
        return text.whole(amount)
    return text.value(amount, "ms" if name.endswith("_ms") else "tokens/s", 3)


def _change(change: Estimate) -> str:
    return text.estimate(change, "fraction").replace(" %", " points")


def _points(fraction: float, suffix: str = " points") -> str:
    """A difference of probabilities in percentage points, signed."""
    sign = "+" if fraction > 0 else ""
    return text.minus(f"{sign}{number(fraction * 100, 3)}{suffix}")


def _score(score: TaskScore) -> tuple[Cell, ...]:
    return (
        word(score.task),
        num(text.whole(score.questions)),
        num(text.whole(score.reference_correct)),
        num(text.whole(score.variant_correct)),
        num(text.whole(score.flips_to_wrong)),
        num(text.whole(score.flips_to_right)),
        num(text.p_value(score.mcnemar_p)),
        num(text.value(score.recovery_fraction, "fraction")),
        num(number(score.reference_tokens_per_answer)),
        num(number(score.variant_tokens_per_answer)),
    )


def _agreement(record: Agreement) -> tuple[Cell, ...]:
    error = record.relative_logit_error if record.relative_spread_error is None else record.relative_spread_error
    other = f" ({text.short_hash(record.against_sha256)})" if record.against_sha256 else ""
    return (
        word(_COMPARED[record.comparison]),
        word(f"{record.against}{other}"),
        kind_of(record.kind),
        num(text.whole(record.positions)),
        num(text.NONE if error is None else text.value(error, "fraction")),
        num(text.value(record.kl_mean_nats, "nats")),
        num(text.value(record.top1_agreement_fraction, "fraction")),
    )


def _step(step: DriftStep) -> tuple[Cell, ...]:
    return (
        word(step.name),
        kind_of(step.kind),
        num(text.whole(step.positions)),
        num(text.estimate(step.kl_nats, "nats")),
        num(text.value(step.top1_agreement_fraction, "fraction")),
    )


def _source(label: str, record: AnyEvidence) -> tuple[Cell, ...]:
    given = record.conditions
    return (
        word(label),
        Cell(record.kind.value, "kind"),
        word(given.provider),
        num(text.whole(given.threads)),
        word(given.dataset or text.NONE),
        word(given.split or text.NONE),
        num(text.NONE if given.samples is None else text.whole(given.samples)),
        word(text.NONE) if given.dataset_sha256 is None else code(text.short_hash(given.dataset_sha256)),
        word("; ".join(given.notes) or text.NONE),
    )


def _machine(machine: Machine, given: Conditions) -> tuple[tuple[Cell, ...], ...]:
    versions = ", ".join(f"{name} {version}" for name, version in sorted(given.versions.items()))
    architecture = machine.architecture
    if machine.process_architecture != architecture:
        architecture = f"{architecture}, process {machine.process_architecture}"
    cores = f"{text.whole(machine.physical_cores)} cores, {text.whole(machine.logical_cores)} threads"
    return (
        fact("Processor", f"{machine.processor} ({architecture}; {cores})"),
        fact("Memory", text.value(machine.memory_bytes, "bytes")),
        fact("System", machine.system),
        fact("Power", machine.power_source or "not recorded"),
        fact("Versions", versions or "not recorded"),
    )
