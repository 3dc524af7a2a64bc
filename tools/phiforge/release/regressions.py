"""Whether a variant got worse than the previous release by more than its profile allows: pure, numbers to findings.

An estimate passes only if the upper end of the difference's interval keeps the limit, and fails only if the lower end
is beyond it. What cannot be compared, or not told from noise, is unverified, never a pass.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from phiforge.evidence import Kind
from phiforge.gate import Finding, Outcome, severity
from phiforge.intervals import FEWEST_GROUPS, interval_of_median
from phiforge.quantities import number, quantity, rounded_up
from phiforge.release.differences import needed, worsening
from phiforge.release.standings import comparable, counts, is_same, readings_of, runtimes_apart, unmatched

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from phiforge.evidence import Comparison, ComparisonRow
    from phiforge.release.differences import Difference
    from phiforge.release.numbers import Reading
    from phiforge.release.standings import Standing
    from phiforge.target import Regression

PREFIX = "regression:"


@dataclass(frozen=True)
class Guard:
    """How one number is guarded.

    Attributes:
        allowed: The field of `Regression` that limits it.
        worse: Which way is worse.
        relative: Whether the limit is a share of the earlier number; otherwise it is of the difference itself.
        same: What must be alike for two of them to be compared, in words.
        samples: What it is estimated from, in the plural; "" where it is exact.
        by_block: Whether evidence can have it for each block of text.
    """

    allowed: str
    worse: Literal["higher", "lower"]
    relative: bool
    same: str
    samples: str = ""
    by_block: bool = False


_TEXTS, _BLOCKS, _MACHINE = "on other texts or over another top-k", "blocks of text", "on another machine or runtime"

GUARDS: dict[str, Guard] = {
    "variant_bytes": Guard("variant_bytes_growth_fraction_max", "higher", True, ""),
    "kl_mean_nats": Guard("kl_mean_growth_fraction_max", "higher", True, _TEXTS, _BLOCKS, True),
    "kl_p99_nats": Guard("kl_p99_growth_fraction_max", "higher", True, _TEXTS, _BLOCKS),
    "top1_agreement_fraction": Guard("top1_agreement_loss_fraction_max", "lower", False, _TEXTS, _BLOCKS, True),
    "answer_recovery_fraction": Guard(
        "answer_recovery_loss_fraction_max", "lower", False, "on other questions", "questions"
    ),
    "peak_anon_bytes": Guard("peak_anon_bytes_growth_fraction_max", "higher", True, _MACHINE),
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
    same machine measured of each. Where the runtimes differ, only the latter shows both as they run.

    Args:
        new: The variant to be released.
        old: The same profile's variant of the previous release.
        allowed: How much worse it may be.
        comparisons: Interleaved measurements; those of other variants or runtimes than these two's are passed over.
    """
    found = []
    for metric in GUARDS:
        found += _guarded(metric, new, old, float(getattr(allowed, GUARDS[metric].allowed)))
    own = [item for item in comparisons if counts(item, new, old)]
    for metric in TIMES:
        found += _timed(metric, new, old, float(getattr(allowed, TIMES[metric][0])), own)
    return tuple(found)


def _guarded(metric: str, new: Standing, old: Standing, allowed: float) -> list[Finding]:
    """A finding for each kind of evidence that the previous release has; data that this one lacks leave it open."""
    found = []
    for kind in dict.fromkeys(item.number.kind for item in old.readings if item.number.metric == metric):
        before, after = readings_of(old, metric, kind), readings_of(new, metric, kind)
        pairs = comparable(new, old, metric, kind)
        if metric == "peak_anon_bytes" and is_same(new, old):
            reason = f"{_title(before)}: the same files by the same runtime."
            found.append(_finding(metric, allowed, None, kind, Outcome.PASS, reason))
        elif pairs:
            judged = [_compared(GUARDS[metric], now, then, allowed) for now, then in pairs]
            lost = unmatched(old, metric, kind, pairs)
            why = f"was measured {GUARDS[metric].same} than {len(lost)} of the {len(before)} numbers before"
            judged += [_incomparable(metric, item.number.title, why, allowed, kind) for item in lost]
            found.append(_worst(judged))
        else:
            why = f"was measured {GUARDS[metric].same}" if after else f"is not known of this release ({kind})"
            why += _by_two_runtimes(new, old) if metric == "peak_anon_bytes" else ""
            found.append(_incomparable(metric, _title(before), why, allowed, kind))
    return found


def changed(metric: str, new: Reading, old: Reading) -> float:
    """Return how much worse a number is, as the findings tell it: a share or difference, of time the ratio.

    Args:
        metric: The name of the number, one of `GUARDS` or `TIMES`.
        new: The number of the release to come.
        old: That of the previous one.
    """
    after, before = new.number.value, old.number.value
    if metric in TIMES:
        # Of a speed, the time of one token.
        over, under = (before, after) if metric == "decode_tokens_per_s" else (after, before)
        return over / under if under else math.inf
    change = after - before if GUARDS[metric].worse == "higher" else before - after
    return _share(change, before) if GUARDS[metric].relative else change


def _compared(guard: Guard, new: Reading, old: Reading, allowed: float) -> Finding:
    metric, unit, kind = new.number.metric, new.number.unit, new.number.kind
    after, before = new.number.value, old.number.value
    said = f"{new.number.title}{'' if kind is None else f' ({kind})'}: {quantity(before, unit)} before, "
    said += f"{quantity(after, unit)} now"
    change, bound = after - before if guard.worse == "higher" else before - after, None
    value = changed(metric, new, old)
    if not math.isfinite(after):
        outcome, reason = Outcome.FAIL, f"{said}, which is no finite number."
    elif not math.isfinite(before):
        outcome, reason = Outcome.UNVERIFIED, f"{said}: there is no finite number to hold it against."
    elif guard.samples and new.data is not None and new.data == old.data:
        outcome, reason = Outcome.PASS, f"{said}: unchanged."
    elif guard.samples:
        difference = worsening(new, old, lower_is_worse=guard.worse == "lower")
        outcome, told = _decided(guard, difference, change, before, allowed)
        reason, high = f"{said}: {told}", difference.interval.high
        bound = _share(high, before) if guard.relative and high is not None else high
    else:
        outcome = Outcome.PASS if value <= allowed else Outcome.FAIL
        reason = f"{said}: {_amount(guard, change, before)}, allowed are {_limit(guard, allowed)}."
    return _finding(metric, allowed, value, kind, outcome, reason, bound)


def _decided(guard: Guard, difference: Difference, change: float, before: float, allowed: float) -> tuple[Outcome, str]:
    """Judge the interval of a difference: within the limit, beyond it, or neither with certainty."""
    limit = allowed * abs(before) if guard.relative else allowed
    low, high = difference.interval.low, difference.interval.high
    span = f"{_end(guard, low, before)} to {_end(guard, high, before)}{' %' if guard.relative else ''}"
    how = f"{'paired over ' if difference.paired else ''}{difference.count:,} {guard.samples}"
    told = f"{_amount(guard, change, before)} ({span}, {how})"
    allowed_text = f"allowed are {_limit(guard, allowed)}"
    if high is not None and high <= limit:
        return Outcome.PASS, f"{told}, {allowed_text}."
    if low is not None and low > limit:
        return Outcome.FAIL, f"{told}, {allowed_text}."
    end = high if change <= limit else low
    remedy = _remedy(guard, difference, limit, known=end is not None)
    return Outcome.UNVERIFIED, f"{told}, {allowed_text}, and it cannot be told: {remedy}."


def _remedy(guard: Guard, difference: Difference, limit: float, *, known: bool) -> str:
    """What would decide it; `known` says whether the end of the interval that is near the limit is."""
    if not known and not difference.paired:
        return f"the evidence of one side does not say how sure it is, or has too few {guard.samples}"
    if difference.count < FEWEST_GROUPS and not known:
        return f"these are too few {guard.samples}: {FEWEST_GROUPS} are the fewest"
    if difference.alike:
        return "the differences are all alike, so their error is not known"
    count = needed(difference, limit)
    if count is None:
        return f"no number of {guard.samples} would do, so near the limit it is"
    more = f"about {rounded_up(count):,} {guard.samples} would do if they are like these"
    if guard.by_block and not difference.paired:
        more += "; fewer do where both releases have the values of each block (`phiforge validate`)"
    return more


def _share(change: float, before: float) -> float:
    if before:
        return change / abs(before)
    return math.copysign(math.inf, change) if change else 0.0


def _amount(guard: Guard, change: float, before: float) -> str:
    way = "worse" if change >= 0 else "better"
    if not guard.relative:
        return f"{number(100 * abs(change))} percentage points {way}"
    share = _share(change, before)
    return f"{number(100 * abs(share))} % {way}" if math.isfinite(share) else "from nothing to something"


def _limit(guard: Guard, allowed: float) -> str:
    return f"{number(100 * allowed)} {'%' if guard.relative else 'percentage points'}"


def _end(guard: Guard, end: float | None, before: float) -> str:
    """An end of the interval, in the unit of the amount beside it; above 0 is worse."""
    if end is None:
        return "?"
    return number(100 * (_share(end, before) if guard.relative else end), 3)


def _timed(
    metric: str, new: Standing, old: Standing, allowed: float, comparisons: Sequence[Comparison]
) -> list[Finding]:
    title = TIMES[metric][2]
    rows = [row for item in comparisons for row in item.rows if row.metric == TIMES[metric][1]]
    if rows:
        return [_worst(_judge_ratio(metric, title, row, allowed) for row in rows)]
    if not readings_of(old, metric, Kind.MEASURED):
        return []
    if is_same(new, old):
        reason = f"{title}: the variant's files and its runtime are the same as before."
        return [_finding(metric, 1 + allowed, 1.0, Kind.MEASURED, Outcome.PASS, reason)]
    pairs = comparable(new, old, metric, Kind.MEASURED)
    judged = [_judge_repeats(metric, title, now, then, allowed) for now, then in pairs]
    for item in unmatched(old, metric, Kind.MEASURED, pairs):
        known = any(one.number.where == item.number.where for one in readings_of(new, metric, Kind.MEASURED))
        why = "was not measured on the machine that measured the previous release" if known else "was not measured"
        why += _by_two_runtimes(new, old)
        judged.append(_incomparable(metric, f"{title}{item.number.where}", why, 1 + allowed, Kind.MEASURED))
    return [_worst(judged)]


def _by_two_runtimes(new: Standing, old: Standing) -> str:
    """What to do where the runtimes differ; nothing where they do not."""
    apart = runtimes_apart(new, old)
    if not apart:
        return ""
    return (
        f", and the runtimes differ ({apart}), so that nothing measured by one of them tells of both: measure this "
        "release by its own runtime on a machine that measured the previous one by its own (`phiforge measure` and "
        "--evidence), or waive it by name with a reason"
    )


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
        return _incomparable(metric, title, "has too few repeats to tell it from noise", 1 + allowed, Kind.MEASURED)
    ratio = changed(metric, new, old)
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
        again = "measure again on a quieter machine; both in turn, with `phiforge compare`, if they run by one runtime"
        outcome, reason = Outcome.UNVERIFIED, f"{said}, which does not tell whether it is within the limit: {again}."
    return _finding(metric, 1 + allowed, ratio, Kind.MEASURED, outcome, reason, high)


def _title(readings: Sequence[Reading]) -> str:
    return readings[0].number.title


def _worst(findings: Iterable[Finding]) -> Finding:
    """The worst outcome, then the worst number; a finding without one had none that is finite."""
    return max(
        findings,
        key=lambda item: (severity(item.outcome), math.inf if item.value is None else item.value),
    )


def _incomparable(metric: str, title: str, why: str, limit: float, kind: Kind | None) -> Finding:
    reason = f"{title} cannot be compared with the previous release: it {why}."
    return _finding(metric, limit, None, kind, Outcome.UNVERIFIED, reason)


def _finding(
    metric: str,
    limit: float,
    value: float | None,
    kind: Kind | None,
    outcome: Outcome,
    reason: str,
    bound: float | None = None,
) -> Finding:
    shown, end = (item if item is not None and math.isfinite(item) else None for item in (value, bound))
    return Finding(
        budget=f"{PREFIX}{metric}", limit=limit, value=shown, bound=end, kind=kind, outcome=outcome, reason=reason
    )
