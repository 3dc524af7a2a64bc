"""Compare: hold the variants of a package against those of an earlier one, in one interleaved run on this machine."""

from __future__ import annotations

from typing import TYPE_CHECKING

from phiforge import errors
from phiforge.evidence import dump_evidence
from phiforge.packaging.layout import load_manifest
from phiforge.store import write_atomically
from phiforge.verbs.output import prepare_output
from phiforge.verbs.packaged import fitting_profiles, timed_here
from phiforge.verbs.previous import open_earlier_package
from phiforge.verbs.subject import find_subjects, loadable
from phiforge.verbs.watch import Unwatched

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from phiforge.evidence import Comparison
    from phiforge.target import Profile
    from phiforge.verbs.subject import Subject
    from phiforge.verbs.watch import Watcher


def compare(
    package: Path,
    *,
    against: Path,
    output: Path,
    variant: str | None = None,
    rounds: int | None = None,
    watcher: Watcher | None = None,
) -> dict[str, Path]:
    """Compare every variant that both packages have and this machine can run, and write comparison-<profile>.json.

    Args:
        package: A package.
        against: An earlier package of the same model, or a release of it on disk in any form.
        output: Folder for the evidence; each variant gets a folder of its name in it.
        variant: Only this one.
        rounds: How many rounds; None for as many as it takes to decide.
        watcher: Told of the progress.

    Returns:
        The evidence file of each variant, by name.

    Raises:
        PreviousReleaseError: The earlier package is none, is of another model, or has none of the variants.
        FallbackError: Nothing of the package can be timed on this machine.
        ProfileUnknownError: None of the package's profiles is for this machine.
        OutputUnwritableError: The output folder cannot be written.
    """
    with open_earlier_package(against, load_manifest(package).package_name) as earlier:
        new = {subject.name: subject for subject in loadable(find_subjects(package))}
        old = {subject.name: subject for subject in find_subjects(earlier)}
        profiles = fitting_profiles(package, timed_here(package, _pairs(new, old, variant, against)))
        prepare_output(output)
        found = {
            name: _compared(new[name], old[name], profile, rounds, watcher or Unwatched())
            for name, profile in profiles.items()
        }
    # Only now is it known that the earlier package was not replaced meanwhile.
    written = {name: output / name / comparison_file(profile.name) for name, profile in profiles.items()}
    for name, path in written.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, dump_evidence(found[name]))
    return written


def comparison_file(profile: str) -> str:
    """Name of the evidence file for one profile."""
    return f"comparison-{profile}.json"


def _compared(new: Subject, old: Subject, profile: Profile, rounds: int | None, watcher: Watcher) -> Comparison:
    # Imported here: the runtime takes seconds to load.
    from phiforge.validation.comparison import compare_folders

    return compare_folders(
        new.folder,
        old.folder,
        new_sha256=new.sha256,
        old_sha256=old.sha256,
        rounds=rounds,
        allowed_fraction=profile.regression.slowdown_fraction_max,
        threads=profile.measure.threads,
        progress=watcher.advanced,
    )


def _pairs(
    new: Mapping[str, Subject], old: Mapping[str, Subject], variant: str | None, earlier: Path
) -> tuple[str, ...]:
    """The names of the variants that both have."""
    wanted = [variant] if variant is not None else list(new)
    both = tuple(name for name in wanted if name in new and name in old)
    if not both:
        raise errors.PreviousReleaseError(
            f"{earlier.name} has nothing to hold against {', '.join(wanted)}.",
            why=f"It has {', '.join(old) or 'no variant'}; this one has, for this machine, {', '.join(new) or 'none'}.",
            fix="Name an earlier package or release of the same model with --against.",
        )
    return both
