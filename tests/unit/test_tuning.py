"""A tuning on disk, and where it may be used; which candidates are eligible."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from phiforge import errors
from phiforge.cli.tuning import show_tuning
from phiforge.evidence import Drift, Kind, dump_evidence
from phiforge.hashing import hash_files, hash_listing
from phiforge.target import Budgets, Profile, load_profile
from phiforge.tuning import (
    Candidate,
    Choice,
    Settings,
    StageResult,
    Standing,
    Trial,
    Tuning,
    Turn,
    dump_tuning,
    load_tuning,
)
from phiforge.verbs.eligible import accuracy_budgets, examine_candidates
from phiforge.verbs.tune import TuningResult
from unit.reporting import samples

ROOT = Path(__file__).parents[2]
SETTINGS = Settings(threads=2, session_options={"session.intra_op.allow_spinning": "0"})


def tuning(choice: Choice | None = None) -> Tuning:
    candidate = Candidate(
        name="cpu-int4", path="a", variant_sha256=samples.VARIANT, bytes=1, options={}, eligible=True, reasons=()
    )
    return Tuning(
        kind=Kind.MEASURED,
        conditions=samples.conditions(),
        profile="cpu-x64",
        turn=Turn(prompt_tokens=128, decode_tokens=64),
        rounds=5,
        candidates=(candidate,),
        trials=(),
        stages=(),
        choice=choice,
    )


CHOSEN = tuning(Choice(candidate="cpu-int4", variant_sha256=samples.VARIANT, settings=SETTINGS, turn_p50_ms=12.5))


def test_a_tuning_survives_the_disk(tmp_path: Path) -> None:
    (tmp_path / "tuning.json").write_text(dump_tuning(CHOSEN), encoding="utf-8")
    assert load_tuning(tmp_path / "tuning.json") == CHOSEN


def test_it_is_used_for_its_variant_on_its_machine() -> None:
    assert CHOSEN.settings_for(samples.VARIANT, samples.MACHINE) == SETTINGS
    assert SETTINGS.told() == "2 threads, session.intra_op.allow_spinning=0"
    assert Settings(threads=1).told() == "1 thread"


@pytest.mark.parametrize(
    ("made", "sha256", "update", "why"),
    [
        (CHOSEN, "0" * 64, {}, "chose the variant"),
        (CHOSEN, samples.VARIANT, {"logical_cores": 2}, "2 logical cores"),
        (CHOSEN, samples.VARIANT, {"processor": "Another"}, "Another"),
        (tuning(), samples.VARIANT, {}, "chose nothing"),
    ],
)
def test_it_is_refused_elsewhere(made: Tuning, sha256: str, update: dict[str, object], why: str) -> None:
    with pytest.raises(errors.EvidenceInvalidError) as caught:
        made.settings_for(sha256, samples.MACHINE.model_copy(update=update))
    assert why in caught.value.why


@pytest.mark.parametrize("content", ["", "[]", '{"evidence": "tuning"}', dump_tuning(CHOSEN).replace("rounds", "x")])
def test_a_broken_file_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "tuning.json").write_text(content, encoding="utf-8")
    with pytest.raises(errors.EvidenceInvalidError):
        load_tuning(tmp_path / "tuning.json")
    with pytest.raises(errors.EvidenceInvalidError):
        load_tuning(tmp_path / "none.json")


@pytest.fixture
def profile() -> Profile:
    return load_profile(ROOT / "targets" / "cpu-x64.toml")


def _candidate(folder: Path, kl: float | None, kind: Kind = Kind.MEASURED) -> Path:
    """A model folder, and drift evidence of it beside it."""
    folder.mkdir()
    (folder / "genai_config.json").write_text(json.dumps({"name": folder.name}), encoding="utf-8")
    if kl is not None:
        digest = hash_listing(hash_files(folder))
        drift = samples.drift(kind, variant_sha256=digest)
        changed: Drift = drift.model_copy(update={"kl_nats": drift.kl_nats.model_copy(update={"mean": kl})})
        folder.with_suffix(".json").write_text(dump_evidence(changed), encoding="utf-8")
    return folder


def test_only_known_and_small_drift_is_eligible(tmp_path: Path, profile: Profile) -> None:
    paths = [
        _candidate(tmp_path / "good", 0.01),
        _candidate(tmp_path / "bad", 0.05),
        _candidate(tmp_path / "unknown", None),
        _candidate(tmp_path / "guessed", 0.01, Kind.SURROGATE),
        tmp_path / "absent",
    ]
    (tmp_path / "other.json").write_text("{}", encoding="utf-8")
    examined = examine_candidates([*paths, paths[0]], profile, [tmp_path])
    told = {Path(item.candidate.name).name: item.candidate for item in examined}
    assert [name for name, item in told.items() if item.eligible] == ["good"]
    assert list(told) == ["good", "bad", "unknown", "guessed", "absent"]
    assert "over the maximum" in told["bad"].reasons[0]
    assert told["unknown"].reasons == ("There is no drift evidence of it.",)
    assert "accepts only measured" in told["guessed"].reasons[0]
    assert told["absent"].variant_sha256 is None
    assert "Answer recovery is not known" in told["good"].reasons[0]


def test_equal_names_are_told_apart(tmp_path: Path, profile: Profile) -> None:
    for side in ("a", "b"):
        (tmp_path / side).mkdir()
        folder = _candidate(tmp_path / side / "same", 0.01)
        (folder / "x.txt").write_text(side, encoding="utf-8")
    names = [item.candidate.name for item in examine_candidates([tmp_path / s / "same" for s in "ab"], profile, [])]
    assert len(set(names)) == 2
    assert all(name.startswith("same (") for name in names)


def test_time_and_memory_are_not_budgets_of_a_tuning() -> None:
    kept = accuracy_budgets(samples.BUDGETS).model_dump(exclude_none=True)
    assert set(kept) == set(samples.BUDGETS.model_dump(exclude_none=True)) - {
        "ttft_p50_ms_max",
        "decode_tokens_per_s_min",
        "inter_token_p99_ms_max",
        "peak_anon_bytes_max",
    }
    assert Budgets.model_validate(kept)


def test_what_was_tried_and_chosen_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    rejected = CHOSEN.candidates[0].model_copy(update={"name": "wide", "eligible": False, "reasons": ("Too far.",)})
    failed = Trial(
        stage="candidates", round=0, place=0, candidate="cut", settings=SETTINGS, times=None, error="It does not load."
    )
    standings = tuple(
        Standing(
            name=name, rounds=5, turn_p50_ms=ms, ttft_p50_ms=1.0, decode_tokens_per_s_p50=2.0, peak_anon_bytes_max=3
        )
        for name, ms in (("2 threads", 1234.5), ("1 thread", None))
    )
    stage = StageResult(
        stage="threads",
        standings=standings,
        noise_fraction=0.05,
        least_gain_fraction=0.1,
        chosen="2 threads",
        why="So.",
    )
    made = CHOSEN.model_copy(
        update={"candidates": (*CHOSEN.candidates, rejected), "trials": (failed,), "stages": (stage,)}
    )
    assert show_tuning(TuningResult(tuning=made, file=Path("out/tuning.json"))) == 0
    printed = capsys.readouterr().out
    for told in (
        "cpu-int4 (1 B) may be chosen",
        "wide (1 B) may not be chosen: Too far.",
        "cut, 2 threads, session.intra_op.allow_spinning=0: It does not load.",
        "1,234.5",
        "failed",
        "So. Noise of one trial: 5.0%.",
        "Chosen: cpu-int4 with 2 threads, session.intra_op.allow_spinning=0: 12 ms for 128 prompt tokens",
        "Tuning: out/tuning.json",
    ):
        assert told in printed
