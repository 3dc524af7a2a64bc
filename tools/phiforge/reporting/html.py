"""The report as one HTML file: no script, no external request, charts inside."""

from __future__ import annotations

import importlib.util
import re
from dataclasses import dataclass
from importlib import resources
from typing import TYPE_CHECKING

import jinja2
from markupsafe import Markup

from phiforge.evidence import Drift, Latency
from phiforge.reporting import content
from phiforge.reporting.names import named

if TYPE_CHECKING:
    from phiforge.reporting.schema import Report


_BEFORE_UNIT = re.compile(
    r"(?<=\d) (?=(?:%|nats|points|[TGMk]B|bytes|ms|s|min|tokens|\N{MULTIPLICATION SIGN})(?![\w]))|(?<=[±≤≥]) | (?=±)"
)


@dataclass(frozen=True)
class Figure:
    """A chart with what stands around it; `svg` is safe to set as it is."""

    title: str
    kind: str
    svg: Markup


def report_html(report: Report) -> str:
    """Return the report as one self-contained HTML document.

    Where the drawing libraries are not installed the page has no charts and says so.
    """
    template = resources.files("phiforge.reporting").joinpath("template.html.j2").read_text(encoding="utf-8")
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["kept"] = _keep_units
    drawn = _can_draw()
    return environment.from_string(template).render(
        report=report,
        headline=content.headline(report.verdict),
        objections=content.objections(report.verdict),
        identity=content.identity(report),
        key_numbers=content.key_numbers(report),
        sections=content.sections(report),
        figures=_figures(report) if drawn else {},
        drawn=drawn,
    )


def _can_draw() -> bool:
    """Whether the drawing libraries are here; they do not exist for every machine that can run a variant."""
    return all(importlib.util.find_spec(name) is not None for name in ("altair", "vl_convert"))


def _figures(report: Report) -> dict[str, list[Figure]]:
    """The charts of each section, by its key."""
    from phiforge.reporting import plots

    figures: dict[str, list[Figure]] = {}

    def add(section: str, title: str, kind: str, svg: str | None) -> None:
        if svg is not None:
            figures.setdefault(section, []).append(Figure(title, kind, _inline(svg)))

    add("budgets", "Share of each limit used", "", plots.budgets(report.verdict.findings))
    for key, _, drift in named(Drift, report.evidence):
        add(key, "Mean KL by position, ± 1 standard error", drift.kind, plots.kl_by_position(drift))
        add(key, "KL percentiles over positions", drift.kind, plots.kl_percentiles(drift))
    for key, _, latency in named(Latency, report.evidence):
        add(key, "Decode speed by prompt length", latency.kind, plots.decode_speed(latency))
        add(key, "Time to first token by prompt length", latency.kind, plots.time_to_first_token(latency))
        add(content.memory_key(key), "Memory over time", latency.kind, plots.memory(latency))
    return figures


def _keep_units(text: str) -> str:
    """Keep a number and its unit on one line."""
    return _BEFORE_UNIT.sub("\u00a0", text)


def _inline(svg: str) -> Markup:
    """An SVG document as part of an HTML one, where names of XML namespaces have no place."""
    for namespace in (' xmlns="http://www.w3.org/2000/svg"', ' xmlns:xlink="http://www.w3.org/1999/xlink"'):
        svg = svg.replace(namespace, "", 1)
    # Safe: vl-convert escapes every text it sets, and the specification holds no markup.
    return Markup(svg)
