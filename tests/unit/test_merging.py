"""`report` merges what devices measured: each once, each judged, and nothing that is of anything else."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from phiforge import errors
from phiforge.evidence import AnyEvidence, Drift, Estimate, Kind, Latency, Probe, dump_evidence
from phiforge.evidence_file import EvidenceFile
from phiforge.gate import Outcome
from phiforge.machine import now
from phiforge.reporting import load_report, report_html, report_markdown
from phiforge.reporting.names import labels
from phiforge.reporting.schema import Report
from phiforge.target import load_profile
from phiforge.verbs.judging import misfit
from phiforge.verbs.merging import check_names, named_profile
from phiforge.verbs.report import report
from phiforge.verbs.subject import find_subjects
from unit.packages import DEVICE, PROFILE, device_file, npu_package, on_device, write_file
from unit.reporting import samples
from unit.test_evidence_checks import prediction

TARGETS = PROFILE.parent


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return npu_package(tmp_path_factory.mktemp("package"), profiles=(PROFILE, TARGETS / "qnn-x-plus.toml"))


def _report(package: Path, output: Path, *files: Path, profile: str = PROFILE.stem) -> Report:
    return report([package], output=output, evidence=files).fleet.report_for(profile)


def _speeds(made: Report) -> list[float]:
    return [item.load_ms for item in made.evidence if isinstance(item, Latency)]


def _slower(load_ms: float) -> Latency:
    return samples.latency().model_copy(update={"load_ms": load_ms})


def _refused(package: Path, tmp_path: Path, path: Path) -> errors.EvidenceInvalidError:
    with pytest.raises(errors.EvidenceInvalidError) as caught:
        report([package], output=tmp_path / "out", evidence=[path])
    assert not (tmp_path / "out").exists()
    return caught.value


def test_what_a_device_measured_is_judged(package: Path, tmp_path: Path) -> None:
    before = _report(package, tmp_path / "before")
    assert before.latency is None
    made = _report(package, tmp_path / "after", write_file(tmp_path, device_file(package)))
    assert made.latency is not None
    assert made.latency.conditions.machine == DEVICE
    assert made.notices == ()
    judged = {finding.budget: finding for finding in made.verdict.findings}
    assert judged["decode_tokens_per_s_min"].kind is Kind.MEASURED
    assert load_report(tmp_path / "after" / "report.json").report_for(PROFILE.stem) == made


def test_measured_stands_beside_surrogate_and_emulated(package: Path, tmp_path: Path) -> None:
    made = _report(package, tmp_path / "out", write_file(tmp_path, device_file(package)))
    kinds = [item.kind for item in made.evidence if isinstance(item, Drift)]
    assert kinds == [Kind.MEASURED, Kind.SURROGATE, Kind.EMULATED]
    assert made.drift is not None
    assert made.drift.kind is Kind.MEASURED


def test_it_counts_for_the_profile_it_names_alone(package: Path, tmp_path: Path) -> None:
    file = write_file(tmp_path, device_file(package))
    assert _report(package, tmp_path / "out", file, profile="qnn-x-plus").latency is None


def test_the_same_file_twice_counts_once(package: Path, tmp_path: Path) -> None:
    file = device_file(package)
    paths = [write_file(tmp_path, file, name) for name in ("a.json", "b.json")]
    assert len(_speeds(_report(package, tmp_path / "out", *paths, paths[0]))) == 1


def test_two_devices_both_count_and_the_worst_decides(package: Path, tmp_path: Path) -> None:
    other = DEVICE.model_copy(update={"processor": "another", "memory_bytes": 34_000_000_000})
    fast, slow = _with_speed(30.0), _with_speed(0.5)
    files = [
        write_file(tmp_path, device_file(package, records=(fast,)), "fast.json"),
        write_file(tmp_path, device_file(package, records=(slow,), machine=other), "slow.json"),
    ]
    made = _report(package, tmp_path / "out", *files)
    assert len(_speeds(made)) == 2
    (finding,) = [item for item in made.verdict.findings if item.budget == "decode_tokens_per_s_min"]
    assert (finding.outcome, finding.value) == (Outcome.FAIL, 0.5)
    assert labels(made.evidence)[-2:] == ("latency (measured)", "latency (measured, 2)")
    for text in (report_markdown(samples.fleet(made)), report_html(samples.fleet(made))):
        assert "Time, as measured, 2" in text
        assert DEVICE.processor in text and "another" in text


def _with_speed(speed: float) -> Latency:
    latency = samples.latency()
    update = {"decode_tokens_per_s_p50": speed, "decode_tokens_per_s": (speed,) * 5}
    rows = tuple(row.model_copy(update=update) for row in latency.rows)
    return latency.model_copy(update={"rows": rows})


def _written(package: Path, path: Path, record: AnyEvidence) -> Path:
    """A single record of the package's variant, as `phiforge bench` and `validate` write one."""
    (subject,) = find_subjects(package)
    path.parent.mkdir(exist_ok=True)
    own = on_device(record).model_copy(update={"variant_sha256": subject.sha256})
    path.write_text(dump_evidence(own), encoding="utf-8")
    return path


def test_nothing_takes_the_place_of_what_was_sealed(package: Path, tmp_path: Path) -> None:
    """A record of the same name and kind stands beside the sealed one, and the gate takes the worst of both."""
    sealed = next(item for item in samples.npu_evidence() if isinstance(item, Drift) and item.kind is Kind.SURROGATE)
    better = Estimate(mean=1e-9, standard_error=0.0)
    path = tmp_path / "drift.json"
    text = dump_evidence(sealed.model_copy(update={"kl_nats": better, "positions": sealed.positions - 1}))
    (subject,) = find_subjects(package)
    path.write_text(text.replace(sealed.variant_sha256, subject.sha256), encoding="utf-8")
    made = _report(package, tmp_path / "out", path)
    means = [item.kl_nats.mean for item in made.evidence if isinstance(item, Drift) and item.kind is Kind.SURROGATE]
    assert means == [1e-9, sealed.kl_nats.mean]
    (finding,) = [
        item for item in made.verdict.findings if item.budget == "kl_mean_nats_max" and item.kind is Kind.SURROGATE
    ]
    assert finding.value == sealed.kl_nats.mean


def test_probes_that_were_brought_leave_the_sealed_ones(package: Path, tmp_path: Path) -> None:
    before = {item.budget for item in _report(package, tmp_path / "before").verdict.findings}
    invented = samples.probes().model_copy(update={"probes": (Probe(name="mine", passed=True, detail="-"),)})
    path = _written(package, tmp_path / "probes.json", invented)
    after = {item.budget for item in _report(package, tmp_path / "out", path).verdict.findings}
    assert after == before | {"probe:mine"}
    assert len([name for name in before if name.startswith("probe:")]) > 1


def test_a_record_that_is_sealed_already_counts_once(package: Path, tmp_path: Path) -> None:
    (folder,) = (package / "evidence").iterdir()
    made = _report(package, tmp_path / "out", *sorted(folder.iterdir()))
    assert made == _report(package, tmp_path / "alone")
    sources = report([package], output=tmp_path / "out", evidence=[folder / "drift.json"]).fleet.entries[0].sources
    assert all(source.file.startswith("evidence/qnn-a16w4/") for source in sources)


def test_a_device_s_file_and_a_single_record_both_count(package: Path, tmp_path: Path) -> None:
    path = _written(package, tmp_path / "latency-qnn-x-elite.json", _slower(1.0))
    device = write_file(tmp_path, device_file(package, records=(_slower(2.0),)))
    assert _speeds(_report(package, tmp_path / "two", path, device)) == [1.0, 2.0]


def test_time_by_an_emulated_process_is_refused(package: Path, tmp_path: Path) -> None:
    emulated = DEVICE.model_copy(update={"process_architecture": "x86_64"})
    path = write_file(tmp_path, device_file(package, records=(_slower(2.0),), machine=emulated))
    assert "emulated process: x86_64 on arm64" in _refused(package, tmp_path, path).why


def test_evidence_from_the_future_is_refused(package: Path, tmp_path: Path) -> None:
    record = samples.drift(Kind.MEASURED)
    conditions = record.conditions.model_copy(update={"taken_at": now() + timedelta(days=2)})
    late = record.model_copy(update={"conditions": conditions})
    path = write_file(tmp_path, device_file(package, records=(late,)))
    assert "from the future" in _refused(package, tmp_path, path).why


def test_files_of_one_machine_that_contradict_each_other_are_refused(package: Path, tmp_path: Path) -> None:
    first = write_file(tmp_path, device_file(package), "monday.json")
    other = device_file(package).model_copy(
        update={"placement": {"CPUExecutionProvider": 1, "QNNExecutionProvider": 7}}
    )
    second = write_file(tmp_path, other, "tuesday.json")
    with pytest.raises(errors.EvidenceInvalidError) as caught:
        report([package], output=tmp_path / "out", evidence=[first, second])
    assert str(first) in caught.value.what
    assert str(second) in caught.value.what
    assert "contradict each other" in caught.value.what
    assert "QNNExecutionProvider (8)" in caught.value.why


def test_equal_machines_that_agree_both_count(package: Path, tmp_path: Path) -> None:
    files = [
        write_file(tmp_path, device_file(package, records=(samples.drift(Kind.MEASURED), _slower(load_ms))), name)
        for name, load_ms in (("a.json", 5.0), ("b.json", 6.0))
    ]
    assert sorted(_speeds(_report(package, tmp_path / "out", *files))) == [5.0, 6.0]


def test_single_records_of_one_name_are_not_lost(package: Path, tmp_path: Path) -> None:
    first, other, same = (
        _written(package, tmp_path / folder / "latency-qnn-x-elite.json", _slower(load_ms))
        for folder, load_ms in (("a", 1.0), ("b", 2.0), ("c", 1.0))
    )
    assert _speeds(_report(package, tmp_path / "out", first, same)) == [1.0]
    assert _speeds(_report(package, tmp_path / "out", first, other)) == [1.0, 2.0]


@pytest.mark.parametrize(
    ("name", "profile"),
    [
        ("latency-qnn-x-elite.json", "qnn-x-elite"),
        ("latency-qnn-x-elite-second.json", "qnn-x-elite"),
        ("latency-qnn-x-plus-8.core_2.json", "qnn-x-plus"),
        ("latency-qnn-x-elite2.json", None),
        ("latency-qnn.json", None),
        ("latency.json", None),
        ("comparison-qnn-x-elite.json", None),
        ("drift.json", None),
    ],
)
def test_a_single_record_of_time_tells_its_profile_by_its_name(
    package: Path, tmp_path: Path, name: str, profile: str | None
) -> None:
    path = _written(package, tmp_path / name, _slower(1.0))
    if profile is None:
        error = _refused(package, tmp_path, path)
        assert "does not tell which profile" in error.what
        assert "latency-qnn-x-elite.json, latency-qnn-x-elite-<anything>.json or latency-qnn-x-plus.json" in error.fix
    else:
        made = report([package], output=tmp_path / "out", evidence=[path]).fleet
        assert {key: _speeds(made.report_for(key)) for key in ("qnn-x-elite", "qnn-x-plus")} == {
            "qnn-x-elite": [],
            "qnn-x-plus": [],
            profile: [1.0],
        }


@pytest.mark.parametrize(
    ("name", "profile"),
    [("latency-cpu-x64-16gb.json", "cpu-x64-16gb"), ("latency-cpu-x64-16gb-2.json", "cpu-x64-16gb"),
     ("latency-cpu-x64-8gb.json", "cpu-x64"), ("latency-cpu-x64.json", "cpu-x64")],
)  # fmt: skip
def test_of_several_profiles_that_a_name_tells_the_longest_is_meant(name: str, profile: str) -> None:
    known = ["cpu-x64", "cpu-x64-16gb", "cpu"]
    for profiles in (known, known[::-1]):
        assert named_profile(samples.latency(), name, profiles) == profile


def test_a_prediction_for_another_profile_than_the_name_tells_is_refused(package: Path, tmp_path: Path) -> None:
    path = _written(package, tmp_path / "prediction-qnn-x-plus.json", prediction())
    assert f"it is predicted for {prediction().profile}" in _refused(package, tmp_path, path).why


NAMES = [
    "a b.json",
    "phone.evidence",
    "line\nbreak.json",
    "line\u2028break.json",
    "ü.json",
    "\udcff.json",
    "-x.json",
    ".json",
    "CON.json",
    "x.JSON",
]


@pytest.mark.parametrize("name", NAMES)
def test_names_that_no_release_can_keep_are_refused(name: str) -> None:
    with pytest.raises(errors.EvidenceInvalidError, match="under this name") as caught:
        check_names([Path("evidence.json"), Path(name)])
    assert str(caught.value).isascii()
    assert "Rename it" in caught.value.fix


def test_names_that_some_systems_take_for_one_are_refused() -> None:
    check_names([Path("a/drift.json"), Path("b/drift.json")])
    with pytest.raises(errors.EvidenceInvalidError, match="cannot stand beside each other"):
        check_names([Path("Drift.json"), Path("drift.json")])


def test_a_report_takes_no_such_name_either(package: Path, tmp_path: Path) -> None:
    path = write_file(tmp_path, device_file(package), "phone.evidence")
    assert "'phone.evidence' cannot be used under this name" in _refused(package, tmp_path, path).what


def _from(record: AnyEvidence, **conditions: Any) -> AnyEvidence:
    return record.model_copy(update={"conditions": record.conditions.model_copy(update=conditions)})


X86 = DEVICE.model_copy(update={"architecture": "x86_64", "process_architecture": "x86_64"})
MISFITS: dict[str, tuple[dict[str, Any], str]] = {
    "provider": ({"provider": "cpu"}, "measured with the provider cpu, and the profile's is qnn"),
    "runtime": ({"versions": {"onnxruntime": "1.31.1"}}, "measured without onnxruntime-qnn"),
    "architecture": ({"machine": X86}, "process was x86_64, and the profile is of arm64"),
}


@pytest.mark.parametrize("single", [False, True])
@pytest.mark.parametrize("what", MISFITS)
def test_what_was_not_measured_as_the_profile_says_is_refused(
    package: Path, tmp_path: Path, what: str, single: bool
) -> None:
    conditions, told = MISFITS[what]
    machine = conditions.get("machine", DEVICE)
    record = _from(on_device(samples.latency(), machine), **conditions)
    (subject,) = find_subjects(package)
    own = record.model_copy(update={"variant_sha256": subject.sha256})
    if single:
        path = tmp_path / "latency-qnn-x-elite.json"
        path.write_text(dump_evidence(own), encoding="utf-8")
    else:
        file = device_file(package, machine=machine).model_copy(update={"records": (own,)})
        path = write_file(tmp_path, file)
    error = _refused(package, tmp_path, path)
    assert "was not measured as the profile qnn-x-elite says" in error.what
    assert told in error.why
    assert "provider qnn of onnxruntime-qnn" in error.fix


def test_a_measured_drift_by_another_provider_is_refused(package: Path, tmp_path: Path) -> None:
    """What stands in for the device is surrogate; calling it measured makes it no more."""
    (folder,) = (package / "evidence").iterdir()
    path = tmp_path / "drift.json"
    text = (folder / "drift.json").read_text(encoding="utf-8")
    path.write_text(text.replace('"surrogate"', '"measured"'), encoding="utf-8")
    assert "measured with the provider cpu" in _refused(package, tmp_path, path).why


def test_a_drift_of_the_emulator_that_is_called_measured_is_refused(package: Path, tmp_path: Path) -> None:
    """The emulator is of the NPU's provider, on another processor."""
    (subject,) = find_subjects(package)
    drift = _from(on_device(samples.drift(), X86)).model_copy(update={"variant_sha256": subject.sha256})
    path = tmp_path / "drift.json"
    path.write_text(dump_evidence(drift), encoding="utf-8")
    assert "process was x86_64, and the profile is of arm64" in _refused(package, tmp_path, path).why


@pytest.mark.parametrize("placement", [{}, {"CPUExecutionProvider": 8}, {"QNNExecutionProvider": 0}])
def test_a_placement_without_the_profile_s_provider_is_refused(
    package: Path, tmp_path: Path, placement: dict[str, int]
) -> None:
    file = device_file(package).model_copy(update={"placement": placement})
    error = _refused(package, tmp_path, write_file(tmp_path, file))
    assert "No node ran on the profile's provider, QNNExecutionProvider" in error.why


@pytest.mark.parametrize(
    ("target", "provider", "wheel", "fits"),
    [
        ("cpu-x64", "cpu", "onnxruntime-genai", True),
        ("cpu-x64", "cpu", "onnxruntime-genai-winml", True),
        ("cpu-x64", "cpu", "onnxruntime", False),
        ("directml-generic", "dml", "onnxruntime-genai-winml", True),
        ("directml-generic", "dml", "onnxruntime-genai-directml", True),
        ("directml-generic", "dml", "onnxruntime-genai", False),
        ("webgpu-generic", "webgpu", "onnxruntime-ep-webgpu", True),
        ("webgpu-generic", "webgpu", "onnxruntime-genai", False),
        ("webgpu-generic", "dml", "onnxruntime-ep-webgpu", False),
    ],
)
def test_each_provider_s_runtime_is_known_by_its_names(target: str, provider: str, wheel: str, fits: bool) -> None:
    profile = load_profile(TARGETS / f"{target}.toml")
    record = _from(samples.latency(), provider=provider, versions={wheel: profile.runtime.version})
    assert (misfit(record, profile) is None) == fits


def test_what_another_version_of_the_runtime_measured_does_not_count() -> None:
    profile = load_profile(TARGETS / "webgpu-generic.toml")
    versions = {profile.runtime.package: "0.0.1"}
    record = _from(samples.latency(), provider="webgpu", versions=versions)
    named = f"{profile.runtime.package} {profile.runtime.version}"
    told = f"it was measured by {profile.runtime.package} 0.0.1, and the profile runs by {named}"
    assert misfit(record, profile) == told


def test_a_brought_record_that_contradicts_a_sealed_one_is_refused(package: Path, tmp_path: Path) -> None:
    sealed = next(item for item in samples.npu_evidence() if isinstance(item, Drift) and item.kind is Kind.SURROGATE)
    other = sealed.model_copy(update={"kl_nats": Estimate(mean=sealed.kl_nats.mean * 3, standard_error=0.0)})
    (subject,) = find_subjects(package)
    path = tmp_path / "drift.json"
    path.write_text(dump_evidence(other.model_copy(update={"variant_sha256": subject.sha256})), encoding="utf-8")
    error = _refused(package, tmp_path, path)
    assert error.what == (
        f"The evidence files evidence/qnn-a16w4/drift.json of the package and {path} contradict each other."
    )


def test_two_single_records_that_contradict_each_other_are_refused(package: Path, tmp_path: Path) -> None:
    probes = samples.probes().model_copy(update={"probes": (Probe(name="stop-ids", passed=True, detail="-"),)})
    failed = probes.model_copy(update={"probes": (Probe(name="stop-ids", passed=False, detail="-"),)})
    paths = [_written(package, tmp_path / f"{i}.json", record) for i, record in enumerate((probes, failed))]
    assert _report(package, tmp_path / "one", paths[0])
    with pytest.raises(errors.EvidenceInvalidError, match="contradict each other"):
        _report(package, tmp_path / "out", *paths)


CHANGES: dict[str, tuple[dict[str, Any], str]] = {
    "package": ({"content_sha256": "0" * 64}, "of another package"),
    "variant": ({"sha256": "0" * 64}, "of another variant than qnn-a16w4"),
    "profile": ({"sha256": "0" * 64}, "of another profile than qnn-x-elite"),
}


@pytest.mark.parametrize("what", CHANGES)
def test_what_is_of_anything_else_is_refused(package: Path, tmp_path: Path, what: str) -> None:
    file = device_file(package)
    changes, told = CHANGES[what]
    update: dict[str, Any] = {what: getattr(file, what).model_copy(update=changes)}
    if what == "variant":
        update["records"] = tuple(item.model_copy(update={"variant_sha256": "0" * 64}) for item in file.records)
    found = _refused(package, tmp_path, write_file(tmp_path, file.model_copy(update=update)))
    assert told in found.what
    assert "000000000000" in found.why
    assert found.exit_code == 34


@pytest.mark.parametrize("what", ["variant", "profile"])
def test_what_the_package_does_not_have_is_refused(package: Path, tmp_path: Path, what: str) -> None:
    file = device_file(package)
    changed = file.model_copy(update={what: getattr(file, what).model_copy(update={"name": "none-such"})})
    assert "not in the package" in _refused(package, tmp_path, write_file(tmp_path, changed)).why


def test_hand_edited_numbers_are_refused(package: Path, tmp_path: Path) -> None:
    path = write_file(tmp_path, device_file(package))
    path.write_text(path.read_text(encoding="utf-8").replace('"load_ms": 2318.4', '"load_ms": 18.4'), encoding="utf-8")
    assert "changed after it was written" in _refused(package, tmp_path, path).why


def test_a_single_record_of_another_variant_is_refused(package: Path, tmp_path: Path) -> None:
    path = tmp_path / "latency-qnn-x-elite.json"
    path.write_text(dump_evidence(samples.latency()), encoding="utf-8")
    assert "another variant" in _refused(package, tmp_path, path).what


def test_a_file_that_is_not_there_is_refused(package: Path, tmp_path: Path) -> None:
    assert "cannot be read" in _refused(package, tmp_path, tmp_path / "none.json").why


def test_the_package_of_another_build_is_another_package(package: Path, tmp_path: Path) -> None:
    """The same variant packaged for one profile less: what it is has changed, though the variant has not."""
    other = npu_package(tmp_path / "other")
    file = write_file(tmp_path, device_file(other))
    assert report([other], output=tmp_path / "own", evidence=[file])
    assert "of another package" in _refused(package, tmp_path, file).what


def test_a_folder_that_cannot_be_written_is_told(package: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    for output in (tmp_path / "file", tmp_path / "file" / "below", Path("/proc/phiforge")):
        with pytest.raises(errors.OutputUnwritableError) as caught:
            report([package], output=output)
        assert caught.value.exit_code == 52


def test_an_evidence_file_is_no_record_of_a_package(package: Path, tmp_path: Path) -> None:
    """A name that a record would have does not make a record of it."""
    file: EvidenceFile = device_file(package)
    path = write_file(tmp_path, file, "latency-qnn-x-elite.json")
    assert len(_speeds(_report(package, tmp_path / "out", path))) == 1


def test_the_package_s_name_must_be_its_own(package: Path, tmp_path: Path) -> None:
    file = device_file(package)
    other = file.model_copy(update={"package": file.package.model_copy(update={"name": "other"})})
    assert "of another package" in _refused(package, tmp_path, write_file(tmp_path, other)).what
