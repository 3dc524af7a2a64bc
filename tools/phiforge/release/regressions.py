"""Whether a variant got worse than the previous release by more than its profile allows: pure, numbers to findings.

A number is only worse if the difference is beyond the allowed one and beyond what the errors of both explain. What
cannot be compared is unverified, never a pass.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from phiforge.evidence import Comparison, Kind
from phiforge.gate import Finding, Outcome
from phiforge.intervals import interval_of_median
from phiforge.quantities import number, quantity

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from phiforge.evidence import ComparisonRow
    from phiforge.release.numbers import Reading
    from phiforge.target import Regression

PREFIX = "regression:"
_SEVERITY = (Outcome.PASS, Outcome.UNVERIFIED, Outcome.FAIL)


@dataclass(frozen=True, kw_only=True)
class Standing:
    """What is known of one variant on one profile in one release; `runtime` is what the profile runs it by."""

    profile: str
    variant_sha256: str
    runtime: str
    readings: tuple[Reading, ...]


@dataclass(frozen=True)
class Guard:
    """How one number is guarded.

    Attributes:
        allowed: The field of `Regression` that limits it.
        worse: Which way is worse.
        relative: Whether the limit is a share of the earlier number; otherwise it is of the difference itself.
        same: What must be alike for two of them to be compared, in words.
    """

    allowed: str
    worse: Literal["higher", "lower"]
    relative: bool
    same: str


GUARDS: dict[str, Guard] = {
    "variant_bytes": Guard("variant_bytes_growth_fraction_max", "higher", True, ""),
    "kl_mean_nats": Guard("kl_mean_growth_fraction_max", "higher", True, "on other texts"),
    "kl_p99_nats": Guard("kl_p99_growth_fraction_max", "higher", True, "on other texts"),
    "top1_agreement_fraction": Guard("top1_agreement_loss_fraction_max", "lower", False, "on other texts"),
    "answer_recovery_fraction": Guard("answer_recovery_loss_fraction_max", "lower", False, "on other questions"),
    "peak_anon_bytes": Guard("peak_anon_bytes_growth_fraction_max", "higher", True, "on another machine"),
}
# The fields of `Regression` for time, and the metric of a comparison, by the number's name.
TIMES = {
    "ttft_ms": ("ttft_slowdown_fraction_max", "ttft", "Time to first token"),
    "decode_tokens_per_s": ("decode_slowdown_fraction_max", "decode", "Time per decoded token"),
}


def find_regressions(
    new: Standing, old: Standing, allowed: Regression, comparisons: Sequence[Comparison] = ()
) -> tuple[Finding, ...]:
    """Return a finding for each number of the previous release, named `regression:<number>`.

    Time is judged by what measured both in turn on one machine, where there is such a comparison. Otherwise by what the
    same machine measured of each.

    Args:
        new: The variant to be released.
        old: The same profile's variant of the previous release.
        allowed: How much worse it may be.
        comparisons: Interleaved measurements; those of other variants than these two are passed over.
    """
    found = []
    for metric in GUARDS:
        found += _guarded(metric, new, old, float(getattr(allowed, GUARDS[metric].allowed)))
    own = [item for item in comparisons if _is_of(item, new, old)]
    for metric in TIMES:
        found += _timed(metric, new, old, float(getattr(allowed, TIMES[metric][0])), own)
    return tuple(found)


def _is_of(comparison: Comparison, new: Standing, old: Standing) -> bool:
    sides = (comparison.variant_sha256, comparison.against_sha256)
    return comparison.kind is Kind.MEASURED and sides == (new.variant_sha256, old.variant_sha256)


def _guarded(metric: str, new: Standing, old: Standing, allowed: float) -> list[Finding]:
    """A finding for each kind of evidence that the previous release has."""
    found = []
    for kind in dict.fromkeys(item.number.kind for item in old.readings if item.number.metric == metric):
        before = _of(old, metric, kind)
        after = {item.basis: item for item in _of(new, metric, kind)}
        pairs = [(after[item.basis], item) for item in before if item.basis in after]
        if pairs:
            found.append(_worst(_compared(GUARDS[metric], now, then, allowed) for now, then in pairs))
        elif kind is not None and metric == "peak_anon_bytes" and new.variant_sha256 == old.variant_sha256:
            found.append(_finding(metric, allowed, None, kind, Outcome.PASS, f"{_title(before)}: the same files."))
        else:
            why = f"was measured {GUARDS[metric].same}" if after else f"is not known of this release ({kind})"
            found.append(_incomparable(metric, _title(before), why, allowed, kind))
    return found


def _compared(guard: Guard, new: Reading, old: Reading, allowed: float) -> Finding:
    metric, unit, kind = new.number.metric, new.number.unit, new.number.kind
    after, before = new.number.value, old.number.value
    change = after - before if guard.worse == "higher" else before - after
    worsening = _share(change, before) if guard.relative else change
    said = f"{new.number.title}{'' if kind is None else f' ({kind})'}: {quantity(before, unit)} before, "
    said += f"{quantity(after, unit)} now"
    limit = f"{number(100 * allowed)} {'%' if guard.relative else 'percentage points'}"
    amount = _amount(worsening, guard)
    if not math.isfinite(after):
        outcome, reason = Outcome.FAIL, f"{said}, which is no finite number."
    elif not worsening > allowed:
        outcome, reason = Outcome.PASS, f"{said}; allowed to be {limit} worse."
    elif not _beyond_noise(new, old, guard):
        outcome, reason = Outcome.PASS, f"{said}: {amount} worse, which the errors of both explain."
    else:
        outcome, reason = Outcome.FAIL, f"{said}: {amount} worse, allowed are {limit}."
    return _finding(metric, allowed, worsening, kind, outcome, reason)


def _share(change: float, before: float) -> float:
    if before:
        return change / abs(before)
    return math.copysign(math.inf, change) if change else 0.0


def _amount(worsening: float, guard: Guard) -> str:
    if not guard.relative:
        return f"{number(100 * worsening)} percentage points"
    return f"{number(100 * worsening)} %" if math.isfinite(worsening) else "from nothing to something"


def _beyond_noise(new: Reading, old: Reading, guard: Guard) -> bool:
    """Whether the difference is beyond the combined errors: the root of the sum of both half intervals' squares.

    Both sides were measured on the same texts, whose differences cancel, so this asks for more than it must. A number
    without an interval has no error of its own to hide behind.
    """
    a, b = (new.number, old.number) if guard.worse == "higher" else (old.number, new.number)
    below = a.value - a.low if a.low is not None else 0.0
    above = b.high - b.value if b.high is not None else 0.0
    return a.value - b.value > math.hypot(below, above)


def _timed(
    metric: str, new: Standing, old: Standing, allowed: float, comparisons: Sequence[Comparison]
) -> list[Finding]:
    title = TIMES[metric][2]
    rows = [row for item in comparisons for row in item.rows if row.metric == TIMES[metric][1]]
    if rows:
        return [_worst(_judge_ratio(metric, title, row, allowed) for row in rows)]
    before = _of(old, metric, Kind.MEASURED)
    if not before:
        return []
    if (new.variant_sha256, new.runtime) == (old.variant_sha256, old.runtime):
        reason = f"{title}: the variant's files and its runtime are the same as before."
        return [_finding(metric, 1 + allowed, 1.0, Kind.MEASURED, Outcome.PASS, reason)]
    after = {(item.basis, item.number.where): item for item in _of(new, metric, Kind.MEASURED)}
    pairs = [(after[key], item) for item in before if (key := (item.basis, item.number.where)) in after]
    if pairs:
        return [_worst(_judge_repeats(metric, title, now, then, allowed) for now, then in pairs)]
    why = "was not measured on the machine that measured the previous release" if after else "was not measured"
    return [_incomparable(metric, title, why, allowed, Kind.MEASURED)]


def _judge_ratio(metric: str, title: str, row: ComparisonRow, allowed: float) -> Finding:
    where = f" at a prompt of {row.prompt_tokens:,} tokens"
    low, high = row.ratio_interval.low, row.ratio_interval.high
    rounds = f"in {len(row.ratios)} rounds of both in turn"
    return _by_interval(metric, f"{title}{where}", row.ratio_p50, low, high, allowed, rounds)


def _judge_repeats(metric: str, title: str, new: Reading, old: Reading, allowed: float) -> Finding:
    """Hold the repeats of two runs of one machine against each other."""
    title = f"{title}{new.number.where}"
    # Times as they are, speeds as the time of one token.
    flip = metric == "decode_tokens_per_s"
    sides = [[1 / value if flip else value for value in item.samples if value > 0] for item in (new, old)]
    now, then = (interval_of_median(values) for values in sides)
    if now.low is None or now.high is None or then.low is None or then.high is None:
        return _incomparable(metric, title, "has too few repeats to tell it from noise", allowed, Kind.MEASURED)
    ratio = new.number.value / old.number.value if old.number.value else math.inf
    ratio = 1 / ratio if flip and ratio else ratio
    runs = "by the repeats of two runs of one machine"
    return _by_interval(metric, title, ratio, now.low / then.high, now.high / then.low, allowed, runs)


def _by_interval(
    metric: str, title: str, ratio: float, low: float | None, high: float | None, allowed: float, how: str
) -> Finding:
    """Judge new time over old by its interval: worse beyond doubt, within the limit, or undecided."""
    shown = f"{'?' if low is None else number(low)} to {'?' if high is None else number(high)}"
    said = f"{title} is {number(ratio)} times the earlier one ({shown}, {how})"
    limit = f"allowed are {number(1 + allowed)} times"
    if low is not None and low > 1 + allowed:
        outcome, reason = Outcome.FAIL, f"{said}, {limit}."
    elif high is not None and high <= 1 + allowed:
        outcome, reason = Outcome.PASS, f"{said}, {limit}."
    else:
        again = "measure both in turn with `phiforge compare`, on a quieter machine"
        outcome, reason = Outcome.UNVERIFIED, f"{said}, which does not tell whether it is within the limit: {again}."
    return _finding(metric, 1 + allowed, ratio, Kind.MEASURED, outcome, reason)


def _of(standing: Standing, metric: str, kind: Kind | None) -> list[Reading]:
    return [item for item in standing.readings if (item.number.metric, item.number.kind) == (metric, kind)]


def _title(readings: Sequence[Reading]) -> str:
    return readings[0].number.title


def _worst(findings: Iterable[Finding]) -> Finding:
    return max(findings, key=lambda item: (_SEVERITY.index(item.outcome), item.value or 0.0))


def _incomparable(metric: str, title: str, why: str, allowed: float, kind: Kind | None) -> Finding:
    reason = f"{title} cannot be compared with the previous release: it {why}."
    return _finding(metric, allowed, None, kind, Outcome.UNVERIFIED, reason)


def _finding(
    metric: str, limit: float, value: float | None, kind: Kind | None, outcome: Outcome, reason: str
) -> Finding:
    shown = value if value is not None and math.isfinite(value) else None
    return Finding(budget=f"{PREFIX}{metric}", limit=limit, value=shown, kind=kind, outcome=outcome, reason=reason)
