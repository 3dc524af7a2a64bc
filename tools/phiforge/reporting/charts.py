"""The charts of a page, and how they travel in it: each specification once, data in columns, safe inside a script."""

from __future__ import annotations

import importlib.util
import json
import math
from typing import TYPE_CHECKING, Any

from phiforge.evidence import Comparison, Drift, FreeRunning, Latency, Tasks
from phiforge.reporting import plots, plots_latency
from phiforge.reporting.chosen import prediction_beside, profile_prediction
from phiforge.reporting.names import name_of, named

if TYPE_CHECKING:
    from phiforge.reporting.schema import Report
    from phiforge.reporting.specs import Chart

# One Vega-Lite for all machines, as the library would otherwise take its newest.
_VEGALITE = "6.4"
# Enough for a pixel; the tables hold the numbers.
_DIGITS = 5


def charts(report: Report) -> dict[str, list[Chart]]:
    """The charts of each section of a report, by the section's key."""
    found: dict[str, list[Chart]] = {}

    def add(section: str, *drawn: Chart | None) -> None:
        kept = [chart for chart in drawn if chart is not None]
        if kept:
            found.setdefault(section, []).extend(kept)

    evidence = report.evidence
    add("budgets", plots.budgets(report.verdict.findings))
    for name, _, timed in named(Latency, evidence):
        record = prediction_beside(report, timed)
        add(
            name,
            plots_latency.time_to_first_token(timed, record, name),
            plots_latency.decode_speed(timed, record, name),
            plots_latency.by_position(timed, name),
            plots_latency.between_tokens(timed, name),
            plots_latency.idle(timed, name),
            plots_latency.contention(timed, name),
        )
        add(name.replace("latency", "memory", 1), plots_latency.memory(timed, name))
    predicted = profile_prediction(report)
    if predicted is not None and not report.latency:
        name = name_of(predicted, evidence)
        add(
            name,
            plots_latency.time_to_first_token(None, predicted, name),
            plots_latency.decode_speed(None, predicted, name),
        )
    for name, _, held in named(Comparison, evidence):
        add(name, plots_latency.comparison(held, name))
    for name, _, drift in named(Drift, evidence):
        add(name, plots.kl_by_position(drift, name), plots.kl_percentiles(drift, name))
    for name, _, free in named(FreeRunning, evidence):
        add(name, plots.agreement_by_position(free, name))
    for name, _, answers in named(Tasks, evidence):
        add(name, plots.accuracy_change(answers, name))
    return found


class Drawings:
    """Collects what is drawn on a page; charts that differ in data alone share a specification."""

    def __init__(self) -> None:
        self._specs: dict[str, int] = {}
        self._charts: list[list[Any]] = []

    def add(self, chart: Chart) -> int:
        """Keep a chart and return its number."""
        text = json.dumps(chart.spec, separators=(",", ":"), sort_keys=True, ensure_ascii=False)
        columns = list(chart.data[0])
        rows = [[_short(datum[name]) for name in columns] for datum in chart.data]
        self._charts.append([self._specs.setdefault(text, len(self._specs)), columns, rows])
        return len(self._charts) - 1

    def script(self) -> str:
        """All of it as JSON that can stand inside a script element: no text of it can end that or open a comment."""
        specs = ",".join(self._specs)
        charts = json.dumps(self._charts, separators=(",", ":"), ensure_ascii=False)
        return in_script(f'{{"specs":[{specs}],"charts":{charts}}}')


def in_script(text: str) -> str:
    """JSON with the letters escaped that mean something to HTML, and to old readers of JavaScript."""
    for letter in "<>&\u2028\u2029":
        text = text.replace(letter, f"\\u{ord(letter):04x}")
    return text


def can_draw() -> bool:
    """Whether the drawing library is here; it does not exist for every machine that can run a variant."""
    return importlib.util.find_spec("vl_convert") is not None


def bundle() -> str:
    """Vega, Vega-Lite and Vega-Embed as one script, which sets `vegaEmbed` and asks for nothing."""
    import vl_convert

    made: str = vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;", _VEGALITE)
    return made


def _short(value: str | float | None) -> str | float | None:
    """A number as short as a drawing allows; what is not finite is absent."""
    if not isinstance(value, float):
        return value
    if not math.isfinite(value):
        return None
    if value == 0:
        return 0
    rounded = round(value, _DIGITS - 1 - math.floor(math.log10(abs(value))))
    return int(rounded) if rounded.is_integer() else rounded
