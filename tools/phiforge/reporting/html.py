"""The report as one HTML file: a matrix and a page for each model on each device, no external request."""

from __future__ import annotations

import base64
import hashlib
import re
from collections import Counter
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING

import jinja2
from markupsafe import Markup

from phiforge.evidence import Kind
from phiforge.reporting import charts, content
from phiforge.reporting.matrix import COLUMNS, matrix

if TYPE_CHECKING:
    from phiforge.gate import Finding
    from phiforge.reporting.layout import Section, Table
    from phiforge.reporting.schema import Entry, Fleet
    from phiforge.reporting.specs import Chart

# Before the first page is laid out: without it, all pages would be, to be hidden again.
_EARLY = 'document.documentElement.classList.add("js")'
_BEFORE_UNIT = re.compile(
    r"(?<=\d) (?=(?:%|nats|points|[TGMk]B|bytes|ms|s|min|tokens|\N{MULTIPLICATION SIGN})(?![\w]))|(?<=[±≤≥]) | (?=±)"
)
_NAMES = ("Model", "Device", "Verdict", "Evidence")


@dataclass(frozen=True)
class Figure:
    """A place for a chart: what stands around it, and its number among the page's drawings."""

    title: str
    kind: str
    evidence: str
    number: int


@dataclass(frozen=True)
class Page:
    """What one model on one device shows."""

    entry: Entry
    headline: str
    objections: tuple[Finding, ...]
    identity: Table
    key_numbers: tuple[content.KeyNumber, ...]
    sections: tuple[Section, ...]
    figures: dict[str, list[Figure]]


def report_html(fleet: Fleet) -> str:
    """Return the report as one self-contained HTML document.

    Its Content-Security-Policy allows nothing but its own style and its own scripts, which are named by their hashes:
    a script that came in with a text from a file would not run, even if it were not escaped. Where the drawing library
    is not installed the page has no charts and says so.
    """
    drawings = charts.Drawings()
    pages = [_page(entry, drawings) for entry in fleet.entries]
    drawn = charts.can_draw()
    script, library = _resource("page.js"), _library() if drawn else ""
    table = matrix(fleet)
    return _template().render(
        fleet=fleet,
        pages=pages,
        title=_title(fleet),
        summary=_summary(fleet),
        # A report of one variant opens at its page; the matrix would be one row.
        first=f"/{fleet.entries[0].key}" if len(fleet.entries) == 1 else "/",
        matrix=table,
        columns=(*_NAMES, *COLUMNS),
        kinds=[kind.value for kind in Kind if kind is not Kind.PREDICTED],
        models=sorted({row.model for row in table.rows}),
        devices=sorted({row.device for row in table.rows}),
        drawn=drawn,
        # Safe: the first three are files of this package, and of the library and the data no text ends the element.
        early=Markup(_EARLY),
        style=Markup(_resource("page.css")),
        script=Markup(script),
        library=Markup(library),
        drawings=Markup(drawings.script()),
        licences=_resource("vega_licences.txt"),
        script_hashes=Markup(" ".join(_hash(text) for text in (_EARLY, script, library) if text)),
    )


def _page(entry: Entry, drawings: charts.Drawings) -> Page:
    report = entry.report
    return Page(
        entry=entry,
        headline=content.headline(report.verdict),
        objections=content.objections(report.verdict),
        identity=content.identity(entry),
        key_numbers=content.key_numbers(report),
        sections=content.sections(entry),
        figures=_figures(charts.charts(report), drawings) if charts.can_draw() else {},
    )


def _figures(drawn: dict[str, list[Chart]], drawings: charts.Drawings) -> dict[str, list[Figure]]:
    return {
        key: [Figure(chart.title, chart.kind, chart.evidence, drawings.add(chart)) for chart in found]
        for key, found in drawn.items()
    }


def _title(fleet: Fleet) -> str:
    if len(fleet.entries) == 1:
        report = fleet.entries[0].report
        return f"{report.verdict.outcome.upper()} – {report.title}"
    return f"{len(fleet.entries)} reports of phiforge"


def _summary(fleet: Fleet) -> str:
    """How many models, devices and verdicts there are, in one sentence."""
    outcomes = Counter(entry.report.verdict.outcome.value for entry in fleet.entries)
    said = ", ".join(f"{count} {outcome}" for outcome, count in sorted(outcomes.items()))
    return f"Verdicts: {said}." if said else "There is nothing to report."


@cache
def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["kept"] = _keep_units
    return environment.from_string(_resource("page.html.j2"))


@cache
def _library() -> str:
    """The drawing library as text that can stand inside a script element: nothing in it ends that."""
    text = charts.bundle().replace("\r\n", "\n")
    return re.sub(r"<(?=/script|!--)", r"\\x3c", text, flags=re.IGNORECASE)


@cache
def _resource(name: str) -> str:
    return resources.files("phiforge.reporting").joinpath(name).read_text(encoding="utf-8").replace("\r\n", "\n")


def _hash(script: str) -> str:
    """A script's name in a Content-Security-Policy."""
    digest = base64.b64encode(hashlib.sha256(script.encode("utf-8")).digest()).decode("ascii")
    return f"'sha256-{digest}'"


def _keep_units(text: str) -> str:
    """Keep a number and its unit on one line."""
    return _BEFORE_UNIT.sub("\u00a0", text)
