"""Packages made by hand, and evidence files that other machines might have written of them."""

from __future__ import annotations

from pathlib import Path

from phiforge.evidence import AnyEvidence, Kind, Machine
from phiforge.evidence_file import (
    EvidenceFile,
    MachineFacts,
    PackageFacts,
    ProfileFacts,
    VariantFacts,
    dump_evidence_file,
    machine_id,
)
from phiforge.hashing import hash_file, hash_files, hash_listing
from phiforge.packaging.layout import load_manifest
from phiforge.packaging.verify import read_sums
from phiforge.packaging.write import content_hash
from phiforge.target import load_profile
from phiforge.variant import MODEL_FOLDER, RECORD_FILE, VariantRecord
from phiforge.verbs.package import PackageInput, publish
from phiforge.verbs.packaged import profile_files
from phiforge.verbs.subject import Subject, find_subjects
from phiforge.verbs.validate import evidence_files
from unit.reporting import samples

PROFILE = Path(__file__).parents[2] / "targets" / "qnn-x-elite.toml"
DEVICE = Machine(
    processor="Snapdragon(R) X Elite - X1E80100 - Qualcomm(R) Oryon(TM) CPU",
    architecture="arm64",
    process_architecture="arm64",
    logical_cores=12,
    physical_cores=12,
    memory_bytes=16_800_000_000,
    system="Windows 11",
)
ADAPTER = "Qualcomm Hexagon NPU"


def npu_stage(folder: Path) -> Path:
    """Make the stage folder of an NPU variant, with what stays there beside the model."""
    for name, data in {
        f"{MODEL_FOLDER}/part0.onnx": b"graph",
        f"{MODEL_FOLDER}/part0.bin": b"binary",
        "twin/part0.bin": b"twin",
        "qdq/part0.onnx": b"qdq",
        "calibration.jsonl": b"{}",
        "plan.json": b"{}",
        "workflow.json": b"{}",
        "olive-package.json": b"{}",
        "LICENSE": b"MIT",
    }.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    known = samples.npu_report()
    record = VariantRecord(
        name="qnn-a16w4",
        key="1" * 64,
        sha256=hash_listing(hash_files(folder / MODEL_FOLDER)),
        bytes=11,
        bits_per_weight=4.3,
        provider="qnn",
        device="npu",
        checkpoint=known.checkpoint,
        options={},
        operators={"EPContext": 1},
        weights=known.variant.weights,
        toolchain={},
        npu=samples.npu_facts(),
    )
    (folder / RECORD_FILE).write_text(record.model_dump_json(), encoding="utf-8")
    return folder


def npu_input(stage: Path, *, profiles: tuple[Path, ...] = (PROFILE,)) -> PackageInput:
    """The NPU variant with its evidence, as it is packaged."""
    (subject,) = find_subjects(stage)
    own = [item.model_copy(update={"variant_sha256": subject.sha256}) for item in samples.npu_evidence()]
    return PackageInput(
        subject=subject,
        about=stage,
        evidence=evidence_files(own),
        profiles=tuple(load_profile(path) for path in profiles),
        licences=(stage / "LICENSE",),
    )


def npu_package(folder: Path, *, profiles: tuple[Path, ...] = (PROFILE,)) -> Path:
    """Make a package with the NPU variant."""
    final = folder / "p.ortpackage"
    publish([npu_input(npu_stage(folder / "stage"), profiles=profiles)], final, ())
    return final


def on_device(record: AnyEvidence, machine: Machine = DEVICE) -> AnyEvidence:
    """The record as if that machine's NPU had made it."""
    versions = {**record.conditions.versions, "onnxruntime-qnn": "2.7.0"}
    update = {"machine": machine, "provider": "qnn", "versions": versions}
    conditions = record.conditions.model_copy(update=update)
    return record.model_copy(update={"conditions": conditions})


def device_file(
    package: Path, *, machine: Machine = DEVICE, profile: str = PROFILE.stem, records: tuple[AnyEvidence, ...] = ()
) -> EvidenceFile:
    """What a device might have measured of a package's one variant."""
    (subject,) = find_subjects(package)
    made = records or (samples.drift(Kind.MEASURED), samples.latency())
    own = [item.model_copy(update={"variant_sha256": subject.sha256}) for item in made]
    device = MachineFacts(id=machine_id(machine, ADAPTER), adapter=ADAPTER, facts=machine)
    made_there = tuple(on_device(item, machine) for item in own)
    return evidence_file(package, subject, profile, device, {"QNNExecutionProvider": 8}, made_there)


def evidence_file(
    package: Path,
    subject: Subject,
    profile: str,
    machine: MachineFacts,
    placement: dict[str, int],
    records: tuple[AnyEvidence, ...],
) -> EvidenceFile:
    """What `phiforge measure` writes of one variant of a package."""
    return EvidenceFile(
        phiforge_version="0.1.0",
        package=PackageFacts(name=load_manifest(package).package_name, content_sha256=content_hash(read_sums(package))),
        variant=VariantFacts(name=subject.name, sha256=subject.sha256),
        profile=ProfileFacts(name=profile, sha256=hash_file(profile_files(package, subject.name)[profile])),
        machine=machine,
        placement=placement,
        records=records,
    )


def write_file(folder: Path, file: EvidenceFile, name: str = "evidence.json") -> Path:
    """Write an evidence file as the kit does."""
    path = folder / name
    path.write_text(dump_evidence_file(file), encoding="utf-8", newline="\n")
    return path
