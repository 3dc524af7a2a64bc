"""Explain: which variant of a package this machine would get, and why not each of the others."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from phiforge import errors
from phiforge.packaging.layout import BUILD_FOLDER, load_component
from phiforge.runtime.abilities import find_abilities
from phiforge.selection import Choice, Offer, choose
from phiforge.variant import load_record
from phiforge.verbs.packaged import packaged_profiles

if TYPE_CHECKING:
    from pathlib import Path

    from phiforge.evidence import Machine

__all__ = ["Choice", "Explanation", "chosen_variant", "explain"]


@dataclass(frozen=True, kw_only=True)
class Explanation:
    """What a machine makes of a package; the choices in the order of preference."""

    package: Path
    machine: Machine
    chosen: str | None
    choices: tuple[Choice, ...]


def explain(package: Path) -> Explanation:
    """Return which variant of a package this machine gets, and what becomes of the others.

    Nothing of the models is read, so it takes seconds for a package of any size; `verify` says whether the files are
    the packaged ones.

    Args:
        package: The package's folder.

    Raises:
        PackageInvalidError: The folder is no package.
        VariantUnusableError: What the package says of a variant cannot be read.
        ProfileInvalidError: So for a profile in it.
    """
    offers = [_offer(package, name) for name in load_component(package).variants]
    abilities = find_abilities({offer.provider for offer in offers})
    chosen, choices = choose(offers, abilities)
    return Explanation(package=package, machine=abilities.machine, chosen=chosen, choices=choices)


def chosen_variant(explanation: Explanation, variant: str | None = None) -> Choice:
    """Return the variant to run here: the chosen one, or a named one if it can run here.

    Args:
        explanation: What `explain` returned.
        variant: The name of the variant wanted instead of the chosen one.

    Raises:
        FallbackError: It cannot run on this machine, or none can.
        VariantUnusableError: The package has no variant of this name.
    """
    if variant is not None:
        return _named(explanation, variant)
    for choice in explanation.choices:
        if choice.variant == explanation.chosen:
            return choice
    raise errors.FallbackError(
        f"This machine can run no variant of {explanation.package.name}.",
        why=" ".join(f"{choice.variant}: {choice.why}" for choice in explanation.choices),
        fix=_remedy(explanation.choices),
    )


def _named(explanation: Explanation, variant: str) -> Choice:
    known = {choice.variant: choice for choice in explanation.choices}
    if variant not in known:
        near = difflib.get_close_matches(variant, list(known), n=1, cutoff=0.4)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise errors.VariantUnusableError(
            f"{explanation.package.name} has no variant {variant!r}.{hint}",
            why=f"It has {', '.join(known)}.",
            fix="Name one of these, or none to get what fits this machine.",
        )
    choice = known[variant]
    if not choice.eligible:
        raise errors.FallbackError(
            f"The variant {variant} cannot run on this machine.", why=choice.why, fix=_remedy([choice])
        )
    return choice


def _remedy(choices: tuple[Choice, ...] | list[Choice]) -> str:
    """The command for the variant that needs the least: the last one in the order of preference that has any."""
    commands = [choice.remedy for choice in choices if choice.remedy]
    return commands[-1] if commands else "Use a machine that the package has a variant for, or build one for this."


def _offer(package: Path, name: str) -> Offer:
    record = load_record(package / BUILD_FOLDER / name)
    return Offer(
        variant=name,
        provider=record.provider,
        device=record.device,
        bytes=record.bytes,
        profiles=tuple(packaged_profiles(package, name).values()),
        soc_model=record.npu.soc_model if record.npu else None,
        sdk_version=record.npu.sdk_version if record.npu else None,
    )
