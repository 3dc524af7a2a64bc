"""`report` merges what devices measured: each once, each judged, and nothing that is of anything else."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from phiforge import errors
from phiforge.evidence import Drift, Kind, Latency, dump_evidence
from phiforge.evidence_file import EvidenceFile
from phiforge.gate import Outcome
from phiforge.machine import now
from phiforge.reporting import load_report, report_html, report_markdown
from phiforge.reporting.names import labels
from phiforge.reporting.schema import Report
from phiforge.verbs.report import report
from phiforge.verbs.subject import find_subjects
from unit.packages import DEVICE, PROFILE, device_file, npu_package, on_device, write_file
from unit.reporting import samples

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


def test_what_the_package_s_own_machine_measured_gives_way(package: Path, tmp_path: Path) -> None:
    """A single record of the old way stands for what a package carries; the device's takes its place."""
    (subject,) = find_subjects(package)
    own = on_device(_slower(1.0).model_copy(update={"variant_sha256": subject.sha256}))
    path = tmp_path / "latency-qnn-x-elite.json"
    path.write_text(dump_evidence(own), encoding="utf-8")
    assert _speeds(_report(package, tmp_path / "one", path)) == [1.0]
    device = write_file(tmp_path, device_file(package, records=(_slower(2.0),)))
    assert _speeds(_report(package, tmp_path / "two", path, device)) == [2.0]


def test_a_process_of_another_architecture_takes_no_place(package: Path, tmp_path: Path) -> None:
    """A PC with an x86-64 processor says nothing of an Arm device's speed."""
    (subject,) = find_subjects(package)
    own = on_device(_slower(1.0).model_copy(update={"variant_sha256": subject.sha256}))
    path = tmp_path / "latency-qnn-x-elite.json"
    path.write_text(dump_evidence(own), encoding="utf-8")
    other = DEVICE.model_copy(update={"architecture": "x86_64", "process_architecture": "x86_64"})
    device = write_file(tmp_path, device_file(package, records=(_slower(2.0),), machine=other))
    assert sorted(_speeds(_report(package, tmp_path / "out", path, device))) == [1.0, 2.0]


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
    other = device_file(package).model_copy(update={"placement": {"CPUExecutionProvider": 8}})
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
    (subject,) = find_subjects(package)
    paths = []
    for folder, load_ms in (("a", 1.0), ("b", 2.0), ("c", 1.0)):
        own = on_device(_slower(load_ms).model_copy(update={"variant_sha256": subject.sha256}))
        paths.append(tmp_path / folder / "latency-qnn-x-elite.json")
        paths[-1].parent.mkdir()
        paths[-1].write_text(dump_evidence(own), encoding="utf-8")
    first, other, same = paths
    assert _speeds(_report(package, tmp_path / "out", first, same)) == [1.0]
    with pytest.raises(errors.EvidenceInvalidError, match="has the name of another one") as caught:
        _report(package, tmp_path / "none", first, other)
    assert "Rename one" in caught.value.fix


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
