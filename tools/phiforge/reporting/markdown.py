"""The report as Markdown: tables for a release note or a model card."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from phiforge.reporting import content
from phiforge.reporting.matrix import COLUMNS, Matrix, Value, matrix
from phiforge.visible import visible

if TYPE_CHECKING:
    from phiforge.reporting.layout import Cell, Section, Table
    from phiforge.reporting.schema import Entry, Fleet

_SPECIAL = re.compile(r"([\\`*_\[\]|])")


def report_markdown(fleet: Fleet) -> str:
    """Return the report as Markdown text with a final newline: the matrix, then a part for each variant and device."""
    lines = [line for notice in fleet.notices for line in (escape(notice), "")]
    if len(fleet.entries) != 1:
        lines += ["# Models and devices", "", *_matrix(matrix(fleet)), ""]
    for entry in fleet.entries:
        lines += [*_entry(entry), ""]
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).rstrip() + "\n"


def escape(text: str) -> str:
    """Text from files as plain words of one table cell: no markup, no HTML, no line break, nothing unseen."""
    flat = visible(" ".join(text.split()))
    safe = flat.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return _SPECIAL.sub(r"\\\1", safe)


def _matrix(given: Matrix) -> list[str]:
    at = "" if given.prompt_tokens is None else f" Times are p50 at a prompt of {given.prompt_tokens} tokens."
    lines = [f"The kind of evidence stands behind each number.{at}", ""]
    lines += ["| Model | Device | Verdict | " + " | ".join(COLUMNS) + " |", "|---|---|---|" + "---:|" * len(COLUMNS)]
    for row in given.rows:
        cells = [escape(row.model), escape(row.device), f"**{row.outcome}**", *map(_value, row.values)]
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def _value(value: Value) -> str:
    return escape(" ".join(part for part in (value.shown, value.kind, value.note) if part))


def _entry(entry: Entry) -> list[str]:
    report = entry.report
    verdict = report.verdict
    lines = [
        f"# {escape(report.title)}",
        "",
        f"**{verdict.outcome.upper()}** — {content.headline(verdict)}",
        "",
        *(line for notice in report.notices for line in (escape(notice), "")),
        *(f"- **{finding.outcome}**: {escape(finding.reason)}" for finding in content.objections(verdict)),
        "",
        *_table(content.identity(entry)),
        "",
        "| Key number | Value | Evidence | |",
        "|---|---:|---|---|",
    ]
    lines += [
        f"| {escape(key.title)} | {escape(key.value)} | {key.kind} | {escape(key.note)} |"
        for key in content.key_numbers(report)
    ]
    for section in content.sections(entry):
        lines += ["", *_section(section)]
    return lines


def _section(section: Section) -> list[str]:
    lines = [f"## {section.title}", ""]
    if section.kind:
        lines += [f"Evidence: **{section.kind}**", ""]
    lines += [escape(section.intro), "", *(f"- {escape(point)}" for point in section.points)]
    for table in section.tables:
        lines += ["", f"{escape(table.caption)}:", ""] if table.caption else [""]
        lines += _table(table)
    return lines


def _table(table: Table) -> list[str]:
    first = table.rows[0] if table.rows else ()
    rules = ["---:" if cell.role == "number" else "---" for cell in first] or ["---"] * len(table.columns)
    rows = [[escape(name) for name in table.columns], *([_cell(cell) for cell in row] for row in table.rows)]
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    return [lines[0], "|" + "|".join(rules) + "|", *lines[1:]]


def _cell(cell: Cell) -> str:
    words = escape(cell.text)
    if cell.href:
        # Inside angle brackets an address ends at a bracket alone, and brackets are quoted in it.
        return f"[{words}](<{visible(cell.href).replace('|', '%7C').replace('<', '%3C').replace('>', '%3E')}>)"
    if cell.role in ("pass", "fail", "unverified"):
        words = f"**{words}**"
    if not cell.code:
        return words
    # A code span takes no escapes but the table's own, so its delimiter must not occur inside.
    shown = visible(" ".join(cell.code.split())).replace("`", "'").replace("|", "\\|")
    return f"{words} `{shown}`".strip()
