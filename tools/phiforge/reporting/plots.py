"""Charts of a report as SVG text, drawn by Altair and vl-convert in this process, offline and the same every time.

A chart carries its data and axes only; title and kind of evidence belong to the page around it. Importing this module
needs the drawing libraries; `html` does so only where they are installed.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, TypeAlias

import altair as alt
import vl_convert

from phiforge.gate import RULES, Finding, Outcome, number
from phiforge.reporting import text

if TYPE_CHECKING:
    from collections.abc import Sequence

    from phiforge.evidence import Drift, Latency

AnyChart: TypeAlias = alt.Chart | alt.LayerChart | alt.FacetChart
Datum: TypeAlias = dict[str, str | float | None]

# Okabe and Ito's colours, darkened where a thin line or white text needs it: told apart in every common colour
# blindness, and in grey by dash or shape.
BLUE, ORANGE, GREY = "#0b5f95", "#c05600", "#6b7280"
OUTCOME_COLOURS = {Outcome.PASS: BLUE, Outcome.FAIL: ORANGE, Outcome.UNVERIFIED: GREY}
OUTCOME_SIGNS = {Outcome.PASS: "✓ pass", Outcome.FAIL: "✗ fail", Outcome.UNVERIFIED: "? unverified"}

# One Vega-Lite for all machines, as the library would otherwise take its newest.
_VEGALITE = "6.4"
# Of the whole image, axes included, so that charts side by side are scaled alike.
_WIDTH, _HEIGHT = 470, 260
_POWERS_OF_TEN = "datum.value < 0.001 ? format(datum.value, '~e') : format(datum.value, '~g')"
_PERCENT = "format(datum.value * 100, '~f') + ' %'"
# Beyond twice its limit a bar says nothing more; its label says how much, up to tenfold.
_SHARE_MAX, _SAID_MAX = 2.0, 10.0


def kl_by_position(drift: Drift) -> str | None:
    """Mean KL by position in the text, with a band of one standard error either way; positions count from 1."""
    if not drift.kl_by_position:
        return None
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
    widths = [item.stop - item.start for item in drift.kl_by_position]
    first, last = drift.kl_by_position[0].start + 1, drift.kl_by_position[-1].stop + 1
    # Bins that grow with the position are made for a logarithmic axis.
    if max(widths) >= 4 * min(widths):
        scale, ticks = (
            alt.Scale(type="log", base=2, nice=False, domain=[first, last]),
            alt.Axis(values=_powers(last)),
        )
    else:
        scale, ticks = alt.Scale(nice=False, zero=False), alt.Axis(tickCount=6)
    base = _chart(bins).encode(
        x=alt.X("start:Q", scale=scale, axis=_axis(ticks, "Position in the text, tokens", grid=False)), x2="stop:Q"
    )
    value = alt.Y("low:Q", scale=alt.Scale(zero=True), axis=_axis(alt.Axis(tickCount=5), "KL, nats"))
    band = base.mark_rect(color=BLUE, opacity=0.2).encode(y=value, y2="high:Q")
    mean = base.mark_rule(color=BLUE, strokeWidth=2.5).encode(y="mean:Q")
    return _svg(alt.layer(band, mean))


def kl_percentiles(drift: Drift) -> str | None:
    """Percentiles of KL on a logarithmic axis; those of zero have no place on it and are left out."""
    given = drift.kl_percentiles_nats
    named = (
        ("p1", given.p1),
        ("p5", given.p5),
        ("p50", given.p50),
        ("p90", given.p90),
        ("p95", given.p95),
        ("p99", given.p99),
        ("p99.9", given.p99_9),
        ("max", given.max),
    )
    points: list[Datum] = [
        {"name": name, "kl": kl, "label": text.tiny(number(kl, 2))} for name, kl in named if 0 < kl < math.inf
    ]
    if not points:
        return None
    base = _chart(points).encode(
        x=alt.X(
            "kl:Q",
            scale=alt.Scale(type="log", nice=False, padding=20),
            axis=_axis(alt.Axis(tickCount=6, labelExpr=_POWERS_OF_TEN), "KL, nats (logarithmic)"),
        ),
        y=alt.Y(
            "name:N", sort=[name for name, _ in named], axis=_axis(alt.Axis(), "Percentile of positions", grid=False)
        ),
    )
    dots = base.mark_point(color=BLUE, filled=True, size=55, opacity=1)
    labels = base.mark_text(align="left", dx=8).encode(text="label:N")
    return _svg(alt.layer(dots, labels))


def decode_speed(latency: Latency) -> str | None:
    """Decode speed by prompt length."""
    series = [("p50", row.prompt_tokens, row.decode_tokens_per_s_p50) for row in latency.rows]
    series += [("p95", row.prompt_tokens, row.decode_tokens_per_s_p95) for row in latency.rows]
    return _by_prompt(series, "Decode, tokens/s")


def time_to_first_token(latency: Latency) -> str | None:
    """Time to first token by prompt length."""
    series = [("p50", row.prompt_tokens, row.ttft_p50_ms) for row in latency.rows]
    series += [("p95", row.prompt_tokens, row.ttft_p95_ms) for row in latency.rows]
    return _by_prompt(series, "Time to first token, ms")


def memory(latency: Latency) -> str | None:
    """Anonymous and resident memory of the measuring process over time."""
    if not latency.memory:
        return None
    samples = sorted(latency.memory, key=lambda sample: sample.t_s)
    data: list[Datum] = [
        {"series": series, "t": sample.t_s, "gb": amount / 1e9}
        for sample in samples
        for series, amount in (("anonymous", sample.anon_bytes), ("resident", sample.rss_bytes))
    ]
    colour, dash = _two_series("anonymous", "resident")
    chart = _chart(data).mark_line(strokeWidth=2)
    encoded = chart.encode(
        x=alt.X(
            "t:Q", scale=alt.Scale(nice=False), axis=_axis(alt.Axis(tickCount=6), "Time since start, s", grid=False)
        ),
        y=alt.Y("gb:Q", scale=alt.Scale(zero=True), axis=_axis(alt.Axis(tickCount=5), "Memory, GB")),
        color=colour,
        strokeDash=dash,
    )
    return _svg(encoded)


def budgets(findings: Sequence[Finding]) -> str | None:
    """How much of each limit is used: value ÷ limit for a maximum, limit ÷ value for a minimum; over 100 % fails."""
    bars = [bar for finding in findings if (bar := _bar(finding)) is not None]
    if not bars:
        return None
    # A budget that is judged on several kinds of evidence has a bar for each, so bars are told apart by their place.
    rows = [str(index) for index in range(len(bars))]
    bars = [{**bar, "row": row} for bar, row in zip(bars, rows, strict=True)]
    colours = alt.Scale(domain=[outcome.value for outcome in OUTCOME_COLOURS], range=list(OUTCOME_COLOURS.values()))
    widest = max(1.1, *(float(bar["shown"] or 0) for bar in bars))
    base = _chart(bars).encode(y=alt.Y("row:N", sort=rows, axis=None))
    share = alt.X(
        "shown:Q",
        scale=alt.Scale(domain=[0, widest], nice=False),
        axis=_axis(
            alt.Axis(values=[0, 0.25, 0.5, 0.75, 1, 1.5, 2], labelExpr=_PERCENT), "Share of the limit used", grid=False
        ),
    )
    colour = alt.Color("outcome:N", scale=colours, legend=None)
    drawn = base.mark_bar(height=8, yOffset=8).encode(x=share, color=colour)
    titles = base.mark_text(align="left", dy=-6).encode(x=alt.value(0), text="name:N")
    results = base.mark_text(align="right", dy=-6).encode(x=alt.value("width"), text="label:N", color=colour)
    limit = base.mark_tick(color="#111827", thickness=2, size=15, yOffset=8).encode(x=alt.datum(1))
    return _svg(alt.layer(drawn, limit, titles, results), height=50 + 34 * len(bars))


def _bar(finding: Finding) -> Datum | None:
    if finding.budget not in RULES:
        return None
    share, sign = _share(finding), OUTCOME_SIGNS[finding.outcome]
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


def _by_prompt(series: Sequence[tuple[str, int, float]], title: str) -> str | None:
    if not series:
        return None
    data: list[Datum] = [
        {"series": name, "prompt": prompt, "value": value} for name, prompt, value in series if math.isfinite(value)
    ]
    prompts = sorted({prompt for _, prompt, _ in series})
    scale = alt.Scale(type="log", base=2, domain=[prompts[0] / 1.3, prompts[-1] * 1.3], nice=False)
    colour, dash = _two_series("p50", "p95")
    chart = _chart(data).encode(
        x=alt.X(
            "prompt:Q", scale=scale, axis=_axis(alt.Axis(values=prompts, format=",~f"), "Prompt, tokens", grid=False)
        ),
        y=alt.Y("value:Q", scale=alt.Scale(zero=True), axis=_axis(alt.Axis(tickCount=5, format=",~f"), title)),
        color=colour,
        strokeDash=dash,
    )
    lines = chart.mark_line(strokeWidth=2)
    points = chart.mark_point(size=45, filled=True, opacity=1)
    return _svg(alt.layer(lines, points))


def _two_series(first: str, second: str) -> tuple[alt.Color, alt.StrokeDash]:
    """Tell two lines apart by colour and by dash."""
    names = [first, second]
    legend = alt.Legend(title=None, orient="top", symbolType="stroke", symbolStrokeWidth=2, symbolSize=300)
    return (
        alt.Color("series:N", scale=alt.Scale(domain=names, range=[BLUE, ORANGE]), legend=legend),
        alt.StrokeDash("series:N", scale=alt.Scale(domain=names, range=[[1, 0], [5, 3]]), legend=legend),
    )


def _chart(values: Sequence[Datum]) -> alt.Chart:
    return alt.Chart({"values": list(values)})


def _axis(axis: alt.Axis, title: str, *, grid: bool = True) -> alt.Axis:
    axis.title, axis.grid = title, grid
    return axis


def _finite(error: float) -> float:
    """A standard error as the half width of a band: none where one block of text gives no error."""
    return error if math.isfinite(error) else 0.0


def _powers(last: float) -> list[float]:
    """Every power of four up to `last`, as ticks of a base-2 axis."""
    powers = [1.0]
    while powers[-1] * 4 <= last:
        powers.append(powers[-1] * 4)
    return powers


def _svg(chart: AnyChart, width: int = _WIDTH, height: int = _HEIGHT) -> str:
    config = {
        "aria": False,
        "background": "transparent",
        "font": "DejaVu Sans",
        "padding": 4,
        "autosize": {"type": "fit", "contains": "padding"},
        "view": {"stroke": None},
        "axis": {
            "labelColor": "#374151",
            "titleColor": "#374151",
            "labelFontSize": 11,
            "titleFontSize": 11,
            "titleFontWeight": "normal",
            "titlePadding": 8,
            "gridColor": "#e5e7eb",
            "domainColor": "#9ca3af",
            "tickColor": "#9ca3af",
        },
        "text": {"fontSize": 11, "color": "#374151"},
        "legend": {"labelFontSize": 11, "labelColor": "#374151"},
    }
    spec = chart.properties(width=width, height=height).to_dict()
    spec["config"] = config
    return vl_convert.vegalite_to_svg(spec, vl_version=_VEGALITE, allowed_base_urls=[])
