"""The parts a report is set from: cells, tables, sections. Independent of HTML and of Markdown."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

if TYPE_CHECKING:
    from phiforge.evidence import Kind

Role: TypeAlias = Literal["word", "number", "code", "kind", "pass", "fail", "unverified", "note"]


@dataclass(frozen=True)
class Cell:
    """One cell: text, what it is, a hash or name behind it that is set as code, and where it leads.

    `evidence` is the name of the record a number came from; `href` an address outside the report.
    """

    text: str
    role: str = "word"
    code: str = ""
    evidence: str = ""
    href: str = ""


@dataclass(frozen=True)
class Table:
    """A table; `stacked` ones become one card per row on a narrow screen. Rows are as long as `columns`.

    `anchors` are names that links lead to, one for each row, where there are any.
    """

    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    caption: str = ""
    stacked: bool = False
    anchors: tuple[str, ...] = ()


@dataclass(frozen=True)
class Section:
    """A part of the report with its kind of evidence, "fact" for facts of files, "" where each row shows its own.

    `evidence` is the name of the record that the section shows, if it shows one.
    """

    key: str
    title: str
    intro: str
    kind: str = ""
    tables: tuple[Table, ...] = ()
    points: tuple[str, ...] = ()
    evidence: str = ""


def word(text: str) -> Cell:
    """A cell of prose."""
    return Cell(text)


def num(text: str) -> Cell:
    """A cell with a number, already formatted."""
    return Cell(text, "number")


def code(text: str) -> Cell:
    """A cell with a name or hash."""
    return Cell("", "code", code=text)


def kind_of(kind: Kind | None, evidence: str = "") -> Cell:
    """A cell with a kind of evidence, which leads to the record; None is a fact of the files."""
    return Cell("fact" if kind is None else kind.value, "kind", evidence=evidence)


def fact(name: str, text: str, code: str = "") -> tuple[Cell, ...]:
    """A row of a two-column table of facts."""
    return (Cell(name), Cell(text, code=code))
