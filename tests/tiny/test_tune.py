"""A real tuning over two built candidates and one that does not load."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

import phiforge
from phiforge import errors
from phiforge.evidence import Drift, Latency, dump_evidence, load_evidence
from phiforge.hashing import hash_files, hash_listing
from phiforge.machine import thread_choices
from phiforge.tuning import load_tuning
from phiforge.verbs.build import BuildResult
from phiforge.verbs.tune import SESSION_OPTIONS, TuningResult


@pytest.fixture(scope="module")
def packages(nano_build: BuildResult, pruned_build: BuildResult) -> list[Path]:
    assert nano_build.package is not None and pruned_build.package is not None
    return [nano_build.package, pruned_build.package]


@pytest.fixture(scope="module")
def cut_variant(nano_variant: Path, packages: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder whose data file is cut short, and good drift evidence of it."""
    folder = tmp_path_factory.mktemp("cut") / "cut"
    shutil.copytree(nano_variant, folder)
    with (folder / "model.onnx.data").open("r+b") as file:
        file.truncate(1000)
    (evidence,) = (packages[0] / "evidence").glob("*/drift.json")
    drift = load_evidence(evidence)
    assert isinstance(drift, Drift)
    changed = drift.model_copy(update={"variant_sha256": hash_listing(hash_files(folder))})
    (folder.parent / "drift.json").write_text(dump_evidence(changed), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def result(packages: list[Path], cut_variant: Path, tmp_path_factory: pytest.TempPathFactory) -> TuningResult:
    return phiforge.tune(
        [cut_variant, *packages, cut_variant.parent / "absent"],
        target="cpu-x64",
        output=tmp_path_factory.mktemp("tuning"),
        evidence=[cut_variant.parent / "drift.json"],
        rounds=3,
        prompt_tokens=32,
        decode_tokens=16,
    )


def test_a_candidate_that_runs_is_chosen_and_failures_are_kept(result: TuningResult) -> None:
    tuning = load_tuning(result.file)
    assert tuning == result.tuning
    assert [item.eligible for item in tuning.candidates] == [True, True, True, False]
    assert tuning.choice is not None
    assert tuning.choice.candidate in {"cpu-int4", "pruned"}
    (failure,) = (trial for trial in tuning.trials if trial.times is None)
    assert failure.candidate == "cut"
    assert "bytes" in (failure.error or "")
    assert [stage.stage for stage in tuning.stages] == ["candidates", "threads", "session options"]
    assert tuning.stages[0].why.startswith("cut failed. ")


def test_every_setting_was_tried_in_every_round(result: TuningResult) -> None:
    sound = [trial for trial in result.tuning.trials if trial.times]
    assert len(sound) == 3 * (2 + len(thread_choices()) + 1 + len(SESSION_OPTIONS))
    assert all(trial.times and trial.times.turn_ms > trial.times.ttft_ms > 0 for trial in sound)


def test_the_choice_is_used_by_bench_and_chat(result: TuningResult, packages: list[Path], tmp_path: Path) -> None:
    choice = result.tuning.choice
    assert choice is not None
    names = {"cpu-int4": packages[0], "pruned": packages[1]}
    chosen = names.pop(choice.candidate)
    (other,) = names.values()
    (file,) = phiforge.bench(chosen, target="cpu-x64", output=tmp_path, tuning=result.file).values()
    latency = load_evidence(file)
    assert isinstance(latency, Latency)
    assert latency.conditions.threads == choice.settings.threads
    assert f"tuned: {choice.settings.told()}" in latency.conditions.notes
    talk = phiforge.chat(chosen, tuning=result.file)
    assert talk.variant.threads == choice.settings.threads
    assert "".join(talk.say("What is 12 + 34?")).endswith("46")
    with pytest.raises(errors.EvidenceInvalidError) as caught:
        phiforge.chat(other, tuning=result.file)
    assert "It chose the variant" in caught.value.why


def test_session_options_reach_the_runtime(nano_variant: Path) -> None:
    from phiforge.runtime.variant import open_variant

    assert open_variant(nano_variant, session_options={"session.intra_op.allow_spinning": "0"}).vocab_size > 0
    with pytest.raises(errors.VariantUnusableError):
        open_variant(nano_variant, session_options={"session.disable_cpu_ep_fallback": "1"})


def test_where_none_runs_the_failures_are_written(cut_variant: Path, tmp_path: Path) -> None:
    with pytest.raises(errors.NoCandidateError) as caught:
        phiforge.tune(
            [cut_variant], target="cpu-x64", output=tmp_path, evidence=[cut_variant.parent / "drift.json"], rounds=3
        )
    assert "cut" in caught.value.why
    tuning = load_tuning(tmp_path / "tuning.json")
    assert tuning.choice is None
    assert [trial.error is not None for trial in tuning.trials] == [True] * len(thread_choices())
