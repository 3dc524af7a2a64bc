"""The sections about what the variant says: answers to tasks, free-running generations, refusals, probes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from phiforge.gate import number
from phiforge.reporting import text
from phiforge.reporting.layout import Cell, Section, Table, code, num, word

if TYPE_CHECKING:
    from phiforge.evidence import Endings, FreeRunning, Probes, RefusalCategory, Refusals, Tasks, TaskScore

_DIVERGENCE = ("p1", "p5", "p50", "p90", "p95", "p99")
_METRICS = {
    "exact-match": "exact match",
    "log-likelihood": "choice by log-likelihood",
    "instructions": "instructions kept",
    "code": "code that passes its tests",
}


def tasks(tasks: Tasks | None, key: str, added: str) -> Section:
    """Accuracy before and after on the tasks, with intervals and flips both ways."""
    title = f"Answers{added}"
    if tasks is None:
        return Section(key, title, "There are no answers to tasks: how the variant answers is not known.")
    scores = (*tasks.scores, tasks.overall)
    columns = (
        "Task",
        "Measured by",
        "Questions",
        "Right before",
        "Right after",
        "Right → wrong",
        "Wrong → right",
        "McNemar p",
        "Change, points",
        "Recovery",
        "Tokens, after ÷ before",
    )
    table = Table(columns=columns, rows=tuple(map(_score, scores)), stacked=True)
    intro = (
        "The reference before and the variant after, on the same questions. Recovery is right after ÷ right before; "
        "McNemar's p asks whether the flips are lopsided. Intervals in parentheses are 90 %. Tokens are the mean "
        "length of an answer: a variant that thinks longer is slower."
    )
    return Section(key, title, intro, kind=tasks.kind, tables=(table, *_sources(tasks)), evidence=key)


def free_running(record: FreeRunning | None, key: str, added: str) -> Section:
    """Where greedy generations of variant and reference part, and how they end."""
    title = f"Free-running generations{added}"
    if record is None:
        intro = "There is no free-running evidence: where long answers part from the reference's is not known."
        return Section(key, title, intro)
    facts = Table(
        columns=("Quantity", "Value"),
        rows=(
            (word("Identical to the reference's"), num(text.share(record.identical, record.prompts))),
            (
                word("Length, variant ÷ reference (90 % interval)"),
                num(f"{number(record.length_ratio, 3)} ({text.interval(record.length_ratio_interval, 'ratio')})"),
            ),
            *((word(f"First divergence, {name}"), num(f"token {_token(record, name)}")) for name in _DIVERGENCE),
        ),
        caption="Where they part",
    )
    endings = Table(
        columns=("Ending", "Reference", "Variant"),
        rows=tuple(
            (word(title), num(_ending(record.reference, name)), num(_ending(record.variant, name)))
            for name, title in (
                ("stopped", "Stopped by itself"),
                ("unfinished", "Not finished at the limit"),
                ("looping", "… of these, repeating itself"),
                ("early", "Stopped before half of the reference's length"),
            )
        ),
        caption=f"How {text.whole(record.prompts)} generations of up to {text.whole(record.limit_tokens)} tokens end",
    )
    intro = (
        "Greedy generations of reference and variant from the same prompts, each going on from its own tokens. A "
        "generation that never differs counts with its length."
    )
    return Section(key, title, intro, kind=record.kind, tables=(facts, endings), evidence=key)


def refusals(record: Refusals | None, key: str, added: str) -> Section:
    """Whether the variant refuses what the reference refuses."""
    title = f"Refusals{added}"
    if record is None:
        return Section(key, title, "There is no evidence on refusals: whether the variant refuses alike is not known.")
    table = Table(
        columns=(
            "Category",
            "Prompts",
            "Both refuse",
            "Both answer",
            "Only the reference refuses",
            "Only the variant refuses",
        ),
        rows=tuple(_refusal(category) for category in record.categories),
        stacked=True,
    )
    agreed = text.value(record.agreement_fraction, "fraction")
    intro = (
        f"Variant and reference agree on {agreed} of the prompts (90 % interval "
        f"{text.interval(record.agreement_interval_fraction, 'fraction')}). Only agreement is shown; nothing is said "
        "of what should be refused."
    )
    return Section(key, title, intro, kind=record.kind, tables=(table,), evidence=key)


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
    return Section(key, title, intro, kind=probes.kind, tables=(table,), evidence=key)


def _score(score: TaskScore) -> tuple[Cell, ...]:
    change = (score.variant_correct - score.reference_correct) / score.questions if score.questions else 0.0
    bounds = score.accuracy_change_interval_fraction
    around = ""
    if bounds is not None and bounds.low is not None and bounds.high is not None:
        around = f" ({text.points(bounds.low, '')} to {text.points(bounds.high, '')})"
    kept = text.interval(score.recovery_interval_fraction, "fraction")
    tokens = "" if score.tokens_per_answer_ratio is None else number(score.tokens_per_answer_ratio, 3)
    ratio = text.interval(score.tokens_per_answer_ratio_interval, "ratio")
    return (
        word(score.task),
        word(text.NONE if score.metric is None else _METRICS[score.metric]),
        num(text.whole(score.questions)),
        num(text.whole(score.reference_correct)),
        num(text.whole(score.variant_correct)),
        num(text.whole(score.flips_to_wrong)),
        num(text.whole(score.flips_to_right)),
        num(text.p_value(score.mcnemar_p)),
        num(f"{text.points(change, '')}{around}"),
        num(f"{text.value(score.recovery_fraction, 'fraction')}{'' if kept == text.NONE else f' ({kept})'}"),
        num(f"{tokens}{'' if ratio == text.NONE else f' ({ratio})'}" if tokens else _lengths(score)),
    )


def _lengths(score: TaskScore) -> str:
    before, after = score.reference_tokens_per_answer, score.variant_tokens_per_answer
    return f"{number(after)} ÷ {number(before)}" if before else text.NONE


def _sources(tasks: Tasks) -> tuple[Table, ...]:
    rows = tuple(
        (
            word(score.task),
            word(score.source.file),
            word(score.source.format),
            word(score.source.split),
            word(score.source.licence),
            code(text.short_hash(score.source.sha256)),
        )
        for score in tasks.scores
        if score.source is not None
    )
    columns = ("Task", "File", "Format", "Split", "Licence", "SHA-256")
    return (Table(columns=columns, rows=rows, caption="Files of the tasks", stacked=True),) if rows else ()


def _token(record: FreeRunning, name: str) -> str:
    return number(getattr(record.first_divergence_percentiles_tokens, name), 3)


def _ending(endings: Endings, name: str) -> str:
    return text.whole(getattr(endings, name))


def _refusal(category: RefusalCategory) -> tuple[Cell, ...]:
    return (
        word(category.category),
        num(text.whole(category.prompts)),
        num(text.whole(category.both_refuse)),
        num(text.whole(category.both_answer)),
        num(text.whole(category.only_reference_refuses)),
        num(text.whole(category.only_variant_refuses)),
    )
