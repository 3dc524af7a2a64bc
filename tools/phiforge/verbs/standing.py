"""Where a package stands: each profile judged on all evidence, with the numbers that releases are compared by."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from phiforge.evidence import Comparison
from phiforge.release.numbers import read_numbers
from phiforge.release.standings import Standing
from phiforge.verbs.judging import counted
from phiforge.verbs.package import read_package, with_brought

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from phiforge.evidence import AnyEvidence
    from phiforge.reporting import Report
    from phiforge.target import Profile
    from phiforge.variant import VariantRecord


@dataclass(frozen=True, kw_only=True)
class Judged:
    """One profile of a package: the variant, the evidence that counts, and the report with the verdict on it."""

    profile: Profile
    record: VariantRecord
    folder: Path
    evidence: tuple[AnyEvidence, ...]
    report: Report

    @property
    def runtime(self) -> str:
        """What the profile runs it by."""
        return f"{self.profile.runtime.package} {self.profile.runtime.version}"

    @property
    def comparisons(self) -> tuple[Comparison, ...]:
        """Measurements against an earlier variant in one run."""
        return tuple(item for item in self.evidence if isinstance(item, Comparison))

    def standing(self) -> Standing:
        """The profile as a release is held against another one."""
        return Standing(
            profile=self.profile.name,
            variant_sha256=self.record.sha256,
            runtime=self.runtime,
            readings=read_numbers(self.record.bytes, self.evidence, self.report.verdict.findings),
        )


def judge_package(package: Path, evidence: Sequence[Path] = ()) -> dict[str, Judged]:
    """Judge a package for each of its profiles, by name.

    Args:
        package: A package, as it was sealed.
        evidence: What was measured elsewhere, as `report` takes it.

    Raises:
        EvidenceInvalidError: A file of the evidence is broken, of another package, variant or profile, was not measured
            as its profile says, or contradicts another one.
    """
    judged = {}
    for item in with_brought(package, read_package(package), evidence):
        reports = item.reports()
        for profile in item.profiles:
            judged[profile.name] = Judged(
                profile=profile,
                record=item.record,
                folder=item.subject.folder,
                evidence=tuple(counted(item.evidence_for(profile), profile)),
                report=reports[profile.name],
            )
    return judged
