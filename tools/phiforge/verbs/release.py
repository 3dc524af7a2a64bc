"""Release: hold a package against the previous release, refuse it with every reason, or publish it."""

from __future__ import annotations

import contextlib
import functools
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from phiforge import errors
from phiforge.checkpoint.family import MODELS
from phiforge.evidence import dump_evidence
from phiforge.gate import Outcome, severity
from phiforge.hashing import hash_bytes
from phiforge.packaging.layout import SUFFIX, load_manifest
from phiforge.packaging.verify import read_sums, verify_package
from phiforge.packaging.write import content_hash
from phiforge.release.bill import check_library
from phiforge.release.card import CardInput
from phiforge.release.changes import Side, find_differences
from phiforge.release.destinations import (
    Successor,
    check_apart,
    check_destination,
    check_name,
    check_succession,
    locate,
    parse_destination,
    publish,
)
from phiforge.release.layout import (
    COMPARISON_PREFIX,
    PackageFacts,
    ProfileStanding,
    ReleaseRecord,
    check_version,
)
from phiforge.release.licences import licence_of
from phiforge.release.prepare import Candidate, prepare, preparing_folder, seal
from phiforge.release.recipe import read_recipes
from phiforge.release.signing import Signer, Trust, check_signer
from phiforge.release.waivers import apply_waivers, parse_waiver
from phiforge.reporting.missing import measuring_command
from phiforge.verbs.checking import KEPT, Checked, check_profiles
from phiforge.verbs.judging import phiforge_version
from phiforge.verbs.merging import check_names
from phiforge.verbs.previous import open_previous
from phiforge.verbs.report import report
from phiforge.verbs.standing import judge_package
from phiforge.verbs.watch import Stages, Unwatched

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from phiforge.gate import Finding
    from phiforge.release.changes import Changes
    from phiforge.release.destinations import Destination, Published
    from phiforge.release.layout import Waiver
    from phiforge.release.recipe import Recipe
    from phiforge.verbs.previous import Predecessor
    from phiforge.verbs.standing import Judged
    from phiforge.verbs.watch import Watcher


@dataclass(frozen=True, kw_only=True)
class ReleaseOptions:
    """What a release is told besides the package.

    Attributes:
        destinations: Where it goes, each as `release.destinations.parse_destination` reads it.
        against: The previous release; None if `first`.
        first: Whether there is none.
        evidence: Files that devices brought.
        waivers: `PROFILE=REASON` or `PROFILE/CHECK=REASON`.
        require: Profiles that must pass; all of the package's by default. One that is left out may be unverified, and
            not fail.
        signer: Who signs.
        trust: Whose signature the previous release has.
        version: What the release is called; by default the first digits of the package's content hash.
        dry_run: Whether to stop before anything is published.
    """

    destinations: tuple[str, ...]
    against: Path | None = None
    first: bool = False
    evidence: tuple[Path, ...] = ()
    waivers: tuple[str, ...] = ()
    require: tuple[str, ...] = ()
    signer: Signer = field(default_factory=lambda: Signer(form="none"))
    trust: Trust = field(default_factory=Trust)
    version: str | None = None
    dry_run: bool = False


@dataclass(frozen=True, kw_only=True)
class ReleasePlan:
    """What would be released, where, and every reason against it."""

    record: ReleaseRecord
    changes: Changes
    destinations: tuple[str, ...]
    reasons: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Released:
    """What was published, or after a dry run would be."""

    plan: ReleasePlan
    published: tuple[Published, ...]
    dry_run: bool


@dataclass(frozen=True, kw_only=True)
class _Subject:
    """The package that is to be released."""

    package: Path
    name: str
    seal_sha256: str
    sums: Mapping[str, str]
    profiles: Mapping[str, Judged]
    recipes: Mapping[str, Recipe]
    faults: tuple[str, ...]


def release(
    package: Path,
    options: ReleaseOptions,
    *,
    on_plan: Callable[[ReleasePlan], None] = lambda plan: None,
    on_file: Callable[[str, int], None] = lambda name, size: None,
    watcher: Watcher | None = None,
) -> Released:
    """Release a package to one or more destinations, or refuse to.

    Everything is read and checked first; then it is told by `on_plan`; then it is refused or published. What is at a
    destination is checked again just before it is replaced. Each destination holds the old release or the new one,
    whole, at any time; the same call again finishes what was stopped.

    Args:
        package: The package.
        options: Where it goes, what it is held against, what is waived.
        on_plan: Told what would be released and every finding, before anything is refused or written.
        on_file: Told of each file that is written or sent, with its bytes.
        watcher: Told of stages.

    Raises:
        ReleaseRefusedError: A required profile has not passed, another one fails, something got worse than allowed,
            a profile is gone, the recipe is incomplete or a licence unknown; the message has every reason.
        WaiverInvalidError: A waiver has no reason, or is for nothing.
        PreviousReleaseError: The previous release cannot be used, neither it nor `first` was given, or `first` was
            and another release is there.
        DestinationError: The release cannot go there, or it is unsigned and would replace a signed one.
        PhiforgeError: In one of the other ways of `phiforge.errors`. Where a destination is refused only as it is about
            to be replaced, those before it are published.
    """
    stages = Stages(watcher or Unwatched())
    destinations = _checked_options(options)
    check_apart(destinations, [package, *([locate(options.against)[0]] if options.against else [])])
    with stages.timed("check the package"):
        subject = _read_subject(package, options.evidence)
        for destination in destinations:
            _check_place(destination, subject, options)
    with contextlib.ExitStack() as stack:
        before = None
        if options.against is not None:
            with stages.timed("check the previous release"):
                before = stack.enter_context(open_previous(options.against, subject.name, options.trust))
        checked = check_profiles(subject.profiles, before.profiles if before else None, options.require, stages)
        plan, candidate = _planned(subject, before, checked, options, destinations)
    on_plan(plan)
    if plan.reasons:
        raise _refused(plan, subject)
    with stages.timed("publish"), preparing_folder(destinations, dry_run=options.dry_run) as folder:
        prepare(candidate, folder, options.signer, _write_report)
        published = [
            publish(
                folder,
                destination,
                check=functools.partial(_check_place, destination, subject, options),
                seal=lambda other: seal(other, options.signer),
                dry_run=options.dry_run,
                on_file=on_file,
            )
            for destination in destinations
        ]
    return Released(plan=plan, published=tuple(published), dry_run=options.dry_run)


def _checked_options(options: ReleaseOptions) -> list[Destination]:
    """Check what can be checked before anything is read."""
    if (options.against is not None) == options.first:
        raise errors.PreviousReleaseError(
            "It is not clear what the release is held against.",
            why="Both a previous release and none were given." if options.first else "No previous release was given.",
            fix="Give --against PREVIOUS, or --first if there is none.",
        )
    for text in options.waivers:
        parse_waiver(text)
    check_names(options.evidence)
    if options.version is not None:
        check_version(options.version)
    check_library()
    check_signer(options.signer)
    destinations = [parse_destination(text) for text in options.destinations]
    for destination in destinations:
        check_name(destination)
    return destinations


def _read_subject(package: Path, evidence: Sequence[Path]) -> _Subject:
    """Check the package and judge it."""
    seal_sha256 = verify_package(package).seal_sha256
    recipes, faults = read_recipes(package)
    return _Subject(
        package=package,
        name=load_manifest(package).package_name,
        seal_sha256=seal_sha256,
        sums=read_sums(package),
        profiles=judge_package(package, evidence),
        recipes=recipes,
        faults=tuple(faults),
    )


def _version(options: ReleaseOptions, content_sha256: str) -> str:
    return options.version or content_sha256[:12]


def _check_place(destination: Destination, subject: _Subject, options: ReleaseOptions) -> None:
    """Check that a release of this package may go there, and take the place of what is there."""
    there = check_destination(destination, subject.name, dry_run=options.dry_run)
    content = content_hash(subject.sums)
    successor = Successor(
        content_sha256=content,
        version=_version(options, content),
        evidence={path.name: hash_bytes(path.read_bytes()) for path in options.evidence},
        signed=options.signer.form != "none",
        first=options.first,
    )
    check_succession(destination, there, successor)


def _planned(
    subject: _Subject,
    before: Predecessor | None,
    checked: Checked,
    options: ReleaseOptions,
    destinations: Sequence[Destination],
) -> tuple[ReleasePlan, Candidate]:
    """Put the record together, with every reason why it may not go out."""
    waivers, left = apply_waivers(
        [parse_waiver(text) for text in options.waivers],
        {name: _refusing(checked, name) for name in checked.checks},
        {name: [item.budget for item in items] for name, items in checked.checks.items()},
    )
    licence, unknown = licence_of(subject.package)
    files = _files(options.evidence, checked)
    record = _record(subject, before, checked, options, waivers, files, licence or "unknown")
    changes = find_differences(record, _side(subject, record), _previous_side(before))
    card = CardInput(
        record=record,
        recipes=subject.recipes,
        hub_id=_hub_id(subject),
        limits={name: (*item.report.notices, *item.report.limits) for name, item in subject.profiles.items()},
    )
    candidate = Candidate(
        package=subject.package,
        card=card,
        changes=changes,
        evidence={name: item.evidence for name, item in subject.profiles.items()},
        runtimes={name: item.runtime for name, item in subject.profiles.items()},
        files=files,
    )
    reasons = [f"{name}/{item.budget}: {item.reason}" for name, items in left.items() for item in items]
    reasons += [f"recipe: {fault}" for fault in subject.faults]
    reasons += [] if licence else [f"licence: {unknown}"]
    told = tuple(str(destination) for destination in destinations)
    return ReleasePlan(record=record, changes=changes, destinations=told, reasons=tuple(reasons)), candidate


def _refusing(checked: Checked, profile: str) -> list[Finding]:
    """The checks of a profile that refuse the release unless they are waived.

    Of one that is not required, those that failed; that the previous release had it, and it is gone, counts always.
    """
    found = checked.unpassed(profile)
    if profile in checked.required:
        return found
    return [item for item in found if item.outcome is Outcome.FAIL or item.budget == KEPT]


def _record(
    subject: _Subject,
    before: Predecessor | None,
    checked: Checked,
    options: ReleaseOptions,
    waivers: tuple[Waiver, ...],
    files: Mapping[str, bytes],
    licence: str,
) -> ReleaseRecord:
    content = content_hash(subject.sums)
    return ReleaseRecord(
        phiforge_version=phiforge_version(),
        name=subject.name,
        version=_version(options, content),
        licence=licence,
        package=PackageFacts(folder=f"{subject.name}{SUFFIX}", content_sha256=content, seal_sha256=subject.seal_sha256),
        variants={item.record.name: item.record.sha256 for item in subject.profiles.values()},
        profiles={
            name: _standing(item, checked.checks[name], name in checked.required)
            for name, item in subject.profiles.items()
        },
        waivers=waivers,
        evidence={name: hash_bytes(content) for name, content in sorted(files.items())},
        previous=before.facts if before else None,
        toolchain={name: recipe.record.toolchain for name, recipe in subject.recipes.items()},
        signature=options.signer.form,
    )


def _standing(item: Judged, checks: Sequence[Finding], required: bool) -> ProfileStanding:
    return ProfileStanding(
        variant=item.record.name,
        title=item.profile.identity.title,
        required=required,
        outcome=max((check.outcome for check in checks), key=severity),
        numbers=tuple(reading.number for reading in item.standing().readings),
        checks=tuple(checks),
    )


def _files(evidence: Sequence[Path], checked: Checked) -> dict[str, bytes]:
    """The files beside the package: what was brought, and the comparisons that were made here."""
    files = {f"{COMPARISON_PREFIX}{name}.json": dump_evidence(item).encode() for name, item in checked.compared.items()}
    for path in evidence:
        content = path.read_bytes()
        if files.setdefault(path.name, content) != content:
            raise errors.EvidenceInvalidError(
                f"Two files of evidence are called {path.name}.",
                why="They have different content, and a release keeps each under its name.",
                fix="Rename one of them; of a record of time the name may go on behind the profile's, as "
                "latency-<profile>-second.json.",
            )
    return files


def _side(subject: _Subject, record: ReleaseRecord) -> Side:
    return Side(
        standings={name: item.standing() for name, item in subject.profiles.items()},
        sums=subject.sums,
        toolchain=record.toolchain,
    )


def _previous_side(before: Predecessor | None) -> Side | None:
    if before is None:
        return None
    profiles = before.profiles
    return Side(
        standings={name: item.standing() for name, item in profiles.items()},
        sums=before.sums,
        toolchain={item.record.name: item.record.toolchain for item in profiles.values()},
    )


def _hub_id(subject: _Subject) -> str | None:
    """Where the Hub has the model that the checkpoint is, by the plan."""
    published = {str(recipe.plan.get("published")) for recipe in subject.recipes.values()}
    return next((model.hub_id for model in MODELS.values() if model.name in published), None)


def _write_report(package: Path, evidence: Sequence[Path]) -> None:
    report([package], output=package.parent, evidence=evidence, travels=True)


def _refused(plan: ReleasePlan, subject: _Subject) -> errors.ReleaseRefusedError:
    count = len(plan.reasons)
    commands = [
        measuring_command(str(subject.package), name, item.profile.runtime.provider)
        for name, item in subject.profiles.items()
        if any(reason.startswith(f"{name}/") for reason in plan.reasons)
        and Outcome.UNVERIFIED in {check.outcome for check in plan.record.profiles[name].checks}
    ]
    told = ", ".join(f"`{command}`" for command in commands)
    supply = f"Measure on the device what is missing ({told}) and give the file with --evidence. " if commands else ""
    return errors.ReleaseRefusedError(
        f"{plan.record.name} {plan.record.version} is not released, for {count} reason{'s' if count > 1 else ''}.",
        why="; ".join(reason.rstrip(".") for reason in plan.reasons) + ".",
        fix=f"{supply}Mend what fails, or waive what may go out by name and with a reason: --waive PROFILE=REASON, "
        "--waive PROFILE/CHECK=REASON.",
    )
