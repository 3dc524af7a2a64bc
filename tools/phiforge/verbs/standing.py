"""Where a package stands: each profile judged on all evidence, with the numbers that releases are compared by."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from phiforge.evidence import Comparison
from phiforge.release.numbers import read_numbers
from phiforge.release.regressions import Standing
from phiforge.verbs.judging import is_foreign, make_report
from phiforge.verbs.merging import read_brought
from phiforge.verbs.package import read_package

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
            readings=read_numbers(self.record.bytes, self.evidence),
        )


def judge_package(package: Path, evidence: Sequence[Path] = ()) -> dict[str, Judged]:
    """Judge a package for each of its profiles, by name.

    Args:
        package: A package, as it was sealed.
        evidence: What was measured elsewhere, as `report` takes it.

    Raises:
        EvidenceInvalidError: A file of the evidence is broken, or of another package, variant or profile.
    """
    inputs = read_package(package)
    brought = read_brought(package, {item.subject.name: item.subject.sha256 for item in inputs}, evidence)
    judged = {}
    for item in inputs:
        records = brought.records.get(item.subject.sha256, {})
        own = tuple(file for file in brought.files if file.variant.name == item.subject.name)
        item = replace(item, evidence=item.evidence | dict(records), brought=own)
        for profile in item.profiles:
            found = item.evidence_for(profile)
            judged[profile.name] = Judged(
                profile=profile,
                record=item.record,
                folder=item.subject.folder,
                evidence=tuple(record for record in found if not is_foreign(record, profile)),
                report=make_report(item.record, profile, found, ()),
            )
    return judged
