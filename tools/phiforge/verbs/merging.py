"""Read what other machines measured of a package, and refuse what is not of it, its profiles or their devices."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from phiforge import errors
from phiforge.evidence import Comparison, Kind, Latency, Prediction, parse_evidence
from phiforge.evidence_file import (
    EvidenceSource,
    PackageFacts,
    evidence_text,
    is_evidence_file,
    parse_evidence_file,
)
from phiforge.hashing import hash_file
from phiforge.packaging.layout import check_inside, load_manifest
from phiforge.packaging.verify import read_sums
from phiforge.packaging.write import content_hash
from phiforge.providers import PROVIDERS
from phiforge.verbs.judging import misfit
from phiforge.verbs.packaged import packaged_profiles, profile_files

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    from phiforge.evidence import AnyEvidence
    from phiforge.evidence_file import EvidenceFile
    from phiforge.target import Profile

# Evidence that is of one profile alone has its name: latency-<profile>.json.
OF_ONE_PROFILE = (Latency, Comparison, Prediction)
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*\.json")


def check_names(paths: Sequence[Path]) -> None:
    """Check that files of evidence have names that every system, list and reader takes.

    Raises:
        EvidenceInvalidError: One has not, or two differ by upper and lower case alone.
    """
    by_case: dict[str, str] = {}
    for path in paths:
        if by_case.setdefault(path.name.lower(), path.name) != path.name:
            raise errors.EvidenceInvalidError(
                f"The evidence files {by_case[path.name.lower()]!a} and {path.name!a} cannot stand beside each other.",
                why="Their names differ by upper and lower case alone, which is one name to some systems.",
                fix="Rename one of them.",
            )
        try:
            fits = _NAME.fullmatch(check_inside(path.name)) is not None
        except errors.UnsafePathError:
            fits = False
        if not fits:
            raise errors.EvidenceInvalidError(
                f"The evidence file {path.name!a} cannot be used under this name.",
                why="A release keeps it under its name, which has letters, digits and . _ - alone and ends in .json.",
                fix="Rename it, as the name of `phiforge measure`, or of `phiforge bench`: latency-<profile>.json.",
            )


def named_profile(record: AnyEvidence, name: str, profiles: Iterable[str]) -> str | None:
    """Return the profile that the name of a single record's file tells, or None if it tells none of these.

    The name is latency-<profile>.json, or latency-<profile>-<anything>.json; where several profiles fit it is the
    longest.
    """
    told = f"{name.removesuffix('.json')}-"
    found = [profile for profile in profiles if told.startswith(f"{record.evidence}-{profile}-")]
    return max(found, key=len, default=None)


def read_brought(
    package: Path, variants: Mapping[str, str], paths: Sequence[Path]
) -> dict[str, tuple[EvidenceSource, ...]]:
    """Read evidence from elsewhere, and refuse what is of anything else than this package.

    Args:
        package: The package, as it was sealed.
        variants: Its variants: name to hash.
        paths: Evidence files and single records.

    Returns:
        The files by the name of their variant, in the order of the paths.

    Raises:
        EvidenceInvalidError: A file cannot be read or was changed, is of another package, variant or profile, does not
            tell by its name which profile it is of, or was measured by another provider, runtime or architecture than
            the profile's.
    """
    found: dict[str, list[EvidenceSource]] = {name: [] for name in variants}
    if paths:
        subject = _Subject(
            package=package,
            facts=PackageFacts(
                name=load_manifest(package).package_name, content_sha256=content_hash(read_sums(package))
            ),
            variants=variants,
            profiles={name: packaged_profiles(package, name) for name in variants},
        )
    for path in paths:
        names, source = _read(path, subject)
        for name in names:
            found[name].append(source)
    return {name: tuple(sources) for name, sources in found.items()}


@dataclass(frozen=True, kw_only=True)
class _Subject:
    """The package that evidence must be of: its variants' hashes and profiles by the variants' names."""

    package: Path
    facts: PackageFacts
    variants: Mapping[str, str]
    profiles: Mapping[str, Mapping[str, Profile]]


def _read(path: Path, subject: _Subject) -> tuple[list[str], EvidenceSource]:
    """Read one file; return the variants that it is of."""
    text = evidence_text(path)
    if not is_evidence_file(text):
        record = parse_evidence(text, str(path))
        names, profile = _owners(record, path, subject)
        return names, EvidenceSource(place=path, profile=profile, records=(record,))
    file = parse_evidence_file(text, str(path))
    _check(file, path, subject)
    _check_device(file, path, subject.profiles[file.variant.name][file.profile.name])
    source = EvidenceSource(
        place=path,
        profile=file.profile.name,
        records=file.records,
        adapter=file.machine.adapter,
        placement=file.placement,
    )
    return [file.variant.name], source


def _owners(record: AnyEvidence, path: Path, subject: _Subject) -> tuple[list[str], str | None]:
    """Return the variants that a single record is of, and the profile if it is of one alone."""
    profiles = subject.profiles
    names = [name for name, sha256 in subject.variants.items() if sha256 == record.variant_sha256]
    if not names:
        raise _foreign(path, "variant", record.variant_sha256, ", ".join(subject.variants.values()))
    told = None
    if isinstance(record, OF_ONE_PROFILE):
        told = named_profile(record, path.name, {profile for own in profiles.values() for profile in own})
        valid = list(dict.fromkeys(profile for name in names for profile in profiles[name]))
        if told not in valid:
            raise _unnamed(record, path, valid)
        names = [name for name in names if told in profiles[name]]
    meant = [profile for name in names for key, profile in profiles[name].items() if told in (None, key)]
    reasons = [misfit(record, profile) for profile in meant]
    if reasons and None not in reasons:
        raise _unfit(path, meant[0], f"Its {record.evidence} evidence does not count there: {reasons[0]}.")
    return names, told


def _check(file: EvidenceFile, path: Path, subject: _Subject) -> None:
    facts, variants = subject.facts, subject.variants
    if file.package.content_sha256 != facts.content_sha256:
        raise _foreign(path, "package", file.package.content_sha256, facts.content_sha256)
    if file.package.name != facts.name:
        raise _foreign(path, "package", repr(file.package.name), repr(facts.name))
    name = file.variant.name
    if variants.get(name) != file.variant.sha256:
        raise _foreign(path, f"variant than {name}", file.variant.sha256, variants.get(name, "not in the package"))
    profiles = profile_files(subject.package, name)
    own = hash_file(profiles[file.profile.name]) if file.profile.name in profiles else "not in the package"
    if file.profile.sha256 != own:
        raise _foreign(path, f"profile than {file.profile.name}", file.profile.sha256, own)


def _check_device(file: EvidenceFile, path: Path, profile: Profile) -> None:
    """Check that what was measured was measured as the profile says."""
    for record in file.records:
        why = misfit(record, profile)
        if why is not None:
            raise _unfit(path, profile, f"Its {record.evidence} evidence does not count there: {why}.")
    provider = PROVIDERS[profile.runtime.provider].execution_provider
    measured = any(record.kind is Kind.MEASURED for record in file.records)
    if measured and not file.placement.get(provider):
        there = ", ".join(sorted(file.placement)) or "none at all"
        raise _unfit(path, profile, f"No node ran on the profile's provider, {provider}; there is {there}.")


def _unfit(path: Path, profile: Profile, why: str) -> errors.EvidenceInvalidError:
    runtime = profile.runtime
    return errors.EvidenceInvalidError(
        f"The evidence file {path} was not measured as the profile {profile.name} says.",
        why=why,
        fix=f"Measure on the device with the provider {runtime.provider} of {runtime.package}, or leave the file out.",
    )


def _unnamed(record: AnyEvidence, path: Path, profiles: Sequence[str]) -> errors.EvidenceInvalidError:
    sort = record.evidence
    return errors.EvidenceInvalidError(
        f"The evidence file {path} does not tell which profile it is of.",
        why=f"A single record of {sort} is named by its profile, which {path.name} does not do.",
        fix="Rename it to "
        + " or ".join(f"{sort}-{name}.json, {sort}-{name}-<anything>.json" for name in profiles)
        + ", whichever it was measured for.",
    )


def _foreign(path: Path, what: str, theirs: str, ours: str) -> errors.EvidenceInvalidError:
    return errors.EvidenceInvalidError(
        f"The evidence file {path} is of another {what}.",
        why=f"It was measured on {theirs[:12]}; here it is {ours if ' ' in ours else ours[:12]}.",
        fix="Measure this package on the device with `phiforge measure`.",
    )
