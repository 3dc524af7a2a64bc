"""The report: JSON with a schema, Markdown, and one HTML file. It shows evidence and computes nothing."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from phiforge.reporting.html import report_html
from phiforge.reporting.markdown import report_markdown
from phiforge.reporting.schema import Report, json_schema, load_report, report_json
from phiforge.store import write_atomically

__all__ = [
    "Report",
    "ReportFiles",
    "json_schema",
    "load_report",
    "report_html",
    "report_json",
    "report_markdown",
    "write_report",
]


class ReportFiles(NamedTuple):
    """The three files of one report."""

    json: Path
    markdown: Path
    html: Path


def write_report(report: Report, folder: Path) -> ReportFiles:
    """Write report.json, report.md and report.html into `folder`, which is made if it is absent.

    Everything is rendered before the first file is written; each file then appears whole or not at all.
    """
    files = ReportFiles(folder / "report.json", folder / "report.md", folder / "report.html")
    texts = (report_json(report), report_markdown(report), report_html(report))
    folder.mkdir(parents=True, exist_ok=True)
    for path, text in zip(files, texts, strict=True):
        write_atomically(path, text)
    return files
