"""Apply a tuning: the variant it chose, with the settings it chose for this machine."""

from __future__ import annotations

from typing import TYPE_CHECKING

from phiforge.machine import describe_machine
from phiforge.tuning import load_tuning
from phiforge.verbs.subject import find_subjects, loadable

if TYPE_CHECKING:
    from pathlib import Path

    from phiforge.tuning import Settings
    from phiforge.verbs.subject import Subject


def tuned_subjects(variant: Path, tuning: Path | None) -> tuple[tuple[Subject, Settings | None], ...]:
    """Return what this machine can load at a path: every variant with no settings, or the one a tuning chose with its.

    Raises:
        VariantUnusableError: There is no variant at the path, or none that this machine can load.
        EvidenceInvalidError: The tuning cannot be read, chose none of these variants, or was made on another machine.
    """
    subjects = loadable(find_subjects(variant))
    if tuning is None:
        return tuple((subject, None) for subject in subjects)
    loaded = load_tuning(tuning)
    chosen = loaded.choice.variant_sha256 if loaded.choice else ""
    subject = next((item for item in subjects if item.sha256 == chosen), subjects[0])
    return ((subject, loaded.settings_for(subject.sha256, describe_machine())),)
