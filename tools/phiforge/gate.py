"""The gate: evidence and budgets in, a verdict with reasons out.

Pure: it reads no file and measures nothing. What is not shown by accepted evidence is `unverified`, never a pass.
"""

from __future__ import annotations

import math
from enum import StrEnum
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict

from phiforge import errors
from phiforge.budget_rules import RULES, Reading, Rule
from phiforge.evidence import AnyEvidence, Kind, Probe, Probes
from phiforge.intervals import CONFIDENCE, samples_needed
from phiforge.quantities import Unit, apart, number, quantity, rounded_up

if TYPE_CHECKING:
    from collections.abc import Sequence

    from phiforge.budget_rules import Sampling
    from phiforge.prompt_lengths import PromptLengths
    from phiforge.target import Budgets

__all__ = [
    "RULES",
    "Finding",
    "Lack",
    "Outcome",
    "Unit",
    "Verdict",
    "badness",
    "exit_code",
    "judge",
    "number",
    "quantity",
    "severity",
]


# What every validation looks at, whatever the device and the data.
REQUIRED_PROBES = ("tokenizer", "chat-template", "stop-ids")
_CONFIDENCE = f"{CONFIDENCE * 100:.0f} %"


class Outcome(StrEnum):
    """What a check, or the whole gate, came to."""

    PASS = "pass"
    FAIL = "fail"
    UNVERIFIED = "unverified"


class Lack(StrEnum):
    """Why a budget is unverified although there is a number for it."""

    KIND = "kind"
    PROMPT_LENGTHS = "prompt-lengths"
    SAMPLES = "samples"


class Finding(BaseModel):
    """One check: a budget by its name in `Budgets`, or a blocking probe as `probe:<name>`.

    A budget has one finding for each kind of evidence it is judged on, so that none mixes kinds. A probe's limit is 1
    and its value 1 if it passed, 0 if not. The value is None where there is no finite number. The bound is the end of
    the confidence interval that the limit was held against; None where the number is no estimate or has no such end.
    What is lacking is told of an unverified budget with a number: an accepted kind, a prompt length, else samples.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    budget: str
    limit: float
    value: float | None
    bound: float | None = None
    kind: Kind | None
    outcome: Outcome
    reason: str
    lacking: Lack | None = None


class Verdict(BaseModel):
    """The outcome of the gate and the findings it follows from."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    outcome: Outcome
    findings: tuple[Finding, ...]


def judge(
    budgets: Budgets,
    accepts: Sequence[Kind],
    evidence: Sequence[AnyEvidence],
    *,
    variant_sha256: str,
    variant_bytes: int,
    lengths: PromptLengths | None = None,
) -> Verdict:
    """Judge one variant against the budgets of one profile.

    A number that is estimated from samples passes only if its confidence bound keeps the limit too. Where the value
    keeps it and the bound does not, or the evidence does not say how sure it is, the budget is unverified, and the
    reason says how many samples are needed. All checks must pass, so none needs a correction for their number: the
    verdict's error is at most that of one check (Berger, Technometrics 24:295, 1982).

    Each accepted kind of evidence must keep the budget; of several readings of one kind the worst counts. Readings of a
    kind that is not accepted count only where there is no accepted one, and then leave the budget unverified. A failed
    blocking probe fails whatever its kind.

    A time fails at any prompt length, and passes only if it keeps its limit at every one that the profile measures,
    each with all the tokens decoded after it.

    Args:
        budgets: The limits; an absent one is not judged.
        accepts: The kinds that drift, agreement, answers and probes may be judged on; time and memory need `measured`.
        evidence: Any number of records, all of this variant.
        variant_sha256: The variant that is judged.
        variant_bytes: Its size on disk.
        lengths: The prompts at which times must be known; without them no time passes.

    Raises:
        EvidenceInvalidError: A record belongs to another variant.
    """
    for record in evidence:
        _check_variant(record, variant_sha256)
    limits = [(name, rule, getattr(budgets, name)) for name, rule in RULES.items()]
    findings = [
        finding
        for name, rule, limit in limits
        if limit is not None
        for finding in _judge_budget(
            name, rule, float(limit), accepts, _readings(rule, evidence, variant_bytes), lengths
        )
    ]
    if not findings:
        findings.append(_missing("budgets", "The profile sets no budget, so nothing was judged."))
    findings.extend(_judge_probes(accepts, evidence))
    return Verdict(outcome=max((finding.outcome for finding in findings), key=severity), findings=tuple(findings))


def exit_code(*verdicts: Verdict) -> int:
    """The process exit code of the worst of some verdicts: 0 pass, 4 unverified, 3 fail."""
    worst = max((verdict.outcome for verdict in verdicts), key=severity)
    return {Outcome.PASS: 0, Outcome.FAIL: 3, Outcome.UNVERIFIED: 4}[worst]


def _check_variant(record: AnyEvidence, variant_sha256: str) -> None:
    if record.variant_sha256 == variant_sha256:
        return
    raise errors.EvidenceInvalidError(
        f"The {record.evidence} evidence belongs to another variant.",
        why=f"it was taken on {record.variant_sha256[:12]}, the variant judged is {variant_sha256[:12]}",
        fix="Measure this variant with `phiforge validate` and `phiforge bench`.",
    )


def _readings(rule: Rule, evidence: Sequence[AnyEvidence], variant_bytes: int) -> list[Reading]:
    if rule.needs is None:
        return [Reading(float(variant_bytes), None)]
    return [reading for record in evidence for reading in rule.read(record)]


def _judge_budget(
    name: str,
    rule: Rule,
    limit: float,
    accepts: Sequence[Kind],
    readings: list[Reading],
    lengths: PromptLengths | None,
) -> list[Finding]:
    kinds = (Kind.MEASURED,) if rule.measured_only else tuple(accepts)
    if not readings:
        remedy = "; it must be measured on the device" if rule.measured_only else ""
        reason = f"{rule.title} is not known: there is no {rule.needs} evidence{remedy}."
        return [Finding(budget=name, limit=limit, value=None, kind=None, outcome=Outcome.UNVERIFIED, reason=reason)]
    accepted = [reading for reading in readings if reading.kind is None or reading.kind in kinds]
    of_kind: dict[Kind | None, list[Finding]] = {}
    for reading in accepted or readings:
        of_kind.setdefault(reading.kind, []).append(_judge_reading(name, rule, limit, kinds, reading))
    worst = [
        max(findings, key=lambda finding: (severity(finding.outcome), badness(finding.budget, finding.value)))
        for findings in of_kind.values()
    ]
    return [_at_every_prompt(finding, accepted, lengths) for finding in worst] if rule.by_prompt else worst


def _at_every_prompt(finding: Finding, readings: Sequence[Reading], lengths: PromptLengths | None) -> Finding:
    """The finding, unverified if it would pass and the readings do not cover every prompt length."""
    doubt = _prompt_doubt(readings, lengths)
    if not doubt or not (finding.outcome is Outcome.PASS or finding.lacking is Lack.SAMPLES):
        return finding
    reason = f"{finding.reason.removesuffix('.')}{', but' if finding.lacking is None else ', and'} {doubt}."
    return finding.model_copy(update={"outcome": Outcome.UNVERIFIED, "reason": reason, "lacking": Lack.PROMPT_LENGTHS})


def _prompt_doubt(readings: Sequence[Reading], lengths: PromptLengths | None) -> str:
    """Which prompt lengths the readings lack; "" if none. A reading with fewer tokens decoded covers no length."""
    if lengths is None:
        return "nothing says at which prompt lengths it must be known"
    if not lengths.prompt_tokens:
        return "no prompt length of the profile fits the variant's context"
    told = [reading.tokens for reading in readings if reading.tokens is not None]
    known = {prompt for prompt, decoded in told if decoded >= lengths.decode_tokens}
    lacking = [f"{length:,}" for length in lengths.prompt_tokens if length not in known]
    if not lacking:
        return ""
    return (
        f"it is not known at prompts of {', '.join(lacking)} tokens with {lengths.decode_tokens:,} decoded after each; "
        "measure them with `phiforge bench`, with a longer seconds_max in the profile if that left them out"
    )


def _judge_reading(name: str, rule: Rule, limit: float, kinds: tuple[Kind, ...], reading: Reading) -> Finding:
    value, bound, lacking = reading.value, None, None
    finite = value if value is not None and math.isfinite(value) else None
    # A number that was not measured says so wherever it is told.
    where = reading.where if reading.kind in (None, Kind.MEASURED) else f"{reading.where} ({reading.kind})"
    if reading.kind is not None and reading.kind not in kinds:
        shown = "" if finite is None else f" of {quantity(finite, rule.unit)}{reading.where}"
        outcome, lacking = Outcome.UNVERIFIED, None if finite is None else Lack.KIND
        reason = f"{rule.title}{shown} is {reading.kind}; this budget accepts only {_either(kinds)}."
    elif value is None:
        outcome, reason = Outcome.UNVERIFIED, f"{rule.title} is not known: {reading.absent}."
    elif finite is None:
        outcome, reason = Outcome.FAIL, f"{rule.title}{where} came out as {value}, which is no finite number."
    else:
        sampled = bool(rule.samples) and not reading.once
        outcome, bound, reason = _compare(name, rule, limit, finite, where, reading.sampling, sampled=sampled)
        lacking = Lack.SAMPLES if outcome is Outcome.UNVERIFIED else None
    return Finding(
        budget=name,
        limit=limit,
        value=finite,
        bound=bound,
        kind=reading.kind,
        outcome=outcome,
        reason=reason,
        lacking=lacking,
    )


def _compare(
    name: str, rule: Rule, limit: float, value: float, where: str, sampling: Sampling | None, *, sampled: bool
) -> tuple[Outcome, float | None, str]:
    """Return the outcome for a finite value, the bound it was judged on, and the reason."""
    is_minimum = name.endswith("_min")
    if is_minimum:
        kept, relations, side = value >= limit, ("at least the minimum of", "under the minimum of"), "at least"
    else:
        kept, relations, side = value <= limit, ("within the maximum of", "over the maximum of"), "at most"
    value_text, limit_text = apart(value, limit, rule.unit)
    told = f"{rule.title} is {value_text}{where}, {relations[0 if kept else 1]} {limit_text}"
    if not kept or not sampled:
        return (Outcome.PASS if kept else Outcome.FAIL), None, f"{told}."
    bound = None if sampling is None else _bound(value, sampling, is_minimum=is_minimum)
    if sampling is None or bound is None or not _keeps(bound, limit, is_minimum=is_minimum):
        doubt = _doubt(rule, limit, value, sampling, bound, is_minimum=is_minimum)
        return Outcome.UNVERIFIED, bound, f"{told}, but {doubt}."
    sure = f"with {_CONFIDENCE} confidence it is {side} {apart(bound, limit, rule.unit)[0]}"
    return Outcome.PASS, bound, f"{told}; {sure} ({sampling.count:,} {rule.samples})."


def _bound(value: float, sampling: Sampling, *, is_minimum: bool, count: int | None = None) -> float | None:
    """The end of the interval that a limit is held against, never better than the value itself."""
    interval = sampling.interval if count is None else sampling.at(count)
    end = interval.low if is_minimum else interval.high
    if end is None or not math.isfinite(end):
        return None
    return min(value, end) if is_minimum else max(value, end)


def _keeps(value: float, limit: float, *, is_minimum: bool) -> bool:
    return value >= limit if is_minimum else value <= limit


def _doubt(
    rule: Rule, limit: float, value: float, sampling: Sampling | None, bound: float | None, *, is_minimum: bool
) -> str:
    """Why a value that keeps its limit is not enough, and how many samples would be."""
    if sampling is None:
        return "the evidence does not say how sure that is; measure again"
    if bound is None:
        needed = f": {sampling.fewest:,} are needed" if sampling.fewest > sampling.count else ""
        return f"{sampling.count:,} {rule.samples} give no bound at {_CONFIDENCE} confidence{needed}"

    def enough(count: int) -> bool:
        end = _bound(value, sampling, is_minimum=is_minimum, count=count)
        return end is not None and _keeps(end, limit, is_minimum=is_minimum)

    needed_count = samples_needed(sampling.count, enough)
    remedy = (
        "no number of them would do, so near the limit it is"
        if needed_count is None
        else f"about {rounded_up(needed_count):,} would do if they are like these"
    )
    side = "at least" if is_minimum else "at most"
    return (
        f"with {_CONFIDENCE} confidence only {side} {apart(bound, limit, rule.unit)[0]} "
        f"({sampling.count:,} {rule.samples}; {remedy})"
    )


def _judge_probes(accepts: Sequence[Kind], evidence: Sequence[AnyEvidence]) -> list[Finding]:
    found = [(probe, record.kind) for record in evidence if isinstance(record, Probes) for probe in record.probes]
    blocking = [(probe, kind) for probe, kind in found if probe.blocking]
    if not blocking:
        what = "no blocking probe among the probes evidence" if found else "no probes evidence"
        return [_missing("probes", f"It is not known whether the probes pass: there is {what}.")]
    worst: dict[str, Finding] = {}
    # Accepted kinds come last: a probe that passed on one replaces the same probe left unverified on another.
    for probe, kind in sorted(blocking, key=lambda item: item[1] in accepts):
        finding = _judge_probe(probe, kind, accepts)
        earlier = worst.get(finding.budget)
        if earlier is None or earlier.outcome is not Outcome.FAIL:
            worst[finding.budget] = finding
    order = dict.fromkeys(f"probe:{probe.name}" for probe, _ in blocking)
    lacking = [name for name in REQUIRED_PROBES if f"probe:{name}" not in order]
    return [
        *(worst[name] for name in order),
        *(_missing(f"probe:{name}", f"The probe {name} is not among the probes evidence.") for name in lacking),
    ]


def _judge_probe(probe: Probe, kind: Kind, accepts: Sequence[Kind]) -> Finding:
    if not probe.passed:
        outcome, reason = Outcome.FAIL, f"The probe {probe.name} failed ({kind}): {probe.detail}"
    elif kind not in accepts:
        outcome = Outcome.UNVERIFIED
        reason = f"The probe {probe.name} passed, but is {kind}; this profile accepts only {_either(accepts)}."
    else:
        outcome, reason = Outcome.PASS, f"The probe {probe.name} passed: {probe.detail}"
    return Finding(
        budget=f"probe:{probe.name}",
        limit=1.0,
        value=float(probe.passed),
        kind=kind,
        outcome=outcome,
        reason=reason,
    )


def _missing(name: str, reason: str) -> Finding:
    """A finding that at least one check of this sort is needed and none was there."""
    return Finding(budget=name, limit=1.0, value=None, kind=None, outcome=Outcome.UNVERIFIED, reason=reason)


def _either(kinds: Sequence[Kind]) -> str:
    return " or ".join(kinds) if kinds else "nothing"


def severity(outcome: Outcome) -> int:
    """How much an outcome weighs: of several, the one that weighs most decides."""
    return (Outcome.PASS, Outcome.UNVERIFIED, Outcome.FAIL).index(outcome)


def badness(budget: str, value: float | None) -> float:
    """How bad a value is, comparable within one budget; none, and what is no number, is worst."""
    if value is None or math.isnan(value):
        return math.inf
    return -value if budget.endswith("_min") else value
