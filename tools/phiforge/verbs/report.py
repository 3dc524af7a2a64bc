"""Report: judge a package's evidence again and write its reports, with evidence from elsewhere if there is any."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from phiforge.evidence import load_evidence
from phiforge.packaging.verify import verify_package
from phiforge.reporting import Report, ReportFiles, write_report
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
        evidence: Evidence files that replace the package's own of the same name, as from a measurement on the device.

    Raises:
        PackageTamperedError: The package is not as it was sealed.
        EvidenceInvalidError: A file of the evidence is broken, or of another variant.
    """
    verify_package(package)
    added = {path.name: path.read_text(encoding="utf-8") for path in evidence if load_evidence(path)}
    written = {}
    for item in read_package(package):
        item = replace(item, evidence=item.evidence | added)
        for name, made in item.reports().items():
            written[name] = WrittenReport(report=made, files=write_report(made, output / name))
    return written
