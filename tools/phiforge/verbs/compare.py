"""Compare: hold the variants of a package against those of an earlier one, in one interleaved run on this machine."""

from __future__ import annotations

from typing import TYPE_CHECKING

from phiforge import errors
from phiforge.evidence import Kind, dump_evidence
from phiforge.packaging.layout import MANIFEST, SUFFIX, load_manifest
from phiforge.store import write_atomically
from phiforge.verbs.output import prepare_output
from phiforge.verbs.packaged import running_here
from phiforge.verbs.subject import find_subjects, loadable
from phiforge.verbs.watch import Unwatched

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from phiforge.selection import Choice
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
        against: An earlier package of the same model, or a release with it.
        output: Folder for the evidence; each variant gets a folder of its name in it.
        variant: Only this one.
        rounds: How many rounds; None for as many as it takes to decide.
        watcher: Told of the progress.

    Returns:
        The evidence file of each variant, by name.

    Raises:
        PreviousReleaseError: The earlier package is none, is of another model, or has none of the variants.
        FallbackError: Nothing of the package can be timed on this machine.
        OutputUnwritableError: The output folder cannot be written.
    """
    # Imported here: the runtime takes seconds to load.
    from phiforge.validation.comparison import compare_folders

    earlier = earlier_package(against, load_manifest(package).package_name)
    new = {subject.name: subject for subject in loadable(find_subjects(package))}
    old = {subject.name: subject for subject in find_subjects(earlier)}
    pairs = _pairs(new, old, variant, earlier)
    choices = _timed_here(package, pairs)
    prepare_output(output)
    watcher = watcher or Unwatched()
    written = {}
    for name, choice in choices.items():
        found = compare_folders(
            new[name].folder,
            old[name].folder,
            new_sha256=new[name].sha256,
            old_sha256=old[name].sha256,
            rounds=rounds,
            progress=watcher.advanced,
        )
        folder = output / name
        folder.mkdir(parents=True, exist_ok=True)
        written[name] = folder / comparison_file(choice.profile or choice.profiles[0])
        write_atomically(written[name], dump_evidence(found))
    return written


def comparison_file(profile: str) -> str:
    """Name of the evidence file for one profile."""
    return f"comparison-{profile}.json"


def earlier_package(path: Path, model: str) -> Path:
    """Return the package at a path, or the one in the release there.

    Args:
        path: A package, or a folder that has one in it.
        model: The name that the package must have.

    Raises:
        PreviousReleaseError: There is none, there are several, or it is of another model.
    """
    inside = sorted(path.glob(f"*{SUFFIX}")) if path.is_dir() else []
    if not (path / MANIFEST).is_file() and len(inside) != 1:
        why = f"It holds {len(inside)} packages." if path.is_dir() else "There is no such folder."
        raise _unfit(f"{path} is no earlier package.", why)
    package = path if (path / MANIFEST).is_file() else inside[0]
    name = load_manifest(package).package_name
    if name != model:
        raise _unfit(f"{path} is of another model.", f"It is a package of {name}, and this one is of {model}.")
    return package


def _pairs(
    new: Mapping[str, Subject], old: Mapping[str, Subject], variant: str | None, earlier: Path
) -> tuple[str, ...]:
    """The names of the variants that both have."""
    wanted = [variant] if variant is not None else list(new)
    both = tuple(name for name in wanted if name in new and name in old)
    if not both:
        raise _unfit(
            f"{earlier.name} has nothing to hold against {', '.join(wanted)}.",
            f"It has {', '.join(old) or 'no variant'}; this one has, for this machine, {', '.join(new) or 'none'}.",
        )
    return both


def _timed_here(package: Path, names: tuple[str, ...]) -> dict[str, Choice]:
    """What is to be said of those variants that this machine runs on the device they are for.

    Raises:
        FallbackError: There is none.
    """
    from phiforge.validation.way import way_here

    choices = running_here(package, names)
    timed = {name: choice for name, choice in choices.items() if way_here(choice.provider).kind is Kind.MEASURED}
    if not timed:
        raise errors.FallbackError(
            f"Nothing of {package.name} can be timed on this machine.",
            why=" ".join(f"{choice.variant}: {choice.why}" for choice in choices.values()),
            fix="Compare on a machine with the device; a software adapter has no speed to tell of.",
        )
    return timed


def _unfit(what: str, why: str) -> errors.PreviousReleaseError:
    return errors.PreviousReleaseError(
        what, why=why, fix="Name an earlier package or release of the same model with --against."
    )
