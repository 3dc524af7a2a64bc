"""The report: JSON with a schema, Markdown, one HTML file, and forms for other tools. It shows evidence."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from phiforge.reporting.exports import llama_bench_json, perf_yaml
from phiforge.reporting.html import report_html
from phiforge.reporting.markdown import report_markdown
from phiforge.reporting.schema import (
    Entry,
    Fleet,
    Report,
    Source,
    json_schema,
    load_report,
    make_entry,
    make_fleet,
    report_json,
)
from phiforge.store import write_atomically

__all__ = [
    "Entry",
    "Fleet",
    "Report",
    "ReportFiles",
    "Source",
    "json_schema",
    "llama_bench_json",
    "load_report",
    "make_entry",
    "make_fleet",
    "perf_yaml",
    "report_html",
    "report_json",
    "report_markdown",
    "write_report",
]


class ReportFiles(NamedTuple):
    """The files of one report; the last two are for other tools."""

    json: Path
    markdown: Path
    html: Path
    llama_bench: Path
    perf: Path


def write_report(fleet: Fleet, folder: Path) -> ReportFiles:
    """Write a report into `folder`, which is made if it is absent.

    Everything is rendered before the first file is written; each file then appears whole or not at all.
    """
    names = ("report.json", "report.md", "report.html", "llama-bench.json", "perf.yaml")
    files = ReportFiles(*(folder / name for name in names))
    render = (report_json, report_markdown, report_html, llama_bench_json, perf_yaml)
    texts = [made(fleet) for made in render]
    folder.mkdir(parents=True, exist_ok=True)
    for path, text in zip(files, texts, strict=True):
        write_atomically(path, text)
    return files
