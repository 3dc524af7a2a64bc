"""The gate: evidence and budgets in, a verdict with reasons out.

Pure: it reads no file and measures nothing. What is not shown by accepted evidence is `unverified`, never a pass.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict

from phiforge import errors
from phiforge.evidence import Agreement, AnyEvidence, Drift, Kind, Latency, LatencyRow, Probe, Probes, Tasks

if TYPE_CHECKING:
    from phiforge.target import Budgets

Unit: TypeAlias = Literal["nats", "fraction", "ratio", "bytes", "ms", "tokens/s"]


class Outcome(StrEnum):
    """What a check, or the whole gate, came to."""

    PASS = "pass"
    FAIL = "fail"
    UNVERIFIED = "unverified"


class Finding(BaseModel):
    """One check: a budget by its name in `Budgets`, or a blocking probe as `probe:<name>`.

    A budget has one finding for each kind of evidence it is judged on, so that none mixes kinds. A probe's limit is 1
    and its value 1 if it passed, 0 if not. The value is None where there is no finite number.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    budget: str
    limit: float
    value: float | None
    kind: Kind | None
    outcome: Outcome
    reason: str


class Verdict(BaseModel):
    """The outcome of the gate and the findings it follows from."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    outcome: Outcome
    findings: tuple[Finding, ...]


@dataclass(frozen=True)
class Reading:
    """One number that a budget can be judged on.

    Attributes:
        value: The number, or None where the evidence cannot show one; `absent` then says why.
        kind: How it was come by; None for a fact of the files themselves.
        where: What tells it from other readings of the same budget, as " at a prompt of 512 tokens".
    """

    value: float | None
    kind: Kind | None
    where: str = ""
    absent: str = ""


Reader: TypeAlias = Callable[[AnyEvidence], tuple[Reading, ...]]


@dataclass(frozen=True)
class Rule:
    """How one budget is judged.

    Attributes:
        title: What is limited, in words; begins a sentence.
        unit: The unit of limit and value.
        needs: The sort of evidence it is read from; None for a fact of the files.
        read: Returns the readings one piece of evidence holds, none if it is of another sort.
    """

    title: str
    unit: Unit
    needs: str | None
    read: Reader

    @property
    def measured_only(self) -> bool:
        """Whether only `measured` evidence counts, as for all time and memory."""
        return self.needs == "latency"


def _drift(read: Callable[[Drift], float]) -> Reader:
    def reader(evidence: AnyEvidence) -> tuple[Reading, ...]:
        if not isinstance(evidence, Drift):
            return ()
        if evidence.positions < 1:
            return (Reading(None, evidence.kind, absent="the drift evidence covers no position"),)
        return (Reading(read(evidence), evidence.kind),)

    return reader


def _recovery(evidence: AnyEvidence) -> tuple[Reading, ...]:
    if not isinstance(evidence, Tasks):
        return ()
    overall = evidence.overall
    if overall.reference_correct < 1:
        absent = f"the reference answers none of {overall.questions:,} questions correctly, so there is nothing to keep"
        return (Reading(None, evidence.kind, absent=absent),)
    return (Reading(overall.recovery_fraction, evidence.kind),)


def _against_cpu(what: str) -> Reader:
    """Readings of a comparison of `what` with the CPU, in prefill and in decode."""

    def reader(evidence: AnyEvidence) -> tuple[Reading, ...]:
        if not isinstance(evidence, Agreement) or not evidence.comparison.startswith(f"{what}-"):
            return ()
        where = f" in {evidence.comparison.removeprefix(f'{what}-')}"
        if evidence.positions < 1 or evidence.relative_logit_error is None:
            lacks = "covers no position" if evidence.positions < 1 else "holds no error of the logits"
            return (Reading(None, evidence.kind, where, absent=f"the agreement evidence{where} {lacks}"),)
        return (Reading(evidence.relative_logit_error, evidence.kind, where),)

    return reader


def _float16(evidence: AnyEvidence) -> tuple[Reading, ...]:
    if not isinstance(evidence, Agreement) or evidence.comparison != "float32":
        return ()
    if evidence.positions < 1 or evidence.relative_spread_error is None:
        return (Reading(None, evidence.kind, absent="the agreement evidence against float32 holds no error"),)
    return (Reading(evidence.relative_spread_error, evidence.kind),)


def _latency(read: Callable[[Latency], float]) -> Reader:
    def reader(evidence: AnyEvidence) -> tuple[Reading, ...]:
        return (Reading(read(evidence), evidence.kind),) if isinstance(evidence, Latency) else ()

    return reader


def _rows(read: Callable[[LatencyRow], float]) -> Reader:
    def reader(evidence: AnyEvidence) -> tuple[Reading, ...]:
        if not isinstance(evidence, Latency):
            return ()
        if not evidence.rows:
            return (Reading(None, evidence.kind, absent="the latency evidence has no rows"),)
        return tuple(
            Reading(read(row), evidence.kind, where=f" at a prompt of {row.prompt_tokens:,} tokens")
            for row in evidence.rows
        )

    return reader


def _nothing(_: AnyEvidence) -> tuple[Reading, ...]:
    return ()


RULES: dict[str, Rule] = {
    "kl_mean_nats_max": Rule("Mean KL divergence", "nats", "drift", _drift(lambda d: d.kl_nats.mean)),
    "kl_p99_nats_max": Rule("KL divergence at p99", "nats", "drift", _drift(lambda d: d.kl_percentiles_nats.p99)),
    "top1_agreement_fraction_min": Rule(
        "Top-1 agreement", "fraction", "drift", _drift(lambda d: d.top1_agreement_fraction.mean)
    ),
    "perplexity_ratio_max": Rule("Perplexity ratio", "ratio", "drift", _drift(lambda d: d.perplexity_ratio)),
    "answer_recovery_fraction_min": Rule("Answer recovery", "fraction", "tasks", _recovery),
    "emulator_relative_error_max": Rule(
        "Relative logit error of the emulator", "fraction", "agreement", _against_cpu("emulator")
    ),
    "provider_relative_error_max": Rule(
        "Relative logit error of the provider", "fraction", "agreement", _against_cpu("provider")
    ),
    "float16_relative_error_max": Rule("Relative logit error of float16", "fraction", "agreement", _float16),
    "variant_bytes_max": Rule("Variant size", "bytes", None, _nothing),
    "load_ms_max": Rule("Load time", "ms", "latency", _latency(lambda e: e.load_ms)),
    "ttft_p50_ms_max": Rule("Time to first token (p50)", "ms", "latency", _rows(lambda r: r.ttft_p50_ms)),
    "prefill_tokens_per_s_min": Rule(
        "Prefill speed (p50)", "tokens/s", "latency", _rows(lambda r: r.prefill_tokens_per_s_p50)
    ),
    "decode_tokens_per_s_min": Rule(
        "Decode speed (p50)", "tokens/s", "latency", _rows(lambda r: r.decode_tokens_per_s_p50)
    ),
    "inter_token_p99_ms_max": Rule("Time between tokens (p99)", "ms", "latency", _rows(lambda r: r.inter_token_p99_ms)),
    "peak_anon_bytes_max": Rule("Peak anonymous memory", "bytes", "latency", _latency(lambda e: e.peak_anon_bytes)),
}


def judge(
    budgets: Budgets,
    accepts: Sequence[Kind],
    evidence: Sequence[AnyEvidence],
    *,
    variant_sha256: str,
    variant_bytes: int,
) -> Verdict:
    """Judge one variant against the budgets of one profile.

    Each accepted kind of evidence must keep the budget; of several readings of one kind the worst counts. Readings of a
    kind that is not accepted count only where there is no accepted one, and then leave the budget unverified. A failed
    blocking probe fails whatever its kind.

    Args:
        budgets: The limits; an absent one is not judged.
        accepts: The kinds that drift, agreement, answers and probes may be judged on; time and memory need `measured`.
        evidence: Any number of records, all of this variant.
        variant_sha256: The variant that is judged.
        variant_bytes: Its size on disk.

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
        for finding in _judge_budget(name, rule, float(limit), accepts, _readings(rule, evidence, variant_bytes))
    ]
    if not findings:
        findings.append(_missing("budgets", "The profile sets no budget, so nothing was judged."))
    findings.extend(_judge_probes(accepts, evidence))
    return Verdict(outcome=max((finding.outcome for finding in findings), key=_severity), findings=tuple(findings))


def exit_code(verdict: Verdict) -> int:
    """The process exit code of a verdict: 0 pass, 3 fail, 4 unverified."""
    return {Outcome.PASS: 0, Outcome.FAIL: 3, Outcome.UNVERIFIED: 4}[verdict.outcome]


def quantity(value: float, unit: Unit, digits: int = 4) -> str:
    """A number with its unit, to so many significant digits, as "0.0213 nats", "93.4 %" or "2.94 GB"."""
    match unit:
        case "fraction":
            return f"{number(value * 100, digits)} %"
        case "ratio":
            return number(value, digits)
        case "bytes":
            # Rounding may lift a value to the next power of ten, so the prefix is chosen a hair early.
            for size, prefix in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
                if abs(value) >= size * 0.99995:
                    return f"{number(value / size, digits)} {prefix}"
            return f"{number(value, digits)} bytes"
        case _:
            return f"{number(value, digits)} {unit}"


def number(value: float, digits: int = 4) -> str:
    """A number to so many significant digits: thousands separated, integers whole, tiny ones in powers of ten."""
    if not math.isfinite(value):
        return str(value)
    if value == 0:
        return "0"
    if abs(value) < 1e-4:
        mantissa, exponent = f"{value:.{digits - 1}e}".split("e")
        return f"{_trim(mantissa)}e{int(exponent)}"
    decimals = max(0, digits - 1 - math.floor(math.log10(abs(value))))
    return _trim(f"{value:,.{decimals}f}")


def _trim(text: str) -> str:
    return text.rstrip("0").rstrip(".") if "." in text else text


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
    name: str, rule: Rule, limit: float, accepts: Sequence[Kind], readings: list[Reading]
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
    return [
        max(findings, key=lambda finding: (_severity(finding.outcome), _badness(finding)))
        for findings in of_kind.values()
    ]


def _judge_reading(name: str, rule: Rule, limit: float, kinds: tuple[Kind, ...], reading: Reading) -> Finding:
    value = reading.value
    finite = value if value is not None and math.isfinite(value) else None
    # A number that was not measured says so wherever it is told.
    where = reading.where if reading.kind in (None, Kind.MEASURED) else f"{reading.where} ({reading.kind})"
    if reading.kind is not None and reading.kind not in kinds:
        shown = "" if finite is None else f" of {quantity(finite, rule.unit)}{reading.where}"
        outcome = Outcome.UNVERIFIED
        reason = f"{rule.title}{shown} is {reading.kind}; this budget accepts only {_either(kinds)}."
    elif value is None:
        outcome, reason = Outcome.UNVERIFIED, f"{rule.title} is not known: {reading.absent}."
    elif finite is None:
        outcome, reason = Outcome.FAIL, f"{rule.title}{where} came out as {value}, which is no finite number."
    else:
        outcome, reason = _compare(name, rule, limit, finite, where)
    return Finding(budget=name, limit=limit, value=finite, kind=reading.kind, outcome=outcome, reason=reason)


def _compare(name: str, rule: Rule, limit: float, value: float, where: str) -> tuple[Outcome, str]:
    is_minimum = name.endswith("_min")
    kept = value >= limit if is_minimum else value <= limit
    if is_minimum:
        relation = "at least the minimum of" if kept else "under the minimum of"
    else:
        relation = "within the maximum of" if kept else "over the maximum of"
    value_text, limit_text = _apart(value, limit, rule.unit)
    reason = f"{rule.title} is {value_text}{where}, {relation} {limit_text}."
    return (Outcome.PASS if kept else Outcome.FAIL), reason


def _apart(value: float, limit: float, unit: Unit) -> tuple[str, str]:
    """Both numbers as text, with enough digits that different numbers look different."""
    for digits in range(4, 17):
        texts = quantity(value, unit, digits), quantity(limit, unit, digits)
        if value == limit or texts[0] != texts[1]:
            return texts
    return repr(value), repr(limit)


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
    return [worst[name] for name in order]


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


def _severity(outcome: Outcome) -> int:
    return (Outcome.PASS, Outcome.UNVERIFIED, Outcome.FAIL).index(outcome)


def _badness(finding: Finding) -> float:
    """How far the value is on the wrong side; comparable within one budget. No value is worst."""
    if finding.value is None:
        return math.inf
    return -finding.value if finding.budget.endswith("_min") else finding.value
