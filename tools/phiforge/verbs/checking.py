"""Every check a release makes of each profile: the verdict, the licences of questions, and the previous release."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from phiforge import errors
from phiforge.gate import Finding, Outcome
from phiforge.machine import describe_machine, tool_versions
from phiforge.release.licences import check_questions
from phiforge.release.regressions import find_regressions
from phiforge.release.standings import counts, runs_by, runtimes_apart
from phiforge.selection import RUNTIME_WHEELS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from phiforge.evidence import Comparison
    from phiforge.verbs.standing import Judged
    from phiforge.verbs.watch import Stages

KEPT = "profile-kept"
# What a release waits for each comparison; one that takes longer is for `phiforge compare`.
COMPARISON_SECONDS_MAX = 600.0


@dataclass(frozen=True, kw_only=True)
class Checked:
    """The checks of each profile, those that must pass, and the comparisons that were made here for them."""

    checks: Mapping[str, tuple[Finding, ...]]
    required: tuple[str, ...]
    compared: Mapping[str, Comparison] = field(default_factory=dict)

    def unpassed(self, profile: str) -> list[Finding]:
        """The checks of a profile that did not pass."""
        return [item for item in self.checks[profile] if item.outcome is not Outcome.PASS]


def check_profiles(
    profiles: Mapping[str, Judged], before: Mapping[str, Judged] | None, require: Sequence[str], stages: Stages
) -> Checked:
    """Check each profile of a package, against the previous release if there is one.

    Where no comparison of time was brought and this machine is of the profile's kind, it is made here.

    Args:
        profiles: The package's, as they were judged.
        before: The previous release's.
        require: Those that must pass; all of them by default, and those that the previous release had.
        stages: Told of the comparisons.

    Raises:
        ProfileUnknownError: A required profile is in neither.
    """
    lost = [name for name in before or {} if name not in profiles]
    known = [*profiles, *lost]
    for name in require:
        if name not in known:
            raise errors.ProfileUnknownError(
                f"The release is to require {name!r}, which the package is not for.",
                why=f"It is for {', '.join(profiles)}.",
                fix="Name one of these with --require, or leave it out to require all of them.",
            )
    compared: dict[str, Comparison] = {}
    checks: dict[str, tuple[Finding, ...]] = {name: (_lost(name),) for name in lost}
    for name, item in profiles.items():
        own = [*item.report.verdict.findings, *check_questions(item.evidence)]
        if before is not None and name in before:
            comparison, why = _compare_here(item, before[name], stages)
            if comparison is not None:
                compared[name] = comparison
            made = [*item.comparisons, *([comparison] if comparison else [])]
            found = find_regressions(item.standing(), before[name].standing(), item.profile.regression, made)
            own += [_explained(finding, why) for finding in found]
        checks[name] = tuple(own)
    return Checked(checks=checks, required=tuple(require) or tuple(known), compared=compared)


def _compare_here(new: Judged, old: Judged, stages: Stages) -> tuple[Comparison | None, str]:
    """Measure both variants in turn, if nobody did and this machine can; otherwise say why not.

    Both would run by what is installed here; so it must be what both releases run by.
    """
    sides, standings = (new.record.sha256, old.record.sha256), (new.standing(), old.standing())
    if any(counts(item, *standings) for item in new.comparisons):
        return None, ""
    # The reason is told with the finding: no comparison could help.
    if sides[0] == sides[1] or runtimes_apart(*standings):
        return None, ""
    if any((item.variant_sha256, item.against_sha256) == sides for item in new.comparisons):
        return None, f"The comparison of both does not count: it was not made by {new.runtime}."
    fits = new.profile.hardware.architecture == describe_machine().process_architecture
    if new.record.provider != "cpu" or not fits:
        return None, f"This machine is none of {new.profile.name}; run `phiforge compare` on one."
    installed = tool_versions(RUNTIME_WHEELS)
    if not runs_by(installed.items(), new.runtime):
        return None, f"{new.runtime} is not what is installed here; run `phiforge compare` where it is."
    # Imported here: it needs the runtime.
    from phiforge.validation.comparison import compare_folders

    try:
        with stages.timed(f"compare {new.profile.name}"):
            found = compare_folders(
                new.folder,
                old.folder,
                new_sha256=sides[0],
                old_sha256=sides[1],
                allowed_fraction=new.profile.regression.slowdown_fraction_max,
                seconds_max=COMPARISON_SECONDS_MAX,
                threads=new.profile.measure.threads,
                progress=stages.watcher.advanced,
            )
    except (errors.DependencyMissingError, errors.FallbackError) as error:
        return None, f"{error.what} {error.why}"
    return found, ""


def _explained(finding: Finding, why: str) -> Finding:
    """Say of what could not be compared why it was not."""
    if not why or finding.outcome is not Outcome.UNVERIFIED or finding.value is not None:
        return finding
    return finding.model_copy(update={"reason": f"{finding.reason} {why}"})


def _lost(profile: str) -> Finding:
    reason = f"The previous release is for {profile}, and this package is not."
    return Finding(budget=KEPT, limit=1, value=0, kind=None, outcome=Outcome.UNVERIFIED, reason=reason)
