from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from phiforge import errors
from phiforge.evidence import AnyEvidence, Kind, dump_evidence
from phiforge.packaging.layout import check_inside, load_component, load_manifest, variant_folders
from phiforge.packaging.verify import read_sums, verify_package
from phiforge.packaging.write import Contents, PackagedVariant, write_package
from phiforge.target import load_profile
from phiforge.verbs.package import publish, read_package
from phiforge.verbs.report import report
from unit.packages import DEVICE, PROFILE, npu_input, npu_stage, on_device
from unit.reporting import samples


def _contents(root: Path, *, evidence: str = "{}") -> Contents:
    model = root / "model"
    model.mkdir(exist_ok=True)
    (model / "model.onnx").write_bytes(b"onnx")
    (model / "genai_config.json").write_text("{}")
    licence = root / "LICENSE"
    licence.write_text("MIT")
    variant = PackagedVariant(
        name="cpu-int4",
        folder=model,
        sha256="0" * 64,
        provider="cpu",
        device="cpu",
        metadata={"bytes": 4},
        build={"plan.json": "{}", "profiles/cpu-x64.json": "{}"},
        evidence={"drift.json": evidence},
    )
    return Contents(
        name="nano",
        version="1",
        description="a model",
        licences=[licence],
        variants=[variant],
        reports=lambda content: {"report.md": f"# report of {content}"},
        metadata={},
    )


@pytest.fixture
def package(tmp_path: Path) -> Path:
    folder = tmp_path / "nano.ortpackage"
    folder.mkdir()
    write_package(_contents(tmp_path), folder)
    return folder


def test_layout_is_the_onnx_runtime_one(package: Path) -> None:
    manifest = json.loads((package / "manifest.json").read_text())
    assert manifest["schema_version"] == "1.0"
    assert manifest["components"] == {"model": "models/model"}
    variant = load_component(package).variants["cpu-int4"]
    assert (variant.ep, variant.device) == ("CPUExecutionProvider", "cpu")
    assert variant_folders(package)["cpu-int4"] == package / "models/model/cpu-int4"
    assert not (package / "genai_config.json").exists()


def test_untouched_package_verifies(package: Path) -> None:
    assert verify_package(package).files == len([p for p in package.rglob("*") if p.is_file()]) - 1


def test_changed_byte_is_found(package: Path) -> None:
    (package / "models/model/cpu-int4/model.onnx").write_bytes(b"onnX")
    with pytest.raises(errors.PackageTamperedError) as caught:
        verify_package(package)
    assert caught.value.why == "changed: models/model/cpu-int4/model.onnx"


def test_missing_and_added_files_are_found(package: Path) -> None:
    (package / "LICENSE").unlink()
    (package / "models" / "extra.bin").write_bytes(b"")
    with pytest.raises(errors.PackageTamperedError) as caught:
        verify_package(package)
    assert caught.value.why == "added: models/extra.bin; missing: LICENSE"


def test_a_link_is_not_the_file_it_points_to(package: Path, tmp_path: Path) -> None:
    file = package / "LICENSE"
    file.unlink()
    file.symlink_to(tmp_path / "LICENSE")
    with pytest.raises(errors.PackageTamperedError, match="not as they were sealed"):
        verify_package(package)


def test_evidence_does_not_change_what_the_package_is(tmp_path: Path) -> None:
    hashes = []
    for index, evidence in enumerate(("{}", '{"t": 1}')):
        folder = tmp_path / f"p{index}"
        folder.mkdir()
        hashes.append(write_package(_contents(tmp_path, evidence=evidence), folder))
    assert hashes[0] == hashes[1]


def test_the_reference_is_part_of_what_the_package_is(tmp_path: Path) -> None:
    hashes = []
    for index, reference in enumerate(({}, {"reference.json": b"{}"}, {"reference.json": b"[]"})):
        folder = tmp_path / f"p{index}"
        folder.mkdir()
        hashes.append(write_package(replace(_contents(tmp_path), reference=reference), folder))
        held = {path.name: path.read_bytes() for path in (folder / "reference").glob("*")}
        assert held == reference
        assert {f"reference/{name}" for name in reference} <= set(read_sums(folder))
    assert len(set(hashes)) == 3


def test_tied_variants_are_refused(tmp_path: Path) -> None:
    contents = _contents(tmp_path)
    twin = replace(contents.variants[0], name="other")
    folder = tmp_path / "p"
    folder.mkdir()
    with pytest.raises(ValueError, match="tie"):
        write_package(replace(contents, variants=[*contents.variants, twin]), folder)


@pytest.mark.parametrize("path", ["../x", "/etc/passwd", "a/../../x", "C:/x", "a\\b", ""])
def test_paths_that_leave_the_package_are_refused(path: str) -> None:
    with pytest.raises(errors.UnsafePathError):
        check_inside(path)


@given(st.text(alphabet="abc./\\:", max_size=12))
def test_an_accepted_path_stays_inside(path: str) -> None:
    try:
        accepted = check_inside(path)
    except errors.UnsafePathError:
        return
    root = Path("/package")
    assert (root / accepted).resolve().is_relative_to(root)


def test_manifest_with_unknown_key_is_refused(package: Path) -> None:
    path = package / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"surprise": 1}))
    with pytest.raises(errors.PackageInvalidError, match="no phiforge package"):
        load_manifest(package)


@pytest.mark.parametrize("name", ["../outside", "a/b", "", "NUL"])
def test_a_variant_s_name_is_that_of_a_folder(package: Path, name: str) -> None:
    path = package / "models/model/component.json"
    content = json.loads(path.read_text())
    content["variants"] = {name: next(iter(content["variants"].values()))}
    path.write_text(json.dumps(content))
    with pytest.raises((errors.PackageInvalidError, errors.UnsafePathError)):
        load_component(package)


def test_traversal_in_sums_is_refused(package: Path) -> None:
    with (package / "SHA256SUMS").open("a") as file:
        file.write(f"{'0' * 64}  ../outside\n")
    with pytest.raises(errors.UnsafePathError):
        verify_package(package)


@pytest.fixture
def stage(tmp_path: Path) -> Path:
    return npu_stage(tmp_path / "stage")


def test_twin_and_qdq_graphs_stay_with_the_build(stage: Path, tmp_path: Path) -> None:
    final = tmp_path / "p.ortpackage"
    publish([npu_input(stage)], final, ())
    files = {path.relative_to(final).as_posix() for path in final.rglob("*") if path.is_file()}
    assert {name for name in files if name.startswith("models/model/")} == {
        "models/model/component.json",
        "models/model/qnn-a16w4/part0.bin",
        "models/model/qnn-a16w4/part0.onnx",
    }
    assert not [name for name in files if "twin" in name or "qdq" in name or "calibration" in name]
    held = {path.read_bytes() for path in final.rglob("*") if path.is_file()}
    assert not {b"twin", b"qdq"} & held


def test_an_npu_variant_s_facts_and_evidence_travel_in_its_package(stage: Path, tmp_path: Path) -> None:
    final = tmp_path / "p.ortpackage"
    publish([npu_input(stage)], final, ())
    entry = load_component(final).variants["qnn-a16w4"]
    assert (entry.ep, entry.device) == ("QNNExecutionProvider", "npu")
    assert entry.additional_metadata["npu"] == {"sdk_version": "2.45.0.260326", "soc_model": 60, "confirmed": False}
    (item,) = read_package(final)
    assert item.record.npu == samples.npu_facts()
    assert set(item.evidence) == {
        "drift.json",
        "drift-emulated.json",
        "tasks.json",
        "probes.json",
        "agreement-prefill.json",
        "agreement-decode.json",
        "agreement-other-variant.json",
        "breakdown.json",
    }
    first, *others = (record for record in item.evidence_for(item.profiles[0]) if record.evidence == "drift")
    assert (first.kind, [record.kind for record in others]) == (Kind.SURROGATE, [Kind.EMULATED])


def test_the_report_of_a_package_has_its_npu_facts_and_all_evidence(stage: Path, tmp_path: Path) -> None:
    final = tmp_path / "p.ortpackage"
    publish([npu_input(stage)], final, ())
    made = report([final], output=tmp_path / "out").fleet.report_for("qnn-x-elite")
    assert made.variant.npu == samples.npu_facts()
    npu = load_profile(PROFILE).npu
    assert npu is not None
    assert made.profile.soc_source == npu.source
    assert len(made.evidence) == len(samples.npu_evidence())
    assert made.notices[0].startswith("Latency is unverified until the device has measured it")


@pytest.mark.parametrize("profile", [PROFILE.stem, "qnn-8-elite"])
def test_a_speed_measured_on_the_device_lifts_the_notice(stage: Path, tmp_path: Path, profile: str) -> None:
    item = npu_input(stage)
    measured = on_device(samples.latency(variant_sha256=item.subject.sha256))
    sealed = item.evidence | {f"latency-{profile}.json": dump_evidence(measured)}
    final = tmp_path / "p.ortpackage"
    publish([replace(item, evidence=sealed)], final, ())
    made = report([final], output=tmp_path / "out").fleet.report_for(PROFILE.stem)
    if profile == PROFILE.stem:
        assert (made.latency, made.notices) == (measured, ())
    else:
        assert (made.latency, len(made.notices)) == (None, 1)
        assert "latency-qnn-8-elite.json does not count: its name tells no profile of this variant." in made.limits


X86 = DEVICE.model_copy(update={"architecture": "x86_64", "process_architecture": "x86_64"})
MISFITS: dict[str, tuple[AnyEvidence, str]] = {
    "provider": (samples.drift(Kind.MEASURED), "measured with the provider cpu, and the profile's is qnn"),
    "runtime": (
        samples.drift(Kind.MEASURED).model_copy(
            update={"conditions": samples.conditions("text", "test", 3).model_copy(update={"provider": "qnn"})}
        ),
        "measured without onnxruntime-qnn, by which the profile runs",
    ),
    "architecture": (on_device(samples.latency(), X86), "process was x86_64, and the profile is of arm64"),
}


@pytest.mark.parametrize("what", MISFITS)
def test_what_was_not_measured_on_the_device_is_neither_counted_nor_shown(
    stage: Path, tmp_path: Path, what: str
) -> None:
    item = npu_input(stage)
    record, why = MISFITS[what]
    own = record.model_copy(update={"variant_sha256": item.subject.sha256})
    name = f"latency-{PROFILE.stem}.json" if own.evidence == "latency" else "before-all-others.json"
    sealed = item.evidence | {name: dump_evidence(own)}
    final = tmp_path / "p.ortpackage"
    publish([replace(item, evidence=sealed)], final, ())
    made = report([final], output=tmp_path / "out").fleet.report_for(PROFILE.stem)
    assert {shown.kind for shown in made.evidence} == {Kind.SURROGATE, Kind.EMULATED}
    assert not [finding for finding in made.verdict.findings if finding.kind is Kind.MEASURED]
    assert [text for text in made.limits if why in text]
    assert made.notices
