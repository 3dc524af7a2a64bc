"""Measure a variant's latency and memory on this machine, in a fresh process."""

from __future__ import annotations

from typing import TYPE_CHECKING

from phiforge import catalog
from phiforge.evidence import dump_evidence
from phiforge.hashing import content_key
from phiforge.store import write_atomically
from phiforge.target import load_profile
from phiforge.verbs.defaults import evidence_code
from phiforge.verbs.tuned import tuned_subjects
from phiforge.verbs.watch import Unwatched

if TYPE_CHECKING:
    from pathlib import Path

    from phiforge.target import Profile
    from phiforge.tuning import Settings
    from phiforge.verbs.subject import Subject
    from phiforge.verbs.watch import Watcher


def bench(
    variant: Path,
    *,
    target: str,
    output: Path,
    tuning: Path | None = None,
    project: Path | None = None,
    watcher: Watcher | None = None,
) -> dict[str, Path]:
    """Measure every variant under `variant` as the profile says, and write latency-<profile>.json for each.

    Args:
        variant: A package, a built variant's folder, or a plain model folder.
        target: Name of a device profile, or the path of one.
        output: Folder for the evidence; each variant gets a folder of its name in it.
        tuning: What `phiforge tune` wrote on this machine; only the variant it chose is measured, with its settings.
        project: The project whose profiles are meant; found from the working folder by default.
        watcher: Told of the progress.

    Returns:
        The evidence file of each variant, by name.
    """
    profile = load_profile(catalog.profile_path(project or catalog.find_project(), target))
    written = {}
    for subject, settings in tuned_subjects(variant, tuning):
        text = run_bench(subject, profile, watcher or Unwatched(), settings)
        folder = output / subject.name
        folder.mkdir(parents=True, exist_ok=True)
        written[subject.name] = folder / latency_file(profile)
        write_atomically(written[subject.name], text)
    return written


def latency_file(profile: Profile) -> str:
    """Name of the evidence file for one profile."""
    return f"latency-{profile.name}.json"


def run_bench(subject: Subject, profile: Profile, watcher: Watcher, tuned: Settings | None = None) -> str:
    """Measure one variant and return the evidence as JSON text."""
    from phiforge.validation.latency import measure_latency

    evidence = measure_latency(
        subject.folder,
        variant_sha256=subject.sha256,
        measure=profile.measure,
        progress=watcher.advanced,
        tuned=tuned,
    )
    return dump_evidence(evidence)


def bench_key(subject: Subject, profile: Profile) -> str:
    """The key of a latency measurement: everything its numbers depend on but the moment."""
    return content_key(["latency", subject.sha256, profile.measure.model_dump(), evidence_code()])
