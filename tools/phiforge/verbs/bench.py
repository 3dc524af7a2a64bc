"""Measure a variant's latency and memory on this machine, in a fresh process."""

from __future__ import annotations

from typing import TYPE_CHECKING

from phiforge import catalog, errors
from phiforge.evidence import dump_evidence
from phiforge.hashing import content_key
from phiforge.packaging.layout import MANIFEST
from phiforge.store import write_atomically
from phiforge.target import load_profile
from phiforge.verbs.defaults import evidence_code
from phiforge.verbs.output import prepare_output
from phiforge.verbs.packaged import fitting_profiles, packaged_profile, packaged_profiles, timed_here
from phiforge.verbs.tuned import tuned_subjects
from phiforge.verbs.watch import Unwatched

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from phiforge.target import Profile
    from phiforge.tuning import Settings
    from phiforge.verbs.subject import Subject
    from phiforge.verbs.watch import Watcher


def bench(
    variant: Path,
    *,
    target: str | None = None,
    output: Path,
    tuning: Path | None = None,
    thorough: bool = False,
    project: Path | None = None,
    watcher: Watcher | None = None,
) -> dict[str, Path]:
    """Measure every variant under `variant` as a profile says, and write latency-<profile>.json for each.

    Of a package those variants are measured that can run on this machine. A package carries its profiles, so it needs
    no project: without a target each variant is measured as the profile says that fits this machine.

    Args:
        variant: A package, a built variant's folder, or a plain model folder.
        target: Name of a device profile, or the path of one; needed unless `variant` is a package.
        output: Folder for the evidence; each variant gets a folder of its name in it.
        tuning: What `phiforge tune` wrote on this machine; only the variant it chose is measured, with its settings.
        thorough: Also what takes long: first answers after pauses, times on a busy machine, longer contexts.
        project: The project whose profiles are meant; found from the working folder by default.
        watcher: Told of the progress.

    Returns:
        The evidence file of each variant, by name.

    Raises:
        ProfileUnknownError: There is no such profile, or none was named and none fits.
        FallbackError: No variant of the package can run on this machine, or this process is emulated.
        OutputUnwritableError: The output folder cannot be written.
    """
    found = tuned_subjects(variant, tuning)
    subjects = [subject for subject, _ in found]
    if (variant / MANIFEST).is_file():
        profiles = _packaged(variant, subjects, target, project)
    else:
        profile = _named(variant, target, project)
        profiles = dict.fromkeys(_for_provider(variant, subjects, profile), profile)
    prepare_output(output)
    written = {}
    for subject, settings in found:
        if subject.name in profiles:
            profile = profiles[subject.name]
            text = run_bench(subject, profile, watcher or Unwatched(), settings, thorough=thorough)
            folder = output / subject.name
            folder.mkdir(parents=True, exist_ok=True)
            written[subject.name] = folder / latency_file(profile)
            write_atomically(written[subject.name], text)
    return written


def _named(variant: Path, target: str | None, project: Path | None) -> Profile:
    """Return a profile of the project, or of a file."""
    if target is None:
        raise errors.ProfileUnknownError(
            f"No device profile was named to measure {variant} by.",
            why="Only a package (.ortpackage) carries profiles of its own.",
            fix="Name one with --target; `phiforge targets` lists those of the project.",
        )
    return load_profile(catalog.profile_path(project or catalog.find_project(), target))


def _packaged(
    package: Path, subjects: Sequence[Subject], target: str | None, project: Path | None
) -> dict[str, Profile]:
    """Return the profile for each variant of a package that can run and be timed on this machine."""
    named = _packaged_target(package, subjects, target, project) if target is not None else None
    wanted = _for_provider(package, subjects, named) if named else [subject.name for subject in subjects]
    choices = timed_here(package, wanted)
    return fitting_profiles(package, choices) if named is None else dict.fromkeys(choices, named)


def _packaged_target(package: Path, subjects: Sequence[Subject], target: str, project: Path | None) -> Profile:
    """Return a profile by name: the project's, or where there is no project the package's own."""
    try:
        return _named(package, target, project)
    except errors.ProjectNotFoundError:
        own = [packaged_profiles(package, subject.name) for subject in subjects]
        found = next((profiles[target] for profiles in own if target in profiles), None)
        return found or packaged_profile(package, subjects[0].name, target)  # which says what there is


def _for_provider(variant: Path, subjects: Sequence[Subject], profile: Profile) -> list[str]:
    """Return the names of the variants that a profile's provider runs: no CPU's time is a GPU's.

    Raises:
        ProfileUnknownError: There is none.
    """
    from phiforge.runtime.variant import provider_of, read_config

    wanted = profile.runtime.provider
    providers = {
        subject.name: subject.record.provider if subject.record else provider_of(read_config(subject.folder))
        for subject in subjects
    }
    names = [name for name, provider in providers.items() if provider == wanted]
    if not names:
        there = ", ".join(f"{name} for {provider}" for name, provider in providers.items())
        raise errors.ProfileUnknownError(
            f"The profile {profile.name} measures no variant of {variant.name}.",
            why=f"It is of a device with the provider {wanted}; there is {there}.",
            fix="Name a profile of the variant's own kind with --target.",
        )
    return names


def latency_file(profile: Profile) -> str:
    """Name of the evidence file for one profile."""
    return f"latency-{profile.name}.json"


def run_bench(
    subject: Subject, profile: Profile, watcher: Watcher, tuned: Settings | None = None, *, thorough: bool = False
) -> str:
    """Measure one variant and return the evidence as JSON text."""
    from phiforge.validation.latency import measure_latency

    evidence = measure_latency(
        subject.folder,
        variant_sha256=subject.sha256,
        measure=profile.measure,
        progress=watcher.advanced,
        tuned=tuned,
        thorough=thorough,
        gpu_vendor_id=profile.hardware.gpu_vendor_id,
    )
    return dump_evidence(evidence)


def bench_key(subject: Subject, profile: Profile) -> str:
    """The key of a latency measurement: everything its numbers depend on but the moment."""
    return content_key(["latency", subject.sha256, profile.measure.model_dump(), evidence_code()])
