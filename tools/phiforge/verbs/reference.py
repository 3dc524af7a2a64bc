"""The reference of a package: what the original says, made at the build and read where there is no original."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

from phiforge import errors
from phiforge.hashing import content_key, hash_file
from phiforge.machine import default_threads
from phiforge.packaging.layout import REFERENCE_FOLDER
from phiforge.validation.asking import DEFAULT_ASKING, Asking
from phiforge.validation.held_out import ask_checkpoint
from phiforge.validation.reference import Source, compute_reference
from phiforge.validation.reference_file import DISTRIBUTIONS_FILE, REFERENCE_FILE, read_reference, write_reference
from phiforge.validation.subset import packaged_part
from phiforge.variant import context_of
from phiforge.verbs.defaults import data_files, default_tasks, default_texts, evidence_code

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from phiforge.store import Store
    from phiforge.validation.asking import Progress
    from phiforge.validation.reference_outputs import ReferenceOutputs
    from phiforge.variant import CheckpointFacts
    from phiforge.verbs.subject import Subject
    from phiforge.verbs.watch import Stages

STAGE, KIND = "reference of the package", "package-reference"
_FILES = (REFERENCE_FILE, DISTRIBUTIONS_FILE)


def make_reference(
    subjects: Sequence[Subject],
    checkpoint: Path,
    about: CheckpointFacts,
    *,
    texts: Path | None,
    tasks: Path | None,
    cache: Path,
    threads: int | None,
    progress: Progress,
    asking: Asking = DEFAULT_ASKING,
) -> dict[str, bytes]:
    """Return the reference files of a package with these variants, by name.

    After a validation of the variants this computes nothing: all that the original said is in the cache.

    Args:
        subjects: The variants; the reference is for the longest context of them.
        checkpoint: The original.
        about: What the variants' records say of it.
        texts: Held-out text; the embedded one by default.
        tasks: Held-out tasks; by default the embedded ones, for the embedded model only.
        cache: What the original said at the validation.
        threads: Threads of torch, where something must be computed.
        progress: Told of each step: (step, done, total).
        asking: How much was asked at the validation; code is left out, since no package asks to run any.
    """
    threads = threads or default_threads()
    outputs = ask_checkpoint(
        checkpoint,
        texts or default_texts(),
        tasks or default_tasks(checkpoint),
        context=max(context_of(subject.folder) for subject in subjects),
        cache=cache,
        threads=threads,
        progress=progress,
        asking=asking,
    )
    source = Source(checkpoint, outputs.fingerprint, cache, threads)
    part = packaged_part(outputs, lambda ids: compute_reference(source, ids))
    source.close()
    return write_reference(part, about)


def built_reference(
    subjects: Sequence[Subject],
    checkpoint: Path,
    about: CheckpointFacts,
    *,
    texts: Path | None,
    tasks: Path | None,
    store: Store,
    threads: int | None,
    stages: Stages,
    asking: Asking = DEFAULT_ASKING,
) -> dict[str, bytes]:
    """Return the reference files of a build's package, made now unless the store has them; arguments as above."""
    context = max(context_of(subject.folder) for subject in subjects)
    data = [hash_file(path) for path in data_files(texts, tasks, checkpoint)]
    key = content_key([KIND, about.model_dump(), context, data, asdict(asking), evidence_code()])
    known = store.find(KIND, key)
    if known is not None:
        stages.reused(STAGE)
        return reference_files(known, about)
    with stages.timed(STAGE), store.stage(KIND, key) as folder:
        files = make_reference(
            subjects, checkpoint, about, texts=texts, tasks=tasks, cache=store.root / "reference", threads=threads,
            progress=stages.watcher.advanced, asking=asking,
        )  # fmt: skip
        for name, content in files.items():
            (folder / name).write_bytes(content)
    return files


def packaged_reference(package: Path, subjects: Sequence[Subject]) -> ReferenceOutputs:
    """Return what the original said, from a package, for its variants.

    Raises:
        PackageInvalidError: The package carries no reference, a broken one, or one of another checkpoint.
    """
    outputs = read_reference(package / REFERENCE_FOLDER)
    for subject in subjects:
        if subject.record is not None:
            _check_original(outputs, subject.record.checkpoint, package / REFERENCE_FOLDER)
    return outputs


def reference_files(folder: Path, about: CheckpointFacts) -> dict[str, bytes]:
    """Return the files of a reference folder, by name, after a check of all that is in them.

    Raises:
        PackageInvalidError: They are broken, or of another checkpoint.
    """
    _check_original(read_reference(folder), about, folder)
    return {name: (folder / name).read_bytes() for name in _FILES}


def _check_original(outputs: ReferenceOutputs, about: CheckpointFacts, folder: Path) -> None:
    if outputs.fingerprint != about.fingerprint:
        raise errors.PackageInvalidError(
            f"The reference in {folder} is of another checkpoint than the variant.",
            why=f"It is of {outputs.fingerprint[:12]}, the variant of {about.name} ({about.fingerprint[:12]}).",
            fix="Validate the variant with its own checkpoint, and package it with the evidence of that.",
        )
