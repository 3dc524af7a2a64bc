"""Measure what a variant costs in accuracy: drift, answers, probes."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from phiforge.evidence import AnyEvidence, dump_evidence
from phiforge.hashing import content_key, hash_file
from phiforge.olive.driver import WORKFLOW_FILE
from phiforge.pipeline import STAGES_PASS, StagesOptions
from phiforge.reporting.names import evidence_names
from phiforge.store import Store, write_atomically
from phiforge.verbs.calibrate import check_calibration
from phiforge.verbs.checkpoint import locate
from phiforge.verbs.defaults import default_tasks, default_texts, evidence_code
from phiforge.verbs.subject import check_loads_here, find_subjects
from phiforge.verbs.watch import Stages, Unwatched

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from phiforge.validation.staged import StagedSubject
    from phiforge.verbs.subject import Subject
    from phiforge.verbs.watch import Watcher


def validate(
    variant: Path,
    checkpoint: Path,
    *,
    revision: str | None = None,
    output: Path,
    texts: Path | None = None,
    tasks: Path | None = None,
    threads: int | None = None,
    watcher: Watcher | None = None,
) -> dict[str, Path]:
    """Validate every variant under `variant` and write its evidence: drift.json, tasks.json, probes.json and others.

    Args:
        variant: A package, a built variant's folder, or a plain model folder.
        checkpoint: The checkpoint it was built from, which is the reference; a folder or a Hub id.
        revision: The commit of a Hub id; by default the pinned one.
        output: Folder for the evidence; each variant gets a folder of its name in it.
        texts: Held-out text, JSONL with id and text; the embedded one by default.
        tasks: Folder of held-out tasks, JSONL with id, messages and answer; by default the embedded ones, for the
            embedded model only.
        threads: Threads of the runtime; by default the cores this process may use.
        watcher: Told of the progress.

    Returns:
        The evidence folder of each variant, by name.
    """
    written = {}
    subjects = find_subjects(variant)
    checkpoint = locate(checkpoint, revision, Stages(watcher or Unwatched()))
    for subject in subjects:
        found = run_validation(
            subject,
            checkpoint,
            texts=texts,
            tasks=tasks,
            cache=output / "reference",
            threads=threads,
            watcher=watcher or Unwatched(),
        )
        folder = output / subject.name
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in found.items():
            write_atomically(folder / name, text)
        written[subject.name] = folder
    return written


def run_validation(
    subject: Subject,
    checkpoint: Path,
    *,
    texts: Path | None,
    tasks: Path | None,
    cache: Path,
    threads: int | None,
    watcher: Watcher,
    others: Sequence[Subject] = (),
) -> dict[str, str]:
    """Validate one variant and return its evidence as JSON text, by file name.

    A variant for an NPU is held against `others`, variants of the same checkpoint for the CPU.

    Raises:
        LeakageError: It was calibrated on texts that it would be judged by.
        VariantUnusableError: It is for an NPU, and neither that nor what was made on the way is here.
    """
    # Imported here: torch and the runtime take seconds to load, and the light install has no torch.
    from phiforge.validation.run import validate_variant

    tasks = tasks or default_tasks(checkpoint)
    if subject.calibration:
        check_calibration(subject.calibration, texts or default_texts(), tasks)
    if subject.build is not None:
        return _validate_staged(subject, checkpoint, texts, tasks, cache, threads, watcher, others)
    check_loads_here(subject)
    result = validate_variant(
        subject.folder,
        checkpoint,
        variant_sha256=subject.sha256,
        texts=texts or default_texts(),
        tasks=tasks,
        cache=cache,
        threads=threads,
        progress=watcher.advanced,
    )
    found = (result.drift, result.tasks, result.probes)
    return evidence_files([evidence for evidence in found if evidence is not None])


def _validate_staged(
    subject: Subject,
    checkpoint: Path,
    texts: Path | None,
    tasks: Path | None,
    cache: Path,
    threads: int | None,
    watcher: Watcher,
    others: Sequence[Subject],
) -> dict[str, str]:
    """Validate a variant for an NPU by what was made on the way."""
    from phiforge.validation.staged import validate_staged

    cache.mkdir(parents=True, exist_ok=True)
    found = validate_staged(
        staged_subject(subject, others),
        checkpoint,
        texts=texts or default_texts(),
        tasks=tasks,
        cache=cache,
        threads=threads,
        progress=watcher.advanced,
    )
    return evidence_files(found)


def staged_subject(subject: Subject, others: Sequence[Subject]) -> StagedSubject:
    """A built variant for an NPU, and others to compare it with, as the validation takes it."""
    from phiforge.validation.staged import StagedSubject

    assert subject.build is not None
    (options,) = (item for item in workflow_passes(subject.build) if item["type"] == STAGES_PASS)
    return StagedSubject(
        build=subject.build,
        options=StagesOptions.model_validate(options),
        sha256=subject.sha256,
        others={other.name: (other.folder, other.sha256) for other in others},
    )


def workflow_passes(build: Path) -> list[dict[str, Any]]:
    """The passes that a variant was built by, from the workflow beside it."""
    workflow = json.loads((build / WORKFLOW_FILE).read_text(encoding="utf-8"))
    return list(workflow["passes"].values())


def evidence_files(evidence: Sequence[AnyEvidence]) -> dict[str, str]:
    """Evidence as JSON text, by file name; the first of a sort has the plain name, as drift.json."""
    names = evidence_names(evidence)
    return {f"{name}.json": dump_evidence(item) for name, item in zip(names, evidence, strict=True)}


def validation_key(
    subject: Subject,
    fingerprint: str,
    texts: Path | None,
    tasks: Path | None,
    checkpoint: Path,
    threads: int | None,
    others: Sequence[Subject] = (),
) -> str:
    """The key of a validation: everything its numbers depend on."""
    tasks = tasks or default_tasks(checkpoint)
    task_files = sorted(tasks.glob("*.jsonl")) if tasks else []
    data = [hash_file(path) for path in (texts or default_texts(), *task_files)]
    compared = [other.sha256 for other in others]
    return content_key(["validation", subject.sha256, compared, fingerprint, data, threads, evidence_code()])


def stored_validation(store: Store, key: str) -> dict[str, str] | None:
    """The evidence of a finished validation stage, or None."""
    folder = store.find("validation", key)
    if folder is None:
        return None
    return {path.name: path.read_text(encoding="utf-8") for path in sorted(folder.glob("*.json"))}
