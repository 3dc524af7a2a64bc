"""Names that tell pieces of evidence apart: of files, of sections, in tables."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, TypeVar

from phiforge.evidence import Agreement, Kind, Record

if TYPE_CHECKING:
    from collections.abc import Sequence

    from phiforge.evidence import AnyEvidence

_Sort = TypeVar("_Sort", bound=Record)

_TITLES = {
    Kind.MEASURED: ", as measured",
    Kind.EMULATED: " on the emulator",
    Kind.SURROGATE: " on the surrogate",
    Kind.PREDICTED: ", as predicted",
}


def evidence_names(evidence: Sequence[AnyEvidence]) -> tuple[str, ...]:
    """One name for each: the first of a sort has the plain one, as `drift`; then `drift-emulated`, `drift-emulated-2`.

    Agreement always says what it compares, as `agreement-prefill`.
    """
    names: list[str] = []
    for record in evidence:
        name = _plain(record)
        if name in names and not isinstance(record, Agreement):
            name = f"{name}-{record.kind}"
        number = 2
        free = name
        while free in names:
            free, number = f"{name}-{number}", number + 1
        names.append(free)
    return tuple(names)


def name_of(record: AnyEvidence, evidence: Sequence[AnyEvidence]) -> str:
    """The name of a record, which is one of the evidence."""
    return next(name for name, known in zip(evidence_names(evidence), evidence, strict=True) if known is record)


def labels(evidence: Sequence[AnyEvidence]) -> tuple[str, ...]:
    """A short label for each: its sort, with its kind or comparison where the sort alone is not enough.

    Of one kind from several machines, the second and later ones are numbered.
    """
    counts, numbers = Counter(_plain(record) for record in evidence), _numbers(evidence)
    return tuple(
        f"{record.evidence} ({_detail(record)}{number})"
        if isinstance(record, Agreement) or counts[_plain(record)] > 1
        else record.evidence
        for record, number in zip(evidence, numbers, strict=True)
    )


def named(sort: type[_Sort], evidence: Sequence[AnyEvidence]) -> tuple[tuple[str, str, _Sort], ...]:
    """All evidence of one sort: its name, what a title adds to tell it from the others of its sort, the record."""
    found = [
        (name, number, record)
        for name, number, record in zip(evidence_names(evidence), _numbers(evidence), evidence, strict=True)
        if isinstance(record, sort)
    ]
    return tuple(
        (name, f"{_TITLES[record.kind]}{number}" if len(found) > 1 else "", record) for name, number, record in found
    )


def _numbers(evidence: Sequence[AnyEvidence]) -> tuple[str, ...]:
    """What tells records of one sort and kind apart: nothing for the first, ", 2" for the second."""
    seen = Counter[tuple[str, str]]()
    told = []
    for record in evidence:
        seen[_plain(record), record.kind] += 1
        count = seen[_plain(record), record.kind]
        told.append(f", {count}" if count > 1 else "")
    return tuple(told)


def _plain(record: AnyEvidence) -> str:
    return f"agreement-{_detail(record)}" if isinstance(record, Agreement) else record.evidence


def _detail(record: AnyEvidence) -> str:
    if not isinstance(record, Agreement):
        return record.kind.value
    return record.comparison.removeprefix("emulator-").removeprefix("provider-")
