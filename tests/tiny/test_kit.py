"""The device kit on a real package: what travels in it, and what one machine says of it."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import phiforge
from judged import unpassed
from phiforge import errors
from phiforge.checkpoint.nano import EVAL_DIR
from phiforge.evidence import Drift, FreeRunning, Kind, Latency, Probes, Refusals, Tasks, load_evidence
from phiforge.evidence_file import load_evidence_file
from phiforge.gate import Outcome
from phiforge.hashing import hash_files
from phiforge.packaging.layout import REFERENCE_FOLDER
from phiforge.packaging.write import content_hash
from phiforge.target import Profile
from phiforge.validation.held_out import ask_checkpoint
from phiforge.validation.reference_file import read_reference
from phiforge.validation.reference_outputs import ReferenceOutputs
from phiforge.validation.subset import packaged_part
from phiforge.verbs.build import BuildResult
from phiforge.verbs.measure import Job, Measurement
from phiforge.verbs.release import ReleaseOptions, release
from phiforge.verbs.standing import judge_package
from phiforge.verbs.watch import StageRecord, Unwatched

PARTS = ("placement", "latency", "answers", "drift and probes")


class Watched(Unwatched):
    """Keeps the stages that were done, and those that were not done again."""

    def __init__(self) -> None:
        self.done: list[str] = []
        self.reused: list[str] = []

    def ended(self, record: StageRecord) -> None:
        (self.reused if record.reused else self.done).append(record.stage)


@pytest.fixture(scope="module")
def package(nano_build: BuildResult) -> Path:
    assert nano_build.package is not None
    return nano_build.package


@pytest.fixture(scope="module")
def output(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("kit") / "Ergebnis für später"


@pytest.fixture(scope="module")
def measured(package: Path, output: Path) -> Measurement:
    jobs: list[Job] = []
    found = phiforge.measure(package, output=output, on_job=jobs.append)
    assert jobs == [found.job]
    return found


def test_the_package_carries_what_the_original_says(package: Path, nano_checkpoint: Path, nano_output: Path) -> None:
    asked = ask_checkpoint(
        nano_checkpoint,
        EVAL_DIR / "text.jsonl",
        EVAL_DIR / "tasks",
        context=1_000_000,
        cache=nano_output / "store" / "reference",
        threads=2,
        progress=lambda *_: None,
    )
    part = packaged_part(asked, lambda ids: pytest.fail("nothing is asked anew"))
    found = read_reference(package / REFERENCE_FOLDER)
    assert sum(len(text.tokens) for text in found.texts.texts) == 2048
    assert len(found.questions) == 200
    assert found.texts.top_k == 64
    _same(found, part)


def _same(one: ReferenceOutputs, other: ReferenceOutputs) -> None:
    for name in ("suites", "questions", "choices", "continued", "prompted", "prompt_set"):
        assert getattr(one, name) == getattr(other, name), name
    assert one.tokenized == other.tokenized
    assert one.chats == other.chats
    assert one.around_switch is not None
    assert other.around_switch is not None
    texts = (*one.texts.texts, *one.around_switch.texts)
    for text, again in zip(texts, (*other.texts.texts, *other.around_switch.texts), strict=True):
        for name, value in vars(text).items():
            np.testing.assert_array_equal(value, getattr(again, name), err_msg=name)


def test_one_command_measures_and_judges(measured: Measurement, package: Path, output: Path) -> None:
    file = load_evidence_file(measured.path)
    assert measured.path == output / f"evidence-phi-4-nano-cpu-x64-{file.machine.id}.json"
    assert [type(record) for record in file.records] == [Drift, Tasks, FreeRunning, Refusals, Probes, Latency]
    assert {record.kind for record in file.records} == {Kind.MEASURED}
    assert set(file.placement) == {"CPUExecutionProvider"}
    assert file.package.content_sha256 == content_hash(hash_files(package))
    assert [finding.reason for finding in unpassed(measured.verdict)] == []
    drift = next(record for record in file.records if isinstance(record, Drift))
    assert drift.top_k == 64
    assert any("the package's top-64" in note for note in drift.conditions.notes)
    assert all(any(file.machine.id in note for note in record.conditions.notes) for record in file.records)
    probes = next(record for record in file.records if isinstance(record, Probes))
    assert [probe.name for probe in probes.probes if not probe.passed and probe.blocking] == []
    assert {"stopping", "pruned-head", "placement", "longrope-prefill"} <= {probe.name for probe in probes.probes}


def test_the_same_run_again_measures_nothing_and_writes_the_same_file(
    measured: Measurement, package: Path, output: Path
) -> None:
    before = measured.path.read_bytes()
    watcher = Watched()
    again = phiforge.measure(package, output=output, watcher=watcher)
    assert watcher.done == []
    assert watcher.reused == [f"{part} of cpu-int4" for part in PARTS]
    assert again.path.read_bytes() == before


def test_other_threads_are_another_measurement(
    measured: Measurement, package: Path, output: Path, tmp_path: Path
) -> None:
    watcher = Watched()
    shutil.copytree(output, tmp_path / "copy")
    found = phiforge.measure(package, output=tmp_path / "copy", threads=1, watcher=watcher)
    assert watcher.reused == []
    assert {record.conditions.threads for record in found.file.records} == {1}
    assert measured.file.machine == found.file.machine


def test_the_file_is_merged_on_the_build_machine(measured: Measurement, package: Path, tmp_path: Path) -> None:
    made = phiforge.report([package], output=tmp_path, evidence=[measured.path]).fleet.report_for("cpu-x64")
    assert made.latency == next(record for record in measured.file.records if isinstance(record, Latency))
    assert made.drift is not None
    assert made.drift.top_k == 64
    assert {item.evidence for item in made.evidence} == {
        "drift", "tasks", "free-running", "refusals", "probes", "latency", "prediction",
    }  # fmt: skip


def test_the_file_goes_into_a_release_and_the_next_one_is_held_against_it(
    measured: Measurement, package: Path, tmp_path: Path
) -> None:
    findings = judge_package(package, [measured.path])["cpu-x64"].report.verdict.findings
    # On a busy machine the times may be long, or vary too much to tell.
    slow = dict.fromkeys(item.budget for item in findings if item.outcome is not Outcome.PASS)
    first = ReleaseOptions(
        destinations=(str(tmp_path / "first"),),
        first=True,
        evidence=(measured.path,),
        waivers=tuple(f"cpu-x64/{budget}=the machine of this test is busy" for budget in slow),
    )
    record = release(package, first).plan.record
    assert set(record.evidence) == {measured.path.name}
    assert phiforge.verify(tmp_path / "first")
    second = replace(first, destinations=(str(tmp_path / "second"),), first=False, against=tmp_path / "first")
    previous = release(package, second).plan.record.previous
    assert previous is not None
    assert previous.content_sha256 == measured.file.package.content_sha256


def test_a_package_is_validated_without_its_checkpoint(package: Path, tmp_path: Path) -> None:
    folder = phiforge.validate(package, output=tmp_path / "a b ü")["cpu-int4"]
    drift, tasks = load_evidence(folder / "drift.json"), load_evidence(folder / "tasks.json")
    assert isinstance(drift, Drift) and isinstance(tasks, Tasks)
    assert (drift.top_k, tasks.overall.questions) == (64, 260)
    assert 0 < drift.kl_nats.mean < 0.03
    assert {path.stem for path in folder.iterdir()} == {"drift", "tasks", "free-running", "refusals", "probes"}


@pytest.mark.long
def test_with_its_checkpoint_it_is_validated_as_before_and_the_reference_is_kept(
    package: Path, nano_checkpoint: Path, nano_output: Path, tmp_path: Path
) -> None:
    shutil.copytree(nano_output / "store" / "reference", tmp_path / "reference")
    folder = phiforge.validate(package, nano_checkpoint, output=tmp_path)["cpu-int4"]
    drift = load_evidence(folder / "drift.json")
    own = load_evidence(package / "evidence" / "cpu-int4" / "drift.json")
    assert isinstance(drift, Drift) and isinstance(own, Drift)
    assert drift.top_k == 256
    assert drift.kl_nats.mean == pytest.approx(own.kl_nats.mean, rel=1e-3)
    assert drift.conditions.dataset_sha256 == own.conditions.dataset_sha256
    _same(read_reference(folder / REFERENCE_FOLDER), read_reference(package / REFERENCE_FOLDER))


def test_the_reference_of_a_validation_is_packaged(
    package: Path, nano_build: BuildResult, nano_output: Path, tmp_path: Path
) -> None:
    (key,) = (variant.key for variant in nano_build.plan.variants)
    evidence = tmp_path / "evidence"
    shutil.copytree(package / "evidence" / "cpu-int4", evidence)
    shutil.copytree(package / REFERENCE_FOLDER, evidence / REFERENCE_FOLDER)
    variant = nano_output / "store" / "variant" / key[:16]
    made = phiforge.package(variant, evidence=evidence, targets=["cpu-x64"], output=tmp_path / "out")
    assert hash_files(made / REFERENCE_FOLDER) == hash_files(package / REFERENCE_FOLDER)


def test_no_cpu_is_timed_as_a_gpu(package: Path, nano_variant: Path, tmp_path: Path) -> None:
    for subject in (package, nano_variant):
        with pytest.raises(errors.ProfileUnknownError, match="measures no variant") as caught:
            phiforge.bench(subject, target="directml-generic", output=tmp_path / "out")
        assert "provider dml; there is" in caught.value.why
    assert not (tmp_path / "out").exists()


def test_bench_takes_the_profile_from_the_package(
    package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def run(subject: object, profile: Profile, *_: object, **__: object) -> str:
        asked.append(profile.name)
        return "{}\n"

    monkeypatch.setattr("phiforge.verbs.bench.run_bench", run)
    files = phiforge.bench(package, output=tmp_path)
    assert asked == ["cpu-x64"]
    assert files == {"cpu-int4": tmp_path / "cpu-int4" / "latency-cpu-x64.json"}


# What is refused.


def test_a_folder_without_a_package_needs_checkpoint_and_target(nano_variant: Path, tmp_path: Path) -> None:
    with pytest.raises(errors.CheckpointNotFoundError, match="No checkpoint was given") as caught:
        phiforge.validate(nano_variant, output=tmp_path / "out")
    assert "--checkpoint" in caught.value.fix
    with pytest.raises(errors.ProfileUnknownError, match="No device profile was named") as unnamed:
        phiforge.bench(nano_variant, output=tmp_path / "out")
    assert "--target" in unnamed.value.fix
    assert not (tmp_path / "out").exists()


def test_data_of_one_s_own_needs_the_checkpoint(package: Path, tmp_path: Path) -> None:
    with pytest.raises(errors.CheckpointNotFoundError, match="other held-out data"):
        phiforge.validate(package, output=tmp_path, texts=EVAL_DIR / "text.jsonl")


def _copy(package: Path, folder: Path) -> Path:
    copy = folder / "Paket 1.ortpackage"
    shutil.copytree(package, copy)
    return copy


def test_a_package_of_an_older_phiforge_says_so(package: Path, tmp_path: Path) -> None:
    copy = _copy(package, tmp_path)
    shutil.rmtree(copy / REFERENCE_FOLDER)
    sums = copy / "SHA256SUMS"
    lines = [line for line in sums.read_text(encoding="utf-8").splitlines(keepends=True) if "  reference/" not in line]
    sums.write_text("".join(lines), encoding="utf-8")
    for run in (phiforge.measure, phiforge.validate):
        with pytest.raises(errors.PackageInvalidError, match="carries no reference"):
            run(copy, output=tmp_path / "out")


def test_a_truncated_reference_is_refused(package: Path, tmp_path: Path) -> None:
    copy = _copy(package, tmp_path)
    file = copy / REFERENCE_FOLDER / "distributions.safetensors"
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(errors.PackageInvalidError, match="The reference in"):
        phiforge.validate(copy, output=tmp_path / "out")
    with pytest.raises(errors.PackageTamperedError):
        phiforge.measure(copy, output=tmp_path / "out")


def test_a_reference_of_another_checkpoint_is_refused(package: Path, tmp_path: Path) -> None:
    copy = _copy(package, tmp_path)
    file = copy / REFERENCE_FOLDER / "reference.json"
    text = file.read_text(encoding="utf-8")
    own = read_reference(copy / REFERENCE_FOLDER).fingerprint
    assert own in text
    file.write_text(text.replace(own, "0" * 64), encoding="utf-8")
    with pytest.raises(errors.PackageInvalidError, match="of another checkpoint"):
        phiforge.validate(copy, output=tmp_path / "out")


def test_a_device_or_a_profile_that_is_not_there_is_refused(package: Path, tmp_path: Path) -> None:
    with pytest.raises(errors.FallbackError, match="no device 1") as caught:
        phiforge.measure(package, output=tmp_path, device=1)
    assert "0 " in caught.value.why
    with pytest.raises(errors.ProfileUnknownError, match="not packaged for the profile 'qnn-x-elite'"):
        phiforge.measure(package, output=tmp_path, target="qnn-x-elite")


def test_a_folder_that_cannot_be_written_is_told_before_anything_is_measured(package: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    for output in (tmp_path / "file", tmp_path / "file" / "below", Path("/proc/phiforge")):
        for run in (phiforge.measure, phiforge.validate, phiforge.bench):
            with pytest.raises(errors.OutputUnwritableError):
                run(package, output=output)


def test_nodes_elsewhere_leave_no_evidence(package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(folder: Path, provider: str, **_: object) -> None:
        raise errors.FallbackError("Stray.", why=f"2 Add elsewhere than {provider}", fix="Build again.")

    monkeypatch.setattr("phiforge.runtime.placement.check_placement", refuse)
    with pytest.raises(errors.FallbackError) as caught:
        phiforge.measure(package, output=tmp_path)
    assert caught.value.why == "2 Add elsewhere than cpu"
    assert not list(tmp_path.glob("evidence-*"))
