"""Charts of drift, answers and budgets."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal

from phiforge.gate import RULES, Finding, Outcome, number
from phiforge.reporting import text
from phiforge.reporting.specs import (
    BLUE,
    INK,
    OUTCOMES,
    Chart,
    Datum,
    axis,
    intervals,
    layers,
    log_scale,
    mark,
    name_axis,
    quantity,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from phiforge.evidence import Drift, FreeRunning, Interval, Percentiles, Tasks

_POWERS_OF_TEN = "datum.value < 0.001 ? format(datum.value, '~e') : format(datum.value, '~g')"
_PERCENT = "format(datum.value * 100, '~f') + ' %'"
_SIGNS = {Outcome.PASS: "✓ pass", Outcome.FAIL: "✗ fail", Outcome.UNVERIFIED: "? unverified"}
# Beyond twice its limit a bar says nothing more; its label says how much, up to tenfold.
_SHARE_MAX, _SAID_MAX = 2.0, 10.0


def kl_by_position(drift: Drift, evidence: str) -> Chart | None:
    """Mean KL by position in the text, with a band of one standard error either way; positions count from 1."""
    bins: list[Datum] = [
        {
            "start": item.start + 1,
            "stop": item.stop + 1,
            "mean": item.kl_nats.mean,
            "low": max(0.0, item.kl_nats.mean - _finite(item.kl_nats.standard_error)),
            "high": item.kl_nats.mean + _finite(item.kl_nats.standard_error),
        }
        for item in drift.kl_by_position
        if math.isfinite(item.kl_nats.mean)
    ]
    if not bins:
        return None
    widths = [item.stop - item.start for item in drift.kl_by_position]
    first, last = drift.kl_by_position[0].start + 1, drift.kl_by_position[-1].stop + 1
    # Bins that grow with the position are made for a logarithmic axis.
    growing = max(widths) >= 4 * min(widths)
    scale = log_scale(first, last) if growing else {"nice": False, "zero": False}
    ticks = {"values": powers_of_four(last)} if growing else {}
    encoding = {
        "x": quantity("start", "Position in the text, tokens", grid=False, scale=scale, **ticks),
        "x2": {"field": "stop"},
    }
    band = {"y": quantity("low", "KL, nats", scale={"zero": True}), "y2": {"field": "high"}}
    spec = layers(
        encoding,
        mark("rect", band, color=BLUE, opacity=0.2),
        mark("rule", {"y": {"field": "mean", "type": "quantitative"}}, color=BLUE, strokeWidth=2.5),
    )
    return Chart("Mean KL by position, ± 1 standard error", drift.kind, evidence, spec, tuple(bins))


def kl_percentiles(drift: Drift, evidence: str) -> Chart | None:
    """Percentiles of KL on a logarithmic axis; those of zero have no place on it and are left out."""
    spec, data = percentiles(drift.kl_percentiles_nats, "KL, nats (logarithmic)", "Percentile of positions")
    return Chart("KL percentiles over positions", drift.kind, evidence, spec, data) if data else None


def percentiles(given: Percentiles, title: str, of: str) -> tuple[dict[str, object], tuple[Datum, ...]]:
    """Percentiles as labelled dots on a logarithmic axis."""
    named = [(name.replace("_", "."), value) for name, value in given.model_dump().items()]
    data: tuple[Datum, ...] = tuple(
        {"name": name, "value": value, "label": text.tiny(number(value, 2))}
        for name, value in named
        if 0 < value < math.inf
    )
    encoding = {
        "x": quantity("value", title, scale={"type": "log", "nice": False, "padding": 24}, labelExpr=_POWERS_OF_TEN),
        "y": name_axis(of, [name for name, _ in named]),
    }
    dots = mark("point", color=BLUE, filled=True, size=55, opacity=1)
    labels = mark("text", {"text": {"field": "label", "type": "nominal"}}, align="left", dx=8)
    return layers(encoding, dots, labels), data


def agreement_by_position(record: FreeRunning, evidence: str) -> Chart | None:
    """Share of generations that are still the reference's, by generated position."""
    data: tuple[Datum, ...] = tuple(
        {"start": item.start + 1, "stop": item.stop + 1, "share": item.agreement_fraction}
        for item in record.agreement_by_position
    )
    encoding = {
        "x": quantity("start", "Generated position, tokens", grid=False, scale={"nice": False, "zero": False}),
        "x2": {"field": "stop"},
        "y": quantity("share", "Still the reference's", scale={"domain": [0, 1]}, labelExpr=_PERCENT),
    }
    spec = layers(encoding, mark("rule", color=BLUE, strokeWidth=3))
    title = "Generations that are still the reference's, by position"
    return Chart(title, record.kind, evidence, spec, data) if data else None


def accuracy_change(tasks: Tasks, evidence: str) -> Chart | None:
    """Change of accuracy by task with its 90 % interval; tasks without an interval have a dot alone."""
    scores = [score for score in (*tasks.scores, tasks.overall) if score.questions]
    data: tuple[Datum, ...] = tuple(
        {
            "name": score.task,
            "change": _change(score.variant_correct, score.reference_correct, score.questions),
            "low": _end(score.accuracy_change_interval_fraction, "low"),
            "high": _end(score.accuracy_change_interval_fraction, "high"),
        }
        for score in scores
    )
    names = [score.task for score in scores]
    spec = intervals("change", "Change of accuracy, points", names, neutral=0, bounded=is_bounded(data))
    return Chart("Change of accuracy, with 90 % intervals", tasks.kind, evidence, spec, data) if data else None


def budgets(findings: Sequence[Finding]) -> Chart | None:
    """How much of each limit is used: value ÷ limit for a maximum, limit ÷ value for a minimum; over 100 % fails."""
    bars = [bar for finding in findings if (bar := _bar(finding)) is not None]
    if not bars:
        return None
    # A budget that is judged on several kinds of evidence has a bar for each, so bars are told apart by their place.
    rows = [str(index) for index in range(len(bars))]
    data = tuple({**bar, "row": row} for bar, row in zip(bars, rows, strict=True))
    widest = max(1.1, *(float(bar["shown"] or 0) for bar in bars))
    colour = {
        "field": "outcome",
        "type": "nominal",
        "legend": None,
        "scale": {"domain": list(OUTCOMES), "range": list(OUTCOMES.values())},
    }
    share = {
        "field": "shown",
        "type": "quantitative",
        "scale": {"domain": [0, widest], "nice": False},
        "axis": axis("Share of the limit used", grid=False, values=[0, 0.5, 1, 1.5, 2], labelExpr=_PERCENT),
    }
    encoding = {"y": {"field": "row", "type": "nominal", "sort": rows, "axis": None}}
    named = {"x": {"value": 0}, "text": {"field": "name", "type": "nominal"}}
    told = {"x": {"value": "width"}, "text": {"field": "label", "type": "nominal"}, "color": colour}
    spec = layers(
        encoding,
        mark("bar", {"x": share, "color": colour}, height=7, yOffset=9),
        mark("tick", {"x": {"datum": 1}}, color=INK, thickness=2, size=14, yOffset=9),
        mark("text", named, align="left", dy=-6),
        mark("text", told, align="right", dy=-6),
        height=34 * len(bars),
    )
    return Chart("Share of each limit used", "", "", spec, data)


def is_bounded(data: Sequence[Datum]) -> bool:
    """Whether there is an interval to draw."""
    return any(datum["low"] is not None and datum["high"] is not None for datum in data)


def powers_of_four(last: float) -> list[float]:
    """Every power of four up to `last`, as ticks of a base-2 axis."""
    powers = [1.0]
    while powers[-1] * 4 <= last:
        powers.append(powers[-1] * 4)
    return powers


def _bar(finding: Finding) -> Datum | None:
    if finding.budget not in RULES:
        return None
    share, sign = _share(finding), _SIGNS[finding.outcome]
    if share is None:
        label = f"{sign}, no value"
    else:
        said = "over 1,000 %" if share > _SAID_MAX else f"{number(share * 100, 3)} %"
        label = f"{said} {sign}, {finding.kind or 'fact'}"
    return {
        "name": text.budget_title(finding.budget),
        "shown": min(share or 0.0, _SHARE_MAX),
        "outcome": finding.outcome.value,
        "label": label,
    }


def _share(finding: Finding) -> float | None:
    if finding.value is None:
        return None
    part, whole = finding.value, finding.limit
    if finding.budget.endswith("_min"):
        part, whole = whole, part
    if whole > 0:
        return part / whole
    return 0.0 if part <= 0 else float("inf")


def _change(after: int, before: int, questions: int) -> float:
    return 100 * (after - before) / questions


def _end(interval: Interval | None, name: Literal["low", "high"]) -> float | None:
    """An end of an interval in points; None where there is none."""
    fraction = None if interval is None else interval.low if name == "low" else interval.high
    return None if fraction is None else 100 * fraction


def _finite(error: float) -> float:
    """A standard error as the half width of a band: none where one block of text gives no error."""
    return error if math.isfinite(error) else 0.0
