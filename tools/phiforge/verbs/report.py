"""Report: judge a package's evidence again and write its reports, with evidence from elsewhere if there is any."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from phiforge.packaging.verify import verify_package
from phiforge.reporting import Report, ReportFiles, write_report
from phiforge.verbs.merging import read_brought
from phiforge.verbs.output import prepare_output
from phiforge.verbs.package import read_package

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class WrittenReport:
    """One report and where it was written."""

    report: Report
    files: ReportFiles


def report(package: Path, *, output: Path, evidence: Sequence[Path] = ()) -> dict[str, WrittenReport]:
    """Write the report of a package for each of its device profiles.

    Args:
        package: A package, which must be as it was sealed.
        output: Folder for the reports; each profile gets a folder of its name in it.
        evidence: What was measured elsewhere. Files of `phiforge measure` count beside the package's own evidence, as
            `merging.merge` has it, for the profile they name. A single record, as of `phiforge bench`, replaces the
            package's own of the same name.

    Raises:
        PackageTamperedError: The package is not as it was sealed.
        EvidenceInvalidError: A file of the evidence is broken or was changed, or is of another package, variant or
            profile.
        OutputUnwritableError: The output folder cannot be written.
    """
    verify_package(package)
    inputs = read_package(package)
    brought = read_brought(package, {item.subject.name: item.subject.sha256 for item in inputs}, evidence)
    prepare_output(output)
    written = {}
    for item in inputs:
        records = brought.records.get(item.subject.sha256, {})
        own = tuple(file for file in brought.files if file.variant.name == item.subject.name)
        item = replace(item, evidence=item.evidence | dict(records), brought=own)
        for name, made in item.reports().items():
            written[name] = WrittenReport(report=made, files=write_report(made, output / name))
    return written
