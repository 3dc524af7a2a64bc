"""Parts of Vega-Lite specifications, as plain dictionaries.

A specification holds no data: that stands apart, so that charts alike share one specification. Colours are variables of
the page's style sheet, so that a chart follows its colour scheme.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Sequence

Spec: TypeAlias = dict[str, Any]
Datum: TypeAlias = dict[str, "str | float | None"]

# Told apart in every common colour blindness (after Okabe and Ito), and without colour by dash or by their labels.
BLUE, ORANGE, GREY, INK = "var(--blue)", "var(--orange)", "var(--grey)", "var(--ink)"
OUTCOMES = {"pass": BLUE, "fail": ORANGE, "unverified": GREY}
HEIGHT = 220
_DASHES = ([5, 3], [2, 3], [8, 3], [1, 2])


@dataclass(frozen=True)
class Chart:
    """One chart: what it shows, its specification, and its data.

    Attributes:
        title: What is drawn, in words.
        kind: The kind of the evidence; "" where each mark says its own.
        evidence: The name of the record it is drawn from.
        spec: A Vega-Lite specification without data.
        data: What is drawn; every row has the keys of the first.
    """

    title: str
    kind: str
    evidence: str
    spec: Spec
    data: tuple[Datum, ...]


def axis(title: str, *, grid: bool = True, **more: Any) -> Spec:
    """An axis with a title and few ticks."""
    return {"title": title, "grid": grid, "tickCount": 5, **more}


def quantity(field: str, title: str, *, grid: bool = True, scale: Spec | None = None, **more: Any) -> Spec:
    """A channel of numbers, with its axis."""
    channel: Spec = {"field": field, "type": "quantitative", "axis": axis(title, grid=grid, **more)}
    return channel if scale is None else {**channel, "scale": scale}


def log_scale(first: float, last: float, *, nice: bool = False) -> Spec:
    """A logarithmic scale to the base 2, as prompt lengths and positions have it."""
    return {"type": "log", "base": 2, "nice": nice, "domain": [first, last]}


def name_axis(title: str, order: Sequence[str], field: str = "name") -> Spec:
    """A channel of names in a given order."""
    return {
        "field": field,
        "type": "nominal",
        "sort": list(order),
        "axis": {"title": title, "grid": False, "labelLimit": 140, "labelAngle": 0},
    }


def series(names: Sequence[str], dashed: Sequence[str] = ()) -> tuple[Spec, Spec]:
    """Channels that tell lines apart by colour and by dash; the `dashed` ones each in a way of its own."""
    colours = dict(zip(names, (BLUE, ORANGE, GREY, INK), strict=False))
    dashes = {name: _DASHES[list(dashed).index(name)] if name in dashed else [1, 0] for name in names}
    legend: Spec = {"title": None, "orient": "top", "symbolType": "stroke", "symbolStrokeWidth": 2, "symbolSize": 200}
    legend["columns"] = 2  # fits on a phone
    domain = list(names)
    return (
        {
            "field": "series",
            "type": "nominal",
            "scale": {"domain": domain, "range": list(colours.values())},
            "legend": legend,
        },
        {
            "field": "series",
            "type": "nominal",
            "scale": {"domain": domain, "range": list(dashes.values())},
            "legend": legend,
        },
    )


def layers(encoding: Spec, *marks: Spec, height: int = HEIGHT) -> Spec:
    """Marks over one encoding; each is a mark with what it adds to the encoding."""
    return {"height": height, "encoding": encoding, "layer": list(marks)}


def mark(kind: str, encoding: Spec | None = None, **more: Any) -> Spec:
    """One layer."""
    layer: Spec = {"mark": {"type": kind, **more}}
    return layer if encoding is None else {**layer, "encoding": encoding}


def intervals(field: str, title: str, names: Sequence[str], *, neutral: float, bounded: bool) -> Spec:
    """Dots, with the interval `low` to `high` if they are `bounded`, and a line where nothing changed."""
    rows = name_axis("", names)
    reach = {"x": {"field": "low", "type": "quantitative"}, "x2": {"field": "high"}, "y": rows}
    dot = {"x": quantity(field, title, scale={"zero": False}), "y": rows}
    return layers(
        {},
        mark("rule", {"x": {"datum": neutral}}, color="var(--line-strong)", strokeWidth=1.5),
        *([mark("rule", reach, color=BLUE, strokeWidth=2)] if bounded else []),
        mark("point", dot, color=BLUE, filled=True, size=60, opacity=1),
        height=50 + 26 * len(names),
    )
