"""Waivers: reasons given by name why a release may go out with checks that did not pass."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from phiforge import errors
from phiforge.gate import Outcome
from phiforge.release.layout import Waiver

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from phiforge.gate import Finding


@dataclass(frozen=True)
class Waiving:
    """A waiver as it was given: for the unverified checks of a profile, or for one check by name."""

    profile: str
    check: str | None
    reason: str

    @property
    def name(self) -> str:
        """What it is for, as it was given."""
        return self.profile if self.check is None else f"{self.profile}/{self.check}"


def parse_waiver(text: str) -> Waiving:
    """Read `PROFILE=REASON` or `PROFILE/CHECK=REASON`.

    Raises:
        WaiverInvalidError: There is no reason, or nothing it is for.
    """
    name, _, reason = text.partition("=")
    profile, slash, check = name.strip().partition("/")
    if not profile or (slash and not check):
        raise _invalid(f"The waiver {text!r} names no profile or no check.", "Nothing can be waived without a name.")
    if not any(letter.isalnum() for letter in reason):
        raise _invalid(f"The waiver for {name.strip()} has no reason.", "A waiver is printed with its reason.")
    return Waiving(profile=profile, check=check if slash else None, reason=" ".join(reason.split()))


def apply_waivers(
    waivings: Sequence[Waiving], unpassed: Mapping[str, Sequence[Finding]], known: Mapping[str, Sequence[str]]
) -> tuple[tuple[Waiver, ...], dict[str, list[Finding]]]:
    """Return the waivers with the checks each let through, and what is left unpassed, by profile.

    Args:
        waivings: As they were given.
        unpassed: The checks of each profile that refuse the release.
        known: The names of all checks of each profile.

    Raises:
        WaiverInvalidError: A profile or check is unknown, is waived twice, or needs no waiver. A check that failed is
            waived by its own name alone.
    """
    left = {profile: list(findings) for profile, findings in unpassed.items()}
    used = []
    # One check by name first, so that a waiver for the rest of the profile has the rest.
    for waiving in sorted(waivings, key=lambda item: item.check is None):
        _check_known(waiving, known)
        matched = [item for item in left[waiving.profile] if _covers(waiving, item)]
        if not matched:
            raise _unneeded(waiving, unpassed[waiving.profile])
        left[waiving.profile] = [item for item in left[waiving.profile] if item not in matched]
        names = tuple(dict.fromkeys(item.budget for item in matched))
        used.append(Waiver(profile=waiving.profile, check=waiving.check, reason=waiving.reason, checks=names))
    return tuple(used), left


def _covers(waiving: Waiving, finding: Finding) -> bool:
    if waiving.check is None:
        return finding.outcome is Outcome.UNVERIFIED
    return finding.budget == waiving.check


def _check_known(waiving: Waiving, known: Mapping[str, Sequence[str]]) -> None:
    if waiving.profile not in known:
        named = ", ".join(known) or "none"
        raise _invalid(
            f"There is a waiver for {waiving.profile}, which this release has not.",
            f"Its profiles are {named}.",
        )
    if waiving.check is not None and waiving.check not in known[waiving.profile]:
        named = ", ".join(dict.fromkeys(known[waiving.profile])) or "none"
        raise _invalid(
            f"There is a waiver for {waiving.name}, and the profile has no such check.",
            f"Its checks are {named}.",
        )


def _unneeded(waiving: Waiving, unpassed: Sequence[Finding]) -> errors.WaiverInvalidError:
    failed = sorted({item.budget for item in unpassed if item.outcome is Outcome.FAIL})
    if waiving.check is None and failed:
        return _invalid(
            f"The waiver for {waiving.name} waives nothing.",
            f"Its unpassed checks failed, and those are waived by their own names alone: {', '.join(failed)}.",
        )
    return _invalid(
        f"The waiver for {waiving.name} is not needed.",
        "What it is for passed, is not required, or is waived already; a release says no more than is so.",
    )


def _invalid(what: str, why: str) -> errors.WaiverInvalidError:
    return errors.WaiverInvalidError(
        what,
        why=why,
        fix="Give --waive PROFILE=REASON for unverified checks of a profile, --waive PROFILE/CHECK=REASON for one "
        "check, or leave it out.",
    )
