"""What a report says and in which order, as sections of tables; `html` and `markdown` only set it.

Nothing is computed here: every cell is a number of the report, or a word about one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from phiforge.evidence import Agreement, Breakdown, Drift, Latency, Probes, Record, Tasks
from phiforge.gate import Outcome, number
from phiforge.reporting import text
from phiforge.reporting.content_evidence import (
    agreement,
    breakdown,
    conditions,
    drift,
    latency,
    memory,
    probes,
    tasks,
)
from phiforge.reporting.content_npu import npu
from phiforge.reporting.layout import Cell, Section, Table, code, fact, kind_of, num, word
from phiforge.reporting.names import named

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from phiforge.evidence import AnyEvidence
    from phiforge.gate import Finding, Verdict
    from phiforge.reporting.schema import Report
    from phiforge.variant import WeightGroup


_Sort = TypeVar("_Sort", bound=Record)


@dataclass(frozen=True)
class KeyNumber:
    """One of the few numbers a reader wants first."""

    title: str
    value: str
    kind: str
    note: str


def headline(verdict: Verdict) -> str:
    """The verdict in one sentence."""
    total = len(verdict.findings)
    failed = sum(finding.outcome is Outcome.FAIL for finding in verdict.findings)
    open_ = sum(finding.outcome is Outcome.UNVERIFIED for finding in verdict.findings)
    passed = f"{total - failed - open_} of {total} checks pass"
    parts = [f"{failed} {'fails' if failed == 1 else 'fail'}"] if failed else []
    parts += [f"{open_} {'is' if open_ == 1 else 'are'} unverified"] if open_ else []
    return f"{passed}; {', '.join(parts)}." if parts else f"All {total} checks pass."


def objections(verdict: Verdict) -> tuple[Finding, ...]:
    """The findings that stand against a pass, failures first."""
    order = (Outcome.FAIL, Outcome.UNVERIFIED)
    return tuple(finding for outcome in order for finding in verdict.findings if finding.outcome is outcome)


def identity(report: Report) -> Table:
    """Who and what: model, profile, pipeline, variant."""
    checkpoint, profile, variant = report.checkpoint, report.profile, report.variant
    options = ", ".join(f"{name} = {setting}" for name, setting in sorted(report.pipeline.options.items()))
    return Table(
        columns=("", ""),
        rows=(
            fact("Model", f"{checkpoint.name} ({checkpoint.family}, {text.whole(checkpoint.parameters)} parameters)"),
            fact("Checkpoint", f"{text.value(checkpoint.bytes, 'bytes')}, fingerprint ", checkpoint.fingerprint),
            fact("Profile", f"{profile.title} ({profile.name}); accepts {', '.join(profile.accepts)} evidence"),
            fact("Runtime", f"{profile.runtime_package} {profile.runtime_version}, provider {profile.provider}"),
            fact("Pipeline", f"{report.pipeline.name}{': ' + options if options else ''}"),
            fact("Variant", f"{text.value(variant.bytes, 'bytes')}, SHA-256 ", variant.sha256),
        ),
    )


def key_numbers(report: Report) -> tuple[KeyNumber, ...]:
    """The numbers that matter most, taken from the evidence there is."""
    found: list[KeyNumber] = []
    drifts = [record for record in report.evidence if isinstance(record, Drift)]
    for record in drifts:
        kl, top1 = record.kl_nats, record.top1_agreement_fraction
        over = f", {text.whole(record.positions)} positions" if len(drifts) > 1 else ""
        note = f"± {text.value(kl.standard_error, 'nats', 2)}{over}"
        found.append(KeyNumber("Mean KL divergence", text.value(kl.mean, "nats", 3), record.kind, note))
        note = f"± {text.value(top1.standard_error, 'fraction', 2)}{over}"
        found.append(KeyNumber("Top-1 agreement", text.value(top1.mean, "fraction"), record.kind, note))
    if tasks := report.tasks:
        overall = tasks.overall
        note = f"{text.whole(overall.variant_correct)} right, {text.whole(overall.reference_correct)} before"
        found.append(KeyNumber("Answer recovery", text.value(overall.recovery_fraction, "fraction"), tasks.kind, note))
    if (latency := report.latency) and latency.rows:
        row = max(latency.rows, key=lambda row: row.prompt_tokens)
        note = f"p50, prompt of {text.whole(row.prompt_tokens)} tokens"
        speed, first = text.value(row.decode_tokens_per_s_p50, "tokens/s", 3), text.value(row.ttft_p50_ms, "ms", 3)
        found.append(KeyNumber("Decode speed", speed, latency.kind, note))
        found.append(KeyNumber("Time to first token", first, latency.kind, note))
    if latency := report.latency:
        peak = text.value(latency.peak_anon_bytes, "bytes", 3)
        note = f"{text.value(latency.peak_rss_bytes, 'bytes', 3)} resident"
        found.append(KeyNumber("Peak anonymous memory", peak, latency.kind, note))
    bits = f"{number(report.variant.bits_per_weight, 3)} bits per weight"
    found.append(KeyNumber("Variant size", text.value(report.variant.bytes, "bytes", 3), "fact", bits))
    return tuple(found)


def sections(report: Report) -> tuple[Section, ...]:
    """All sections below the header, in reading order."""
    evidence = report.evidence
    return (
        _budgets(report),
        *_each(drift, Drift, evidence),
        *breakdown([record for record in evidence if isinstance(record, Breakdown)]),
        *agreement([record for record in evidence if isinstance(record, Agreement)]),
        *_each(tasks, Tasks, evidence),
        *_each(probes, Probes, evidence),
        *_each(latency, Latency, evidence),
        *_each(memory, Latency, evidence, memory_key),
        *npu(report),
        _variant(report),
        _stages(report),
        conditions(report),
        _limits(report),
    )


def memory_key(name: str) -> str:
    """The key of the memory section of latency evidence."""
    return name.replace("latency", "memory", 1)


def _each(
    section: Callable[[_Sort | None, str, str], Section],
    sort: type[_Sort],
    evidence: Sequence[AnyEvidence],
    key: Callable[[str], str] = str,
) -> tuple[Section, ...]:
    """A section for each piece of evidence of a sort, or the one that says that there is none."""
    found = tuple(section(record, key(name), added) for name, added, record in named(sort, evidence))
    return found or (section(None, key(sort.__name__.lower()), ""),)


def _budgets(report: Report) -> Section:
    rows = tuple(
        (
            word(text.budget_title(finding.budget)),
            num(text.bound(finding.budget, finding.limit)),
            num(text.found(finding.budget, finding.value)),
            kind_of(finding.kind) if finding.value is not None else word(text.NONE),
            Cell(finding.outcome, finding.outcome),
            word(finding.reason),
        )
        for finding in report.verdict.findings
    )
    table = Table(columns=("Check", "Limit", "Value", "Evidence", "Outcome", "Reason"), rows=rows, stacked=True)
    intro = (
        "Limits of the device profile, and what the evidence says. The chart shows value ÷ maximum or minimum ÷ value; "
        "a bar past the mark at 100 % breaks its limit."
    )
    return Section("budgets", "Budgets", intro, tables=(table,))


def _variant(report: Report) -> Section:
    variant = report.variant
    weights = Table(
        columns=("Weights", "Tensors", "Bits", "Block", "Zero point", "Size", "Bits per weight"),
        rows=tuple(_weights(group) for group in variant.weights),
        caption="Weights by group; bits per weight include scales and zero points",
    )
    operators = Table(
        columns=("Operator", "Nodes"),
        rows=tuple(
            (code(name), num(text.whole(count)))
            for name, count in sorted(variant.operators.items(), key=lambda item: (-item[1], item[0]))
        ),
        caption="Operators of the graph",
    )
    intro = (
        f"{text.value(variant.bytes, 'bytes')} on disk ({text.whole(variant.bytes)} bytes), "
        f"{number(variant.bits_per_weight)} bits per weight over all weights. Facts of the files, not measurements."
    )
    return Section("variant", "Variant", intro, kind="fact", tables=(weights, operators))


def _weights(group: WeightGroup) -> tuple[Cell, ...]:
    zero_point = {None: text.NONE, True: "symmetric", False: "asymmetric"}[group.symmetric]
    return (
        word(group.group),
        num(text.whole(group.tensors)),
        num(str(group.bits)),
        num(text.NONE if group.block_size is None else text.whole(group.block_size)),
        word(zero_point),
        num(text.value(group.bytes, "bytes")),
        num(number(group.bits_per_weight)),
    )


def _stages(report: Report) -> Section:
    rows = tuple(
        (word(stage.stage), num(text.duration(stage.seconds)), word("reused" if stage.reused else "built"))
        for stage in report.stages
    )
    tables = (Table(columns=("Stage", "Time", "Result"), rows=rows),) if rows else ()
    intro = "Time each stage of the build took; a reused stage was found in the store."
    return Section("stages", "Build", intro if rows else "No stage times were recorded.", kind="fact", tables=tables)


def _limits(report: Report) -> Section:
    intro = "" if report.limits else "Nothing is recorded here, which does not mean that there are no limits."
    return Section("limits", "What this does not show", intro, points=report.limits)
