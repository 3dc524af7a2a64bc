"""Build: from a checkpoint to a validated package, one variant for each pipeline its device profiles name."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from phiforge import catalog, errors
from phiforge.hashing import content_key, hash_bytes
from phiforge.machine import default_threads
from phiforge.olive.driver import OliveWorker
from phiforge.packaging.layout import REPORT_FOLDER, SUFFIX
from phiforge.packaging.verify import verify_package
from phiforge.pipeline import MEASURED, StagesOptions
from phiforge.plan import resolve
from phiforge.store import Store
from phiforge.toolchain import toolchain
from phiforge.validation.asking import Asking
from phiforge.verbs.bench import bench_key, latency_file, run_bench
from phiforge.verbs.calibrate import Calibrating, check_calibration, complete_pipelines, needs_calibration
from phiforge.verbs.checkpoint import examine, locate
from phiforge.verbs.conform import check_planned
from phiforge.verbs.defaults import default_calibration, default_tasks, default_texts
from phiforge.verbs.make_variant import make_variant, work_key
from phiforge.verbs.package import PackageInput, publish
from phiforge.verbs.predict import predictions
from phiforge.verbs.preflight import check_memory_of_devices, check_resources
from phiforge.verbs.reference import built_reference
from phiforge.verbs.resolving import resolve_names
from phiforge.verbs.subject import find_subjects
from phiforge.verbs.validate import run_validation, stored_validation, validation_key
from phiforge.verbs.watch import Stages, Unwatched

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from phiforge.checkpoint.inspect import CheckpointFacts
    from phiforge.gate import Verdict
    from phiforge.pipeline import Pipeline
    from phiforge.plan import Plan, VariantPlan
    from phiforge.target import Profile
    from phiforge.verbs.subject import Subject
    from phiforge.verbs.watch import StageRecord, Watcher

STORE_FOLDER = "store"


@dataclass(frozen=True, kw_only=True)
class BuildResult:
    """What a build came to. After a dry run there is a plan and nothing else."""

    plan: Plan
    package: Path | None
    content_sha256: str | None
    report: Path | None
    verdicts: dict[str, Verdict]
    stages: tuple[StageRecord, ...]


@dataclass(frozen=True, kw_only=True)
class BuildOptions:
    """What a build is told besides the checkpoint and the targets."""

    project: Path
    output: Path
    texts: Path | None
    tasks: Path | None
    threads: int | None
    calibration: Path
    asking: Asking


def build(
    checkpoint: Path,
    *,
    targets: Sequence[str],
    revision: str | None = None,
    output: Path = Path("artifacts"),
    pipeline: str | None = None,
    target_bpw: float | None = None,
    context: int | None = None,
    calibration: Path | None = None,
    texts: Path | None = None,
    tasks: Path | None = None,
    threads: int | None = None,
    allow_code: bool = False,
    dry_run: bool = False,
    project: Path | None = None,
    watcher: Watcher | None = None,
) -> BuildResult:
    """Build, validate, measure, judge and package a checkpoint for device profiles.

    Finished stages are kept under `output`/store and never repeated while nothing they depend on changes; a build that
    was killed goes on from the last finished stage.

    Args:
        checkpoint: A Hugging Face folder: config.json, safetensors, tokenizer. Or the id of a model of the Hub, which
            is downloaded.
        targets: Names of device profiles, or paths of such files.
        revision: The commit to download, 40 digits; by default the pinned one of a model that phiforge knows.
        output: Folder for the store and the package.
        pipeline: A pipeline to use instead of the one each profile names.
        target_bpw: Bits per weight to spend in all; which weights get 8 bits is measured. Instead of the pipeline's
            own mixed rule.
        context: Tokens of context of the variants for an NPU; by default as many as model and device hold.
        calibration: Calibration texts, JSONL with id and text; the embedded ones by default.
        texts: Held-out text for drift, JSONL with id and text; the embedded one by default.
        tasks: Folder of task files with a tasks.toml.
        threads: Threads of the runtime during validation; by default the cores this process may use.
        allow_code: Whether tasks are asked whose judging runs what the model wrote, in a sandbox.
        dry_run: Stop when the plan is resolved and found to fit.
        project: The project whose pipelines and profiles are meant; found from the working folder by default.
        watcher: Told of the plan, the stages and their progress.

    Returns:
        The package, its report, a verdict for each profile, and the stages with their times.

    Raises:
        PhiforgeError: In one of the ways of `phiforge.errors`; nothing half-made stands under a final name.
    """
    watcher = watcher or Unwatched()
    stages = Stages(watcher)
    root = project or catalog.find_project()
    profiles, pipelines = resolve_names(root, targets, pipeline)
    pipelines = _with_wishes(pipelines, target_bpw, context)
    store = Store(output / STORE_FOLDER)
    with store.lock():
        store.clean()
        facts, fingerprint = examine(locate(checkpoint, revision, stages), store, stages)
        options = BuildOptions(
            project=root,
            output=output,
            texts=texts,
            tasks=tasks,
            threads=threads,
            calibration=calibration or default_calibration(),
            asking=Asking(run_code=allow_code),
        )
        about = _check_calibration(pipelines, facts, fingerprint, options)
        plan = resolve(facts, fingerprint, profiles, complete_pipelines(pipelines, about, None, stages), toolchain())
        check_memory_of_devices(plan)
        if _to_build(plan, store):
            check_resources(plan, output, lambda: _other_plans(root, targets, facts, fingerprint))
        if not dry_run:
            _check_compilers(plan, store)
            completed = complete_pipelines(pipelines, about, store, stages)
            plan = resolve(facts, fingerprint, profiles, completed, toolchain())
        watcher.resolved(plan)
        if dry_run:
            return BuildResult(
                plan=plan, package=None, content_sha256=None, report=None, verdicts={}, stages=tuple(stages.records)
            )
        return _run(plan, facts, profiles, store, stages, options)


def _with_wishes(pipelines: dict[str, Pipeline], target_bpw: float | None, context: int | None) -> dict[str, Pipeline]:
    """The pipelines with measured mixed precision in place of their own rule, and with a context, where asked for."""
    if target_bpw is not None:
        pipelines = {
            name: item.with_quantize_options(mixed=MEASURED, target_bpw=target_bpw) for name, item in pipelines.items()
        }
    return pipelines if context is None else _with_context(pipelines, context)


def _with_context(pipelines: Mapping[str, Pipeline], context: int) -> dict[str, Pipeline]:
    """The pipelines with this context in those for an NPU, whose graphs have fixed shapes."""
    if all(pipeline.stages_options() is None for pipeline in pipelines.values()):
        raise errors.PipelineInvalidError(
            f"A context of {context:,} tokens was asked for, but no variant of this build has a fixed one.",
            why="Only variants for an NPU do; the others take any length up to the model's own.",
            fix="Leave --context out, or add a --target with an NPU; `phiforge targets` lists them.",
        )
    return {name: item.with_options(StagesOptions, context_tokens=context) for name, item in pipelines.items()}


def _check_calibration(
    pipelines: Mapping[str, Pipeline], facts: CheckpointFacts, fingerprint: str, options: BuildOptions
) -> Calibrating:
    """Check the calibration texts, if any pipeline needs them, and say what calibration needs to know."""
    if needs_calibration(pipelines):
        tasks = options.tasks or default_tasks(facts.folder)
        check_calibration(options.calibration, options.texts or default_texts(), tasks)
    return Calibrating(
        facts=facts,
        fingerprint=fingerprint,
        calibration=options.calibration,
        threads=options.threads or default_threads(),
    )


def _other_plans(project: Path, targets: Sequence[str], facts: CheckpointFacts, fingerprint: str) -> dict[str, Plan]:
    """The plans of the same build with each pipeline of the project that fits the checkpoint."""
    found = {}
    for name in catalog.pipeline_names(project):
        with contextlib.suppress(errors.PipelineInvalidError, errors.ContextTooLongError):
            profiles, pipelines = resolve_names(project, targets, name)
            found[name] = resolve(facts, fingerprint, profiles, pipelines, {})
    return found


def _check_compilers(plan: Plan, store: Store) -> None:
    """Miss a compiler before the work that would end in it.

    Raises:
        DependencyMissingError: A variant is to be compiled by QNN, which is not installed.
    """
    if any(variant.npu for variant in _to_build(plan, store)):
        # Imported here: builds for other devices do without it.
        from phiforge.runtime.qnn import sdk_version

        sdk_version()


def _to_build(plan: Plan, store: Store) -> list[VariantPlan]:
    return [variant for variant in plan.variants if store.find("variant", variant.key) is None]


def _run(
    plan: Plan, facts: CheckpointFacts, profiles: list[Profile], store: Store, stages: Stages, options: BuildOptions
) -> BuildResult:
    inputs: list[PackageInput] = []
    folders = _made(plan, facts, store, stages, options)
    for variant, folder in zip(plan.variants, folders, strict=True):
        (subject,) = find_subjects(folder)
        others = [item.subject for item in inputs if item.record.device == "cpu"]
        evidence = _validated(subject, others, plan.fingerprint, facts.folder, store, stages, options)
        own = tuple(profile for profile in profiles if profile.name in variant.profiles)
        # What a GPU or an NPU takes is measured on the device; no other machine says anything of it.
        for profile in own if variant.device == "cpu" else ():
            evidence |= _benched(subject, profile, store, stages)
        evidence |= predictions(subject, own)
        inputs.append(
            PackageInput(
                subject=subject,
                about=folder,
                evidence=evidence,
                profiles=own,
                licences=tuple(sorted(folder.glob("LICENSE*"))),
            )
        )
    reference = built_reference(
        [item.subject for item in inputs], facts.folder, inputs[0].record.checkpoint, texts=options.texts,
        tasks=options.tasks, store=store, threads=options.threads, stages=stages, asking=options.asking,
    )  # fmt: skip
    store.discard_work("olive", work_key(plan))
    return _packaged(plan, inputs, reference, store, stages, options)


def _made(plan: Plan, facts: CheckpointFacts, store: Store, stages: Stages, options: BuildOptions) -> list[Path]:
    """The stage folder of every variant, built by one process of Olive, which takes long to start.

    Graphs for GPUs are checked in it first: a node without a kernel is found before anything is quantized.
    """
    with OliveWorker() as worker:
        on_gpu = [variant for variant in _to_build(plan, store) if variant.device == "gpu"]
        if on_gpu:
            with stages.timed("conformance"):
                check_planned(on_gpu, facts.folder, options.project, worker, store.work("olive", work_key(plan)))
        return [
            make_variant(plan, variant, facts.folder, store, stages, options.calibration, worker)
            for variant in plan.variants
        ]


def _validated(
    subject: Subject,
    others: Sequence[Subject],
    fingerprint: str,
    checkpoint: Path,
    store: Store,
    stages: Stages,
    options: BuildOptions,
) -> dict[str, str]:
    """Validate a variant; one for an NPU or a GPU is held against those for the CPU, which the plan makes first."""
    stage = f"validate {subject.name}"
    compared = [other for other in others if subject.record and subject.record.device != "cpu"]
    key = validation_key(
        subject, fingerprint, options.texts, options.tasks, checkpoint, options.threads, compared, options.project,
        options.asking,
    )  # fmt: skip
    known = stored_validation(store, key)
    if known is not None:
        stages.reused(stage)
        return known
    with stages.timed(stage), store.stage("validation", key) as folder:
        found = run_validation(
            subject,
            checkpoint,
            texts=options.texts,
            tasks=options.tasks,
            cache=store.root / "reference",
            threads=options.threads,
            watcher=stages.watcher,
            others=compared,
            project=options.project,
            asking=options.asking,
        )
        for name, text in found.items():
            (folder / name).write_text(text, encoding="utf-8", newline="\n")
    return found


def _benched(subject: Subject, profile: Profile, store: Store, stages: Stages) -> dict[str, str]:
    stage = f"bench {subject.name} as {profile.name}"
    key = bench_key(subject, profile)
    known = store.find("latency", key)
    if known is not None:
        stages.reused(stage)
        return {latency_file(profile): (known / "latency.json").read_text(encoding="utf-8")}
    with stages.timed(stage), store.stage("latency", key) as folder:
        text = run_bench(subject, profile, stages.watcher)
        (folder / "latency.json").write_text(text, encoding="utf-8", newline="\n")
    return {latency_file(profile): text}


def _packaged(
    plan: Plan,
    inputs: list[PackageInput],
    reference: dict[str, bytes],
    store: Store,
    stages: Stages,
    options: BuildOptions,
) -> BuildResult:
    final = options.output / f"{plan.model}{SUFFIX}"
    parts = [
        [item.subject.sha256, item.evidence, [p.model_dump(mode="json") for p in item.profiles]] for item in inputs
    ]
    hashes = {name: hash_bytes(content) for name, content in reference.items()}
    signature = [str(final.resolve()), content_key([parts, hashes])]
    note = store.recall("package", signature)
    if note is not None and _is_sealed(final, note["seal"]):
        stages.reused("package")
        content = str(note["content"])
    else:
        with stages.timed("package"):
            content, seal = publish(inputs, final, stages.records, reference)
        store.remember("package", signature, {"seal": seal, "content": content})
    reports = {name: report for item in inputs for name, report in item.reports().items()}
    return BuildResult(
        plan=plan,
        package=final,
        content_sha256=content,
        stages=tuple(stages.records),
        report=final / REPORT_FOLDER / "report.html",
        verdicts={name: report.verdict for name, report in reports.items()},
    )


def _is_sealed(package: Path, seal: str) -> bool:
    try:
        return verify_package(package).seal_sha256 == seal
    except errors.PhiforgeError:
        return False
