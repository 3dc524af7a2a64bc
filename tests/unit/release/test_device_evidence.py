"""What devices measured, from the file that the kit writes to the release that the next one is held against."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from phiforge import errors
from phiforge.evidence import AnyEvidence, Latency, dump_evidence
from phiforge.evidence_file import (
    EvidenceFile,
    MachineFacts,
    dump_evidence_file,
    file_name,
    machine_id,
)
from phiforge.hashing import hash_file
from phiforge.release.layout import EVIDENCE, load_release
from phiforge.release.signing import Trust
from phiforge.reporting import load_report
from phiforge.verbs import release as release_verb
from phiforge.verbs.previous import open_previous
from phiforge.verbs.release import Released, ReleaseOptions, release
from phiforge.verbs.subject import find_subjects
from phiforge.verbs.verify import verify
from unit.packages import evidence_file
from unit.release.conftest import real_report
from unit.release.packages import CPU, MACHINE, NPU, Made, evidence, make_package, profile

PHONE = MACHINE.model_copy(update={"processor": "a phone's"})
ADAPTER = "a phone's"


@pytest.fixture
def package(tmp_path: Path) -> Path:
    return make_package(tmp_path / "package")


def measured(package: Path, made: Made) -> EvidenceFile:
    """What `phiforge measure` might have written of the package's variant for the CPU, on another machine."""
    subject = next(item for item in find_subjects(package) if item.name == "cpu-int4")
    records: tuple[AnyEvidence, ...] = tuple(evidence(made, subject.sha256, profile(CPU, "cpu")).values())
    machine = MachineFacts(id=machine_id(PHONE, ADAPTER), adapter=ADAPTER, facts=PHONE)
    return evidence_file(package, subject, CPU, machine, {"CPUExecutionProvider": 85}, records)


def written(folder: Path, package: Path, name: str | None = None, **numbers: Any) -> Path:
    file = measured(package, Made(machine=PHONE, **numbers))
    path = folder / (name or file_name(file))
    path.write_text(dump_evidence_file(file), encoding="utf-8", newline="\n")
    return path


def released(package: Path, to: Path, *files: Path, against: Path | None = None) -> Released:
    options = ReleaseOptions(
        destinations=(str(to),),
        against=against,
        first=against is None,
        evidence=files,
        waivers=(f"{NPU}=no such device yet",),
    )
    return release(package, options)


def test_what_a_device_measured_goes_into_a_release_and_the_next_one_is_held_against_it(
    package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(release_verb, "_write_report", real_report)
    path = written(tmp_path, package, decode_tokens_per_s=50.0)
    released(package, tmp_path / "first", path)
    record = load_release(tmp_path / "first")
    assert record.evidence == {path.name: hash_file(path)}
    speeds = [number.value for number in record.profiles[CPU].numbers if number.metric == "decode_tokens_per_s"]
    assert sorted(speeds) == [50.0, 100.0]
    shown = load_report(tmp_path / "first" / "report.json")
    (entry,) = [item for item in shown.entries if item.report.profile.name == CPU]
    (source,) = {item for item in entry.sources if item.file == path.name}
    assert source.href is not None
    assert hash_file(tmp_path / "first" / source.href) == source.sha256 == hash_file(path)
    assert verify(tmp_path / "first")
    second = released(package, tmp_path / "second", path, against=tmp_path / "first").plan.record
    assert second.previous is not None
    held = {item.budget for item in second.profiles[CPU].checks}
    assert {"regression:decode_tokens_per_s", "regression:kl_mean_nats"} <= held


def test_a_device_that_is_too_slow_refuses_the_release(package: Path, tmp_path: Path) -> None:
    path = written(tmp_path, package, ttft_ms=900.0)
    with pytest.raises(errors.ReleaseRefusedError) as caught:
        released(package, tmp_path / "out", path)
    assert f"{CPU}/ttft_p50_ms_max: Time to first token (p50) is 900 ms" in caught.value.why


def test_a_record_that_was_brought_does_not_hide_the_sealed_one(tmp_path: Path) -> None:
    package = make_package(tmp_path / "bad", Made(kl=0.6))
    good = make_package(tmp_path / "good", Made(kl=0.001, dataset="b" * 64))
    path = good / EVIDENCE / "cpu-int4" / "drift.json"
    with pytest.raises(errors.ReleaseRefusedError) as caught:
        released(package, tmp_path / "out", path)
    assert f"{CPU}/kl_mean_nats_max: Mean KL divergence is 0.6 nats" in caught.value.why


def test_evidence_under_any_name_that_a_release_has_is_read_again(
    package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An earlier phiforge kept files under names of any kind."""
    monkeypatch.setattr(release_verb, "check_names", lambda paths: None)
    path = written(tmp_path, package, "phone.evidence")
    released(package, tmp_path / "out", path)
    (tmp_path / "out" / EVIDENCE / "phone.evidence").stat()
    with open_previous(tmp_path / "out", "nano", Trust()) as previous:
        machines = [item.conditions.machine for item in previous.profiles[CPU].evidence if isinstance(item, Latency)]
    assert machines == [PHONE, MACHINE]


@pytest.mark.parametrize("name", ["line\nbreak.json", "\udcff.json", "phone.evidence"])
def test_names_that_no_release_can_keep_are_refused_before_anything_is_read(tmp_path: Path, name: str) -> None:
    with pytest.raises(errors.EvidenceInvalidError, match="under this name"):
        released(tmp_path / "no-package", tmp_path / "out", tmp_path / name)


def test_a_cpu_s_time_is_none_of_an_npu(package: Path, tmp_path: Path) -> None:
    npu = next(item for item in find_subjects(package) if item.name == "qnn-a16w4")
    arm = MACHINE.model_copy(update={"architecture": "arm64", "process_architecture": "arm64"})
    records = evidence(Made(machine=arm), npu.sha256, profile(CPU, "cpu"))
    path = tmp_path / f"latency-{NPU}.json"
    path.write_text(dump_evidence(records[f"latency-{CPU}.json"]), encoding="utf-8")
    with pytest.raises(errors.EvidenceInvalidError, match=f"was not measured as the profile {NPU} says"):
        released(package, tmp_path / "out", path)
    assert not (tmp_path / "out").exists()
