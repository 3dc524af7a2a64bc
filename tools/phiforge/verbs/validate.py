"""Measure what a variant costs in accuracy: drift, answers, probes."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from phiforge import catalog, errors
from phiforge.evidence import AnyEvidence, dump_evidence
from phiforge.hashing import content_key, hash_file
from phiforge.machine import default_threads
from phiforge.packaging.layout import MANIFEST, REFERENCE_FOLDER
from phiforge.pipeline import STAGES_PASS, StagesOptions
from phiforge.reporting.names import evidence_names
from phiforge.store import Store, write_atomically
from phiforge.validation.asking import CONTINUATION_TOKENS, DEFAULT_ASKING, Asking
from phiforge.variant import WORKFLOW_FILE, context_of
from phiforge.verbs.calibrate import check_calibration
from phiforge.verbs.checkpoint import locate
from phiforge.verbs.defaults import data_files, default_tasks, default_texts, evidence_code
from phiforge.verbs.output import prepare_output
from phiforge.verbs.packaged import running_here
from phiforge.verbs.reference import make_reference, packaged_reference
from phiforge.verbs.subject import check_loads_here, find_subjects
from phiforge.verbs.validate_gpu import GPU_TABLES, gpu_key, validate_on_gpu
from phiforge.verbs.watch import Stages, Unwatched

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from phiforge.validation.reference_outputs import ReferenceOutputs
    from phiforge.validation.staged import StagedSubject
    from phiforge.verbs.subject import Subject
    from phiforge.verbs.watch import Watcher


HARNESS_FILE = "tasks-lm-eval.json"


def validate(
    variant: Path,
    checkpoint: Path | None = None,
    *,
    revision: str | None = None,
    output: Path,
    texts: Path | None = None,
    tasks: Path | None = None,
    threads: int | None = None,
    chunk: int | None = None,
    allow_code: bool = False,
    free_running_tokens: int = CONTINUATION_TOKENS,
    lm_eval: Sequence[str] = (),
    watcher: Watcher | None = None,
) -> dict[str, Path]:
    """Validate the variants under `variant` and write their evidence: drift.json, tasks.json, probes.json and others.

    Without a checkpoint the reference is what travels in a package, a part of what the original said; then those
    variants are validated that can run on this machine, and neither torch nor the original is needed.

    Args:
        variant: A package, a built variant's folder, or a plain model folder.
        checkpoint: The checkpoint it was built from, which is the reference; a folder or a Hub id.
        revision: The commit of a Hub id; by default the pinned one.
        output: Folder for the evidence; each variant gets a folder of its name in it.
        texts: Held-out text, JSONL with id and text; the embedded one by default.
        tasks: Folder of task files with a tasks.toml; by default the embedded ones, for the embedded model only.
        threads: Threads of the runtime; by default the cores this process may use.
        chunk: Tokens of a prompt that a GPU's provider computes at once, 0 for all; by default what its adapter needs.
        allow_code: Whether tasks are asked whose judging runs what the model wrote, in a sandbox.
        free_running_tokens: The most tokens of a greedy continuation that is held against the original's.
        lm_eval: Tasks of the lm-evaluation-harness, asked of original and variant; needs a checkpoint and `[tasks]`.
        watcher: Told of the progress.

    Returns:
        The evidence folder of each variant, by name.

    Raises:
        CheckpointNotFoundError: There is none, and what is validated is no package, or other data than a package's own
            is given.
        PackageInvalidError: The package carries no reference, or a broken one.
        FallbackError: No variant of the package can run on this machine.
        OutputUnwritableError: The output folder cannot be written.
    """
    watcher = watcher or Unwatched()
    if checkpoint is None:
        _check_needs_none(variant, texts, tasks or (Path(lm_eval[0]) if lm_eval else None), revision)
    subjects = find_subjects(variant)
    prepare_output(output)
    if checkpoint is None:
        return _by_package(variant, subjects, output, threads, watcher, chunk)
    checkpoint = locate(checkpoint, revision, Stages(watcher))
    cache, written = output / "reference", {}
    asking = Asking(run_code=allow_code, continuation_tokens=free_running_tokens)
    for subject in subjects:
        found = run_validation(
            subject, checkpoint, texts=texts, tasks=tasks, cache=cache, threads=threads, watcher=watcher, chunk=chunk,
            asking=asking,
        )  # fmt: skip
        if lm_eval:
            found |= _ask_harness(subject, checkpoint, lm_eval, cache, threads)
        written[subject.name] = _write(output / subject.name, found)
        if subject.record is not None:
            files = make_reference(
                [subject], checkpoint, subject.record.checkpoint, texts=texts, tasks=tasks, cache=cache,
                threads=threads, progress=watcher.advanced, asking=asking,
            )  # fmt: skip
            _write(output / subject.name / REFERENCE_FOLDER, files)
    return written


def _ask_harness(
    subject: Subject, checkpoint: Path, names: Sequence[str], work: Path, threads: int | None
) -> dict[str, str]:
    """Ask a variant tasks of the harness, on the CPU where its device is not here."""
    # Imported here: the runtime takes seconds to load.
    from phiforge.runtime.variant import provider_of, read_config
    from phiforge.validation.gpu import stand_in_way
    from phiforge.validation.harness import ask_harness
    from phiforge.validation.run import check_one_graph
    from phiforge.validation.way import way_here

    check_one_graph(subject.folder)
    provider = provider_of(read_config(subject.folder))
    way = stand_in_way() if provider in GPU_TABLES else way_here(provider)
    found = ask_harness(
        subject.folder, checkpoint, names, way, variant_sha256=subject.sha256,
        context=context_of(subject.folder), work=work,
        threads=threads or default_threads(),
    )  # fmt: skip
    return {HARNESS_FILE: dump_evidence(found)}


def _check_needs_none(variant: Path, texts: Path | None, tasks: Path | None, revision: str | None) -> None:
    """Refuse what cannot be done without a checkpoint."""
    if not (variant / MANIFEST).is_file():
        raise errors.CheckpointNotFoundError(
            f"No checkpoint was given to validate {variant}.",
            why="Only a package (.ortpackage) carries a reference; a model folder is held against its original.",
            fix="Name the checkpoint it was built from with --checkpoint, or give a package.",
        )
    if texts is not None or tasks is not None or revision is not None:
        raise errors.CheckpointNotFoundError(
            "No checkpoint was given for other held-out data than the package's own.",
            why="A package carries what its original said of one fixed set of texts and questions.",
            fix="Leave --texts, --tasks and --revision out, or name the checkpoint with --checkpoint.",
        )


def _by_package(
    package: Path, subjects: Sequence[Subject], output: Path, threads: int | None, watcher: Watcher, chunk: int | None
) -> dict[str, Path]:
    """Validate what runs on this machine by the reference that the package carries."""
    outputs = packaged_reference(package, subjects)
    here = running_here(package, [subject.name for subject in subjects])
    return {
        subject.name: _write(output / subject.name, validate_by(outputs, subject, output, threads, watcher, chunk))
        for subject in subjects
        if subject.name in here
    }


def _write(folder: Path, files: Mapping[str, str] | Mapping[str, bytes]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        write_atomically(folder / name, content)
    return folder


def validate_by(
    outputs: ReferenceOutputs,
    subject: Subject,
    work: Path,
    threads: int | None,
    watcher: Watcher,
    chunk: int | None = None,
) -> dict[str, str]:
    """Validate one variant against what the original said, and return its evidence as JSON text, by file name."""
    # Imported here: the runtime takes seconds to load.
    from phiforge.runtime.variant import provider_of, read_config
    from phiforge.validation.run import validate_variant
    from phiforge.validation.subset import within
    from phiforge.validation.way import way_here

    result = validate_variant(
        subject.folder,
        within(outputs, context_of(subject.folder)),
        way_here(provider_of(read_config(subject.folder)), chunk),
        variant_sha256=subject.sha256,
        work=work,
        threads=threads,
        progress=watcher.advanced,
    )
    return evidence_files(result.records())


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
    chunk: int | None = None,
    project: Path | None = None,
    asking: Asking = DEFAULT_ASKING,
) -> dict[str, str]:
    """Validate one variant against its checkpoint and return its evidence as JSON text, by file name.

    A variant for an NPU or a GPU is held against `others`, variants of the same checkpoint for the CPU. `chunk` is what
    a GPU provider computes of a prompt at once: 0 for all, None for what its adapter needs. `project` has the table of
    what that provider has kernels for; it is found from the working folder by default. `asking` says how much is asked.

    Raises:
        LeakageError: It was calibrated on texts that it would be judged by.
        VariantUnusableError: It is for an NPU, and neither that nor what was made on the way is here.
    """
    # Imported here: the light commands do without it.
    from phiforge.runtime.variant import provider_of, read_config
    from phiforge.validation.held_out import ask_checkpoint
    from phiforge.validation.subset import within

    tasks = tasks or default_tasks(checkpoint)
    if subject.calibration:
        check_calibration(subject.calibration, texts or default_texts(), tasks)
    if subject.build is not None:
        return _validate_staged(subject, checkpoint, texts, tasks, cache, threads, watcher, others, asking)
    check_loads_here(subject)
    outputs = ask_checkpoint(
        checkpoint, texts or default_texts(), tasks, context=context_of(subject.folder), cache=cache,
        threads=threads or default_threads(), progress=watcher.advanced, asking=asking,
    )  # fmt: skip
    provider = provider_of(read_config(subject.folder))
    if provider not in GPU_TABLES:
        return validate_by(outputs, subject, cache, threads, watcher)
    found = validate_on_gpu(
        within(outputs, context_of(subject.folder)), subject, provider, work=cache, threads=threads, watcher=watcher,
        others=others, chunk=chunk, project=project,
    )  # fmt: skip
    return evidence_files(found)


def _validate_staged(
    subject: Subject,
    checkpoint: Path,
    texts: Path | None,
    tasks: Path | None,
    cache: Path,
    threads: int | None,
    watcher: Watcher,
    others: Sequence[Subject],
    asking: Asking,
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
        asking=asking,
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
    project: Path | None = None,
    asking: Asking = DEFAULT_ASKING,
) -> str:
    """The key of a validation: everything its numbers depend on."""
    data = [hash_file(path) for path in data_files(texts, tasks, checkpoint)]
    compared = [other.sha256 for other in others]
    provider = subject.record.provider if subject.record else ""
    gpu = gpu_key(provider, project or catalog.find_project()) if provider in GPU_TABLES else []
    asked = [threads, asdict(asking)]
    return content_key(["validation", subject.sha256, compared, fingerprint, data, asked, gpu, evidence_code()])


def stored_validation(store: Store, key: str) -> dict[str, str] | None:
    """The evidence of a finished validation stage, or None."""
    folder = store.find("validation", key)
    if folder is None:
        return None
    return {path.name: path.read_text(encoding="utf-8") for path in sorted(folder.glob("*.json"))}
