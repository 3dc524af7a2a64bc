"""Measure: all that one machine can say of a package, in one evidence file bound to the package's content."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from phiforge import errors
from phiforge.evidence import FreeRunning, Kind, Probe, Refusals, Tasks, dump_evidence, parse_evidence
from phiforge.evidence_file import (
    EvidenceFile,
    MachineFacts,
    PackageFacts,
    ProfileFacts,
    VariantFacts,
    dump_evidence_file,
    file_name,
    lasting,
    machine_id,
)
from phiforge.hashing import content_key, hash_file
from phiforge.machine import tool_versions
from phiforge.packaging.layout import load_manifest
from phiforge.packaging.verify import read_sums, verify_package
from phiforge.packaging.write import content_hash
from phiforge.selection import mismatch
from phiforge.store import Store, write_atomically
from phiforge.toolchain import code_digest
from phiforge.validation.subset import within
from phiforge.validation.way import way_here
from phiforge.variant import context_of
from phiforge.verbs.defaults import MEASURING_CODE, MEASURING_PACKAGES
from phiforge.verbs.judging import make_report, phiforge_version
from phiforge.verbs.output import prepare_output
from phiforge.verbs.packaged import packaged_profile, packaged_profiles, profile_files
from phiforge.verbs.reference import packaged_reference
from phiforge.verbs.subject import find_subjects
from phiforge.verbs.watch import Stages, Unwatched

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from phiforge.evidence import AnyEvidence
    from phiforge.gate import Verdict
    from phiforge.target import Profile
    from phiforge.validation.answers import Answers
    from phiforge.validation.reference_outputs import ReferenceOutputs
    from phiforge.validation.way import Way
    from phiforge.verbs.explain import Choice, Explanation
    from phiforge.verbs.subject import Subject
    from phiforge.verbs.watch import Watcher

STORE_FOLDER, KIND = "measured", "part"
# In the order of the evidence file; how the answers ended goes into the probes.
ANSWER_FILES = ("tasks.json", "free-running.json", "refusals.json")
RECORD_FILES = ("drift.json", *ANSWER_FILES, "probes.json", "latency.json")
STOPPING_FILE = "stopping.json"
WORK_FOLDER = "work"


@dataclass(frozen=True, kw_only=True)
class Job:
    """What is measured, and where: decided before anything is."""

    package: Path
    content_sha256: str
    explanation: Explanation
    choice: Choice
    subject: Subject
    profile: Profile
    profile_sha256: str
    adapter: str
    device: int
    threads: int | None
    way: Way


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """What a machine measured, the file it was written to, and the verdict on it."""

    job: Job
    file: EvidenceFile
    path: Path
    verdict: Verdict


@dataclass(frozen=True, kw_only=True)
class _Parts:
    """The parts of one measurement: each is done once and kept, so that an interrupted run goes on."""

    job: Job
    store: Store
    stages: Stages

    def part(self, name: str, make: Callable[[], dict[str, str]]) -> dict[str, str]:
        """Return a part's files by name, made now unless the store has them."""
        job = self.job
        key = content_key(
            [
                name, job.content_sha256, job.subject.sha256, job.profile_sha256, job.adapter, job.device, job.threads,
                job.way.kind, _conditions(job),
            ]
        )  # fmt: skip
        stage = f"{name} of {job.subject.name}"
        found = self.store.find(KIND, key)
        if found is not None:
            self.stages.reused(stage)
            return {path.name: path.read_text(encoding="utf-8") for path in sorted(found.glob("*.json"))}
        with self.stages.timed(stage), self.store.stage(KIND, key) as folder:
            files = make()
            for file, text in files.items():
                (folder / file).write_text(text, encoding="utf-8", newline="\n")
        return files


def measure(
    package: Path,
    *,
    output: Path,
    variant: str | None = None,
    target: str | None = None,
    device: int | None = None,
    threads: int | None = None,
    watcher: Watcher | None = None,
    on_job: Callable[[Job], None] = lambda job: None,
) -> Measurement:
    """Measure a package on this machine: where its nodes run, time and memory, drift, probes and answers.

    Everything that is needed travels in the package, so neither the checkpoint nor torch nor a project is. Finished
    parts are kept under `output`: a run that was interrupted goes on, and the same run again measures nothing anew.

    Args:
        package: A package, which must be as it was sealed.
        output: Folder for the evidence file.
        variant: A variant by name; by default the one this machine gets.
        target: The profile to measure and judge by, of those it is packaged for; by default the one that fits.
        device: The device that must run it, by its number from 0; refused if the runtime would take another.
        threads: Threads of the CPU's operators; by default what the profile says, or the cores this process may use.
        watcher: Told of the progress.
        on_job: Told what will be measured where, before it begins.

    Raises:
        PackageInvalidError: It is no package, or carries no reference.
        PackageTamperedError: It is not as it was sealed.
        VariantUnusableError: The variant is for an NPU, whose drift cannot be measured so.
        FallbackError: No variant runs here, its nodes do not run where it promises, or this process is emulated.
        ProfileUnknownError: It is not packaged for this profile, or the profile, or each, is for other machines.
        OutputUnwritableError: The output folder cannot be written.
        OutputLockedError: Another measurement is working there.
    """
    prepare_output(output)
    job = _job(package, variant, target, device, threads)
    on_job(job)
    store = Store(output / STORE_FOLDER)
    with store.lock():
        store.clean()
        parts = _Parts(job=job, store=store, stages=Stages(watcher or Unwatched()))
        file = _measured(parts)
        path = output / file_name(file)
        write_atomically(path, dump_evidence_file(file))
    assert job.subject.record is not None
    verdict = make_report(job.subject.record, job.profile, file.records, (), folder=job.subject.folder).verdict
    return Measurement(job=job, file=file, path=path, verdict=verdict)


def _conditions(job: Job) -> list[object]:
    """What a part depends on besides its subject, without what changes from start to start of the machine."""
    machine = lasting(job.explanation.machine).model_dump()
    return [code_digest(MEASURING_CODE), tool_versions(MEASURING_PACKAGES), machine]


def _job(package: Path, variant: str | None, target: str | None, device: int | None, threads: int | None) -> Job:
    # Imported here: it looks at the machine's devices by the runtime.
    from phiforge.validation.run import check_one_graph
    from phiforge.verbs.explain import chosen_variant, explain

    verify_package(package)
    explanation = explain(package)
    choice = chosen_variant(explanation, variant)
    subject = next(item for item in find_subjects(package) if item.name == choice.variant)
    check_one_graph(subject.folder)
    profile = _profile(explanation, choice, target)
    index = _device(choice, device)
    return Job(
        package=package,
        content_sha256=content_hash(read_sums(package)),
        explanation=explanation,
        choice=choice,
        subject=subject,
        profile=profile,
        profile_sha256=hash_file(profile_files(package, choice.variant)[profile.name]),
        adapter=choice.adapters[index],
        device=index,
        threads=threads,
        way=way_here(choice.provider),
    )


def _profile(explanation: Explanation, choice: Choice, target: str | None) -> Profile:
    """Return the profile to measure and judge by: one that is for such a machine, since the gate would take any."""
    wanted = target or choice.profile
    if wanted is None:
        raise errors.ProfileUnknownError(
            f"No profile of the variant {choice.variant} fits this machine.",
            why=choice.why,
            fix="Measure on a machine that one of them is for, or build the variant with a profile for this one.",
        )
    profile = packaged_profile(explanation.package, choice.variant, wanted)
    reason = mismatch(profile, explanation.machine, choice.first)
    if reason is None:
        return profile
    known = packaged_profiles(explanation.package, choice.variant).values()
    fitting = [item.name for item in known if mismatch(item, explanation.machine, choice.first) is None]
    raise errors.ProfileUnknownError(
        f"The profile {wanted} does not fit this machine.",
        why=f"{reason}; the variant {choice.variant} runs on {choice.adapters[0]} here.",
        fix=f"Name one that fits with --target: {', '.join(fitting)}."
        if fitting
        else "Measure on a machine that it is for, or build the variant with a profile for this one.",
    )


def _device(choice: Choice, device: int | None) -> int:
    """Return the place of the device to measure on, which is the first: no other can be had for certain.

    onnxruntime-genai 0.18 takes the first one in its own order. It can be told another only for DirectML, and there by
    a number of another order than onnxruntime's (src/dml/dml_helpers.cpp), so evidence might name the wrong one.
    """
    wanted = device or 0
    listed = ", ".join(f"{index} {name}" for index, name in enumerate(choice.adapters))
    if wanted >= len(choice.adapters):
        raise errors.FallbackError(
            f"There is no device {wanted} for the variant {choice.variant}.",
            why=f"This machine has {listed}.",
            fix="Choose one of these with --device, or leave it out to get the first.",
        )
    if wanted > 0:
        raise errors.FallbackError(
            f"The variant {choice.variant} cannot be measured on {choice.adapters[wanted]}.",
            why=f"The runtime takes the first device; this machine has {listed}.",
            fix="Switch off those before it, in the Device Manager of Windows, and measure without --device.",
        )
    return wanted


def _measured(parts: _Parts) -> EvidenceFile:
    """Do or find every part, and put them together."""
    # Imported here: what measures takes seconds to load.
    from phiforge.validation.latency import refuse_emulated

    job = parts.job
    outputs = packaged_reference(job.package, [job.subject])
    outputs = within(outputs, context_of(job.subject.folder))
    # A stand-in for the device has no time to tell of.
    timed = job.way.kind is Kind.MEASURED
    if timed:
        refuse_emulated(job.explanation.machine)
    placed = json.loads(parts.part("placement", lambda: _placement(job))["placement.json"])
    latency = parts.part("latency", lambda: _latency(parts)) if timed else {}
    answers = parts.part("answers", lambda: _answers(parts, outputs))
    rest = parts.part("drift and probes", lambda: _drift(parts, outputs, answers))
    machine = MachineFacts.model_validate(placed["machine"])
    note = f"device kit, machine {machine.id}: {machine.adapter}"
    texts = {**answers, **rest, **latency}
    records = [parse_evidence(texts[name], name) for name in RECORD_FILES if name in texts]
    return EvidenceFile(
        phiforge_version=phiforge_version(),
        package=PackageFacts(name=load_manifest(job.package).package_name, content_sha256=job.content_sha256),
        variant=VariantFacts(name=job.subject.name, sha256=job.subject.sha256),
        profile=ProfileFacts(name=job.profile.name, sha256=job.profile_sha256),
        machine=machine,
        placement=placed["nodes"],
        records=tuple(_noted(record, note) for record in records),
    )


def _noted(record: AnyEvidence, note: str) -> AnyEvidence:
    conditions = record.conditions.model_copy(update={"notes": (*record.conditions.notes, note)})
    return record.model_copy(update={"conditions": conditions})


def _placement(job: Job) -> dict[str, str]:
    # The runtime is imported here and below: it takes seconds to load.
    from phiforge.runtime.placement import check_placement

    nodes = Counter[str]()
    for (provider, _), count in check_placement(job.subject.folder, job.choice.provider).nodes.items():
        nodes[provider] += count
    facts = job.explanation.machine
    machine = MachineFacts(id=machine_id(facts, job.adapter), adapter=job.adapter, facts=facts)
    return {"placement.json": json.dumps({"nodes": nodes, "machine": machine.model_dump(mode="json")}, indent=1)}


def _latency(parts: _Parts) -> dict[str, str]:
    from phiforge.validation.latency import measure_latency

    job = parts.job
    measure = job.profile.measure
    if job.threads is not None:
        measure = measure.model_copy(update={"threads": job.threads})
    found = measure_latency(
        job.subject.folder,
        variant_sha256=job.subject.sha256,
        measure=measure,
        progress=parts.stages.watcher.advanced,
        gpu_vendor_id=job.choice.first.vendor_id if job.choice.first is not None else None,
    )
    return {"latency.json": dump_evidence(found)}


def _answers(parts: _Parts, outputs: ReferenceOutputs) -> dict[str, str]:
    """Answer the questions: in a part of its own, because it takes longest."""
    from phiforge.validation.run import answer_questions

    job = parts.job
    answers = answer_questions(
        job.subject.folder,
        outputs,
        job.way,
        variant_sha256=job.subject.sha256,
        work=parts.store.root / WORK_FOLDER,
        threads=job.threads,
        progress=parts.stages.watcher.advanced,
    )
    stopping = json.dumps([probe.model_dump(mode="json") for probe in answers.stopping], indent=1)
    records = (answers.tasks, answers.free_running, answers.refusals)
    told = zip(ANSWER_FILES, records, strict=True)
    return {STOPPING_FILE: stopping, **{name: dump_evidence(record) for name, record in told if record is not None}}


def _drift(parts: _Parts, outputs: ReferenceOutputs, answers: dict[str, str]) -> dict[str, str]:
    from phiforge.validation.run import validate_variant

    job = parts.job
    found = validate_variant(
        job.subject.folder,
        outputs,
        job.way,
        variant_sha256=job.subject.sha256,
        work=parts.store.root / WORK_FOLDER,
        threads=job.threads,
        progress=parts.stages.watcher.advanced,
        answers=_read_answers(answers),
    )
    return {"drift.json": dump_evidence(found.drift), "probes.json": dump_evidence(found.probes)}


def _read_answers(files: dict[str, str]) -> Answers:
    from phiforge.validation.answers import Answers

    tasks, running, refusals = (_read(files, name) for name in ANSWER_FILES)
    assert tasks is None or isinstance(tasks, Tasks)
    assert running is None or isinstance(running, FreeRunning)
    assert refusals is None or isinstance(refusals, Refusals)
    stopping = tuple(Probe.model_validate(item) for item in json.loads(files[STOPPING_FILE]))
    return Answers(tasks=tasks, free_running=running, refusals=refusals, stopping=stopping)


def _read(files: dict[str, str], name: str) -> AnyEvidence | None:
    return parse_evidence(files[name], name) if name in files else None
