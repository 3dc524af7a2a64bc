"""What a report says and in which order, as sections of tables; `html` and `markdown` only set it.

Nothing is computed here: every cell is a number of the report, or a word about one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from phiforge.evidence import (
    Comparison,
    Drift,
    FreeRunning,
    Latency,
    Prediction,
    Probes,
    Record,
    Refusals,
    Tasks,
)
from phiforge.gate import RULES, Outcome, number
from phiforge.reporting import text
from phiforge.reporting.chosen import (
    deciding_answers,
    deciding_memory,
    deciding_speed,
    deciding_start,
    measured,
    measured_beside,
    prompts,
)
from phiforge.reporting.content_answers import free_running, probes, refusals, tasks
from phiforge.reporting.content_drift import agreement, breakdown, drift
from phiforge.reporting.content_evidence import evidence_list
from phiforge.reporting.content_latency import comparison, latency, memory, prediction
from phiforge.reporting.content_npu import npu
from phiforge.reporting.layout import Cell, Section, Table, code, fact, kind_of, num, word
from phiforge.reporting.missing import missing
from phiforge.reporting.names import evidence_names, name_of, named

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from phiforge.evidence import AnyEvidence
    from phiforge.gate import Finding, Verdict
    from phiforge.reporting.schema import Entry, Report
    from phiforge.variant import WeightGroup


_Sort = TypeVar("_Sort", bound=Record)
_PLAIN: dict[type[Record], str] = {
    sort: sort.model_fields["evidence"].default for sort in (Drift, FreeRunning, Latency, Probes, Refusals, Tasks)
}


@dataclass(frozen=True)
class KeyNumber:
    """One of the few numbers a reader wants first; `evidence` is the name of the record it is from."""

    title: str
    value: str
    kind: str
    note: str
    evidence: str = ""


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


def identity(entry: Entry) -> Table:
    """Who and what: model, package, profile, pipeline, variant."""
    report = entry.report
    checkpoint, profile, variant = report.checkpoint, report.profile, report.variant
    options = ", ".join(f"{name} = {setting}" for name, setting in sorted(report.pipeline.options.items()))
    return Table(
        columns=("", ""),
        rows=(
            fact("Model", f"{checkpoint.name} ({checkpoint.family}, {text.whole(checkpoint.parameters)} parameters)"),
            fact("Checkpoint", f"{text.value(checkpoint.bytes, 'bytes')}, fingerprint ", checkpoint.fingerprint),
            fact("Package", f"{entry.package}, content SHA-256 ", entry.content_sha256),
            fact("Profile", f"{profile.title} ({profile.name}); accepts {', '.join(profile.accepts)} evidence"),
            fact("Runtime", f"{profile.runtime_package} {profile.runtime_version}, provider {profile.provider}"),
            fact("Pipeline", f"{report.pipeline.name}{': ' + options if options else ''}"),
            fact("Variant", f"{text.value(variant.bytes, 'bytes')}, SHA-256 ", variant.sha256),
        ),
    )


def key_numbers(report: Report) -> tuple[KeyNumber, ...]:
    """The numbers that matter most, taken from the evidence there is; predictions are none of them."""
    found: list[KeyNumber] = []
    drifts = named(Drift, report.evidence)
    for name, _, record in drifts:
        kl, top1 = record.kl_nats, record.top1_agreement_fraction
        over = f", {text.whole(record.positions)} positions" if len(drifts) > 1 else ""
        note = f"± {text.value(kl.standard_error, 'nats', 2)}{over}"
        found.append(KeyNumber("Mean KL divergence", text.value(kl.mean, "nats", 3), record.kind, note, name))
        note = f"± {text.value(top1.standard_error, 'fraction', 2)}{over}"
        found.append(KeyNumber("Top-1 agreement", text.value(top1.mean, "fraction"), record.kind, note, name))
    answers = deciding_answers(report)
    if answers is not None:
        name, overall = _name(report, answers), answers.overall
        note = f"{text.whole(overall.variant_correct)} right, {text.whole(overall.reference_correct)} before"
        recovery = text.value(overall.recovery_fraction, "fraction")
        found.append(KeyNumber("Answer recovery", recovery, answers.kind, note, name))
    found += _times(report)
    bits = f"{number(report.variant.bits_per_weight, 3)} bits per weight"
    found.append(KeyNumber("Variant size", text.value(report.variant.bytes, "bytes", 3), "fact", bits))
    return tuple(found)


def _times(report: Report) -> list[KeyNumber]:
    """Times at the longest prompt, and memory; what was measured before what was not."""
    every = [record for record in report.evidence if isinstance(record, Latency)]
    timed = measured(report) or [record for record in every if record.rows]
    found = []
    if timed:
        longest = max(prompts(timed))
        note = f"p50, prompt of {text.whole(longest)} tokens"
        record, row = deciding_speed(report, timed, longest)
        speed = text.value(row.decode_tokens_per_s_p50, "tokens/s", 3)
        found.append(KeyNumber("Decode speed", speed, record.kind, note, _name(report, record)))
        record, row = deciding_start(report, timed, longest)
        first = text.value(row.ttft_p50_ms, "ms", 3)
        found.append(KeyNumber("Time to first token", first, record.kind, note, _name(report, record)))
    if every:
        record = deciding_memory(report, timed or every)
        peak = text.value(record.peak_anon_bytes, "bytes", 3)
        note = f"{text.value(record.peak_rss_bytes, 'bytes', 3)} resident"
        found.append(KeyNumber("Peak anonymous memory", peak, record.kind, note, _name(report, record)))
    return found


def _name(report: Report, record: AnyEvidence) -> str:
    return name_of(record, report.evidence)


def sections(entry: Entry) -> tuple[Section, ...]:
    """All sections below the header, in reading order."""
    report = entry.report
    evidence = report.evidence
    return (
        _budgets(report),
        *_missing(entry),
        *_each(latency, Latency, evidence),
        *_each(memory, Latency, evidence, memory_key),
        *(
            prediction(record, name, added, measured_beside(report, record))
            for name, added, record in named(Prediction, evidence)
        ),
        *(comparison(record, name, added) for name, added, record in named(Comparison, evidence)),
        *_each(drift, Drift, evidence),
        *breakdown(evidence),
        *agreement(evidence),
        *_each(free_running, FreeRunning, evidence),
        *_each(tasks, Tasks, evidence),
        *_each(refusals, Refusals, evidence),
        *_each(probes, Probes, evidence),
        *npu(report),
        _variant(report),
        *_stages(report),
        evidence_list(entry),
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
    return found or (section(None, key(_PLAIN[sort]), ""),)


def _source_of(report: Report, finding: Finding) -> str:
    """The name of the record that a finding was read from; "" where several may be meant."""
    needs = RULES[finding.budget].needs if finding.budget in RULES else "probes"
    names = [
        name
        for name, record in zip(evidence_names(report.evidence), report.evidence, strict=True)
        if record.evidence == needs and record.kind is finding.kind
    ]
    return names[0] if len(names) == 1 else ""


def _missing(entry: Entry) -> tuple[Section, ...]:
    found = missing(entry)
    if not found:
        return ()
    rows = tuple(
        (word(item.what), word(item.where), code(item.command) if item.command else word(text.NONE)) for item in found
    )
    table = Table(columns=("Not known", "Where it can be had", "Command"), rows=rows, stacked=True)
    intro = "What no evidence here shows. A number that was not measured is never filled in."
    return (Section("missing", "What is missing", intro, tables=(table,)),)


def _budgets(report: Report) -> Section:
    rows = tuple(
        (
            word(text.budget_title(finding.budget)),
            num(text.bound(finding.budget, finding.limit)),
            num(text.found(finding.budget, finding.value)),
            kind_of(finding.kind, _source_of(report, finding)) if finding.value is not None else word(text.NONE),
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


def _stages(report: Report) -> tuple[Section, ...]:
    if not report.stages:
        return ()
    rows = tuple(
        (word(stage.stage), num(text.duration(stage.seconds)), word("reused" if stage.reused else "built"))
        for stage in report.stages
    )
    tables = (Table(columns=("Stage", "Time", "Result"), rows=rows),)
    intro = "Time each stage of the build took; a reused stage was found in the store."
    return (Section("stages", "Build", intro, kind="fact", tables=tables),)


def _limits(report: Report) -> Section:
    intro = "" if report.limits else "Nothing is recorded here, which does not mean that there are no limits."
    return Section("limits", "What this does not show", intro, points=report.limits)
