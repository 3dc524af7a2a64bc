"""What a package says of itself, as far as the verbs of the device kit need it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from phiforge import errors
from phiforge.evidence import Kind
from phiforge.packaging.layout import BUILD_FOLDER, PROFILE_FOLDER
from phiforge.target import parse_profile

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from phiforge.selection import Choice
    from phiforge.target import Profile


def profile_files(package: Path, variant: str) -> dict[str, Path]:
    """Return the files of the profiles that a variant is packaged for, by the profiles' names."""
    files = sorted((package / BUILD_FOLDER / variant / PROFILE_FOLDER).glob("*.json"))
    return {file.stem: file for file in files}


def packaged_profiles(package: Path, variant: str) -> dict[str, Profile]:
    """Return the profiles that a variant is packaged for, by name.

    Raises:
        ProfileInvalidError: One cannot be read.
    """
    return {name: _load(file) for name, file in profile_files(package, variant).items()}


def packaged_profile(package: Path, variant: str, name: str) -> Profile:
    """Return one profile that a variant is packaged for.

    Raises:
        ProfileUnknownError: It is not packaged for it; the message names those it is.
        ProfileInvalidError: It cannot be read.
    """
    files = profile_files(package, variant)
    if name not in files:
        raise errors.ProfileUnknownError(
            f"The variant {variant} of {package.name} is not packaged for the profile {name!r}.",
            why=f"It is for {', '.join(files) or 'none at all'}.",
            fix="Name one of these with --target, or leave it out to get the one that fits this machine.",
        )
    return _load(files[name])


def running_here(package: Path, names: Sequence[str]) -> dict[str, Choice]:
    """Return those of some variants of a package that can run on this machine, with what is to be said of each.

    Raises:
        FallbackError: None of them can.
    """
    # Imported here: it looks at the machine's devices by the runtime.
    from phiforge.verbs.explain import chosen_variant, explain

    explanation = explain(package)
    able = {choice.variant: choice for choice in explanation.choices if choice.eligible and choice.variant in names}
    if not able:
        chosen_variant(explanation, names[0] if len(names) < len(explanation.choices) else None)  # says why not
    return able


def timed_here(package: Path, names: Sequence[str]) -> dict[str, Choice]:
    """Return those of some variants of a package that this machine runs on the device they are for.

    Raises:
        FallbackError: There is none.
    """
    # Imported here: the runtime takes seconds to load.
    from phiforge.validation.way import way_here

    choices = running_here(package, names)
    timed = {name: choice for name, choice in choices.items() if way_here(choice.provider).kind is Kind.MEASURED}
    if not timed:
        raise errors.FallbackError(
            f"Nothing of {package.name} can be timed on this machine.",
            why=" ".join(f"{choice.variant}: {choice.why}" for choice in choices.values()),
            fix="Measure on a machine with the device; a software adapter has no speed to tell of.",
        )
    return timed


def fitting_profiles(package: Path, choices: Mapping[str, Choice]) -> dict[str, Profile]:
    """Return of each variant the profile that fits this machine, without those that none fits.

    Raises:
        ProfileUnknownError: None fits any.
    """
    found = {name: choice.profile for name, choice in choices.items()}
    fitting = {name: packaged_profile(package, name, profile) for name, profile in found.items() if profile}
    if not fitting:
        raise errors.ProfileUnknownError(
            f"No profile of {package.name} fits this machine.",
            why=" ".join(f"{name}: {choice.why}" for name, choice in choices.items()),
            fix="Measure on a machine that one of them is for; `phiforge bench` takes one by name with --target.",
        )
    return fitting


def _load(file: Path) -> Profile:
    """Read a profile that has its file's name: others are named by it, files among them."""
    profile = parse_profile(file)
    if profile.name != file.stem:
        raise errors.ProfileInvalidError(
            f"The device profile {file.name} is not valid.",
            why=f"It calls itself {profile.name!r}.",
            fix="Do not use this package; get it again from where it was published.",
        )
    return profile
