"""The list of evidence, which every number of a page leads to: files, hashes, machines, conditions."""

from __future__ import annotations

from typing import TYPE_CHECKING

from phiforge.reporting import text
from phiforge.reporting.layout import Cell, Section, Table, code, fact, kind_of, num, word
from phiforge.reporting.names import evidence_names, labels

if TYPE_CHECKING:
    from phiforge.evidence import AnyEvidence, Conditions, Machine
    from phiforge.reporting.schema import Entry, Source

ANCHOR = "evidence-"
_COLUMNS = (
    "Evidence",
    "Kind",
    "File",
    "SHA-256",
    "Taken",
    "Provider",
    "Threads",
    "Data set",
    "Split",
    "Samples",
    "Data hash",
    "Notes",
)


def evidence_list(entry: Entry) -> Section:
    """Where each piece of evidence came from and how it was taken; equal machines and versions are named once."""
    report = entry.report
    records = report.evidence
    if not records:
        return Section("evidence", "Evidence", "There is no evidence.")
    told = tuple(zip(labels(records), records, entry.sources, strict=True))
    listed = Table(
        columns=_COLUMNS,
        rows=tuple(_row(label, record, source) for label, record, source in told),
        stacked=True,
        anchors=tuple(ANCHOR + name for name in evidence_names(records)),
    )
    machines: dict[tuple[tuple[Cell, ...], ...], list[str]] = {}
    for label, record, _ in told:
        machines.setdefault(_machine(record.conditions.machine, record.conditions), []).append(label)
    tables = tuple(
        Table(columns=("", ""), rows=rows, caption=f"Machine and versions for {', '.join(owners)}")
        for rows, owners in machines.items()
    )
    intro = (
        "The files that the numbers above come from, and under which conditions they were taken. Made by phiforge "
        f"{report.phiforge_version}; report schema {report.schema_version}."
    )
    return Section("evidence", "Evidence", intro, tables=(listed, *tables))


def _row(label: str, record: AnyEvidence, source: Source) -> tuple[Cell, ...]:
    given = record.conditions
    taken = given.taken_at
    return (
        word(label),
        kind_of(record.kind),
        Cell(source.file, href=source.href or ""),
        code(text.short_hash(source.sha256)),
        word(text.NONE if taken is None else taken.strftime("%Y-%m-%d %H:%M UTC")),
        word(given.provider),
        num(text.whole(given.threads)),
        word(given.dataset or text.NONE),
        word(given.split or text.NONE),
        num(text.NONE if given.samples is None else text.whole(given.samples)),
        word(text.NONE) if given.dataset_sha256 is None else code(text.short_hash(given.dataset_sha256)),
        word("; ".join(given.notes) or text.NONE),
    )


def _machine(machine: Machine, given: Conditions) -> tuple[tuple[Cell, ...], ...]:
    versions = ", ".join(f"{name} {version}" for name, version in sorted(given.versions.items()))
    architecture = machine.architecture
    if machine.process_architecture != architecture:
        architecture = f"{architecture}, process {machine.process_architecture}"
    cores = f"{text.whole(machine.physical_cores)} cores, {text.whole(machine.logical_cores)} threads"
    return (
        fact("Processor", f"{machine.processor} ({architecture}; {cores})"),
        fact("Memory", text.value(machine.memory_bytes, "bytes")),
        fact("System", machine.system),
        fact("Power", machine.power_source or "not recorded"),
        fact("Versions", versions or "not recorded"),
    )
