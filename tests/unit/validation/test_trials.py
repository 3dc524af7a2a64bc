"""The order of a tuning's trials, and what becomes of those that fail."""

from __future__ import annotations

from pathlib import Path

import pytest

from phiforge import errors
from phiforge.evidence import MemorySample
from phiforge.tuning import Settings, Times, Turn
from phiforge.validation.trials import Attempt, run_stage, times_of

TURN = Turn(prompt_tokens=16, decode_tokens=8)


def attempt(name: str, threads: int = 1) -> Attempt:
    return Attempt(name, name, Path(name), Settings(threads=threads))


def times(turn_ms: float) -> Times:
    return Times(load_ms=1, ttft_ms=turn_ms / 2, decode_tokens_per_s=8e3 / turn_ms, turn_ms=turn_ms, peak_anon_bytes=5)


def test_every_contender_is_measured_in_every_round_in_changing_order() -> None:
    order: list[str] = []
    told: list[tuple[int, int]] = []

    def measure(one: Attempt, turn: Turn) -> Times:
        order.append(one.name)
        return times({"a": 100.0, "b": 50.0, "c": 75.0}[one.name] + len(order) / 100)

    result, trials = run_stage(
        "candidates",
        [attempt(name) for name in "abc"],
        TURN,
        rounds=4,
        progress=lambda step, done, total: told.append((done, total)),
        measure=measure,
    )
    rounds = [order[index : index + 3] for index in range(0, 12, 3)]
    assert all(sorted(names) == ["a", "b", "c"] for names in rounds)
    assert len({tuple(names) for names in rounds}) > 1
    assert [trial.candidate for trial in trials] == order
    assert result.chosen == "b"
    assert [standing.name for standing in result.standings] == ["a", "b", "c"]
    assert told[-1] == (12, 12)


def test_a_failure_is_kept_and_the_others_go_on() -> None:
    def measure(one: Attempt, turn: Turn) -> Times:
        if one.name == "bad":
            raise errors.VariantUnusableError("It does not load.", why="cut", fix="none")
        return times(10.0)

    result, trials = run_stage(
        "candidates", [attempt("bad"), attempt("good")], TURN, rounds=3, progress=lambda *_: None, measure=measure
    )
    assert result.chosen == "good"
    assert [trial.error for trial in trials if trial.times is None] == ["It does not load. (cut)"]
    assert sum(trial.candidate == "good" for trial in trials) == 3
    assert result.standings[0].turn_p50_ms is None
    assert result.why.startswith("bad failed. ")


def test_who_fails_later_is_no_contender_any_more() -> None:
    calls: list[str] = []

    def measure(one: Attempt, turn: Turn) -> Times:
        calls.append(one.name)
        if calls.count("quick") == 2 and one.name == "quick":
            raise errors.VariantUnusableError("It fell.", why="x", fix="y")
        return times(1.0 if one.name == "quick" else 10.0)

    result, trials = run_stage(
        "threads", [attempt("slow", 2), attempt("quick", 1)], TURN, rounds=3, progress=lambda *_: None, measure=measure
    )
    assert result.chosen == "slow"
    assert calls.count("quick") == 2
    assert len(trials) == 5


def test_a_bug_is_not_kept_as_a_failure() -> None:
    def measure(one: Attempt, turn: Turn) -> Times:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run_stage("threads", [attempt("a")], TURN, rounds=3, progress=lambda *_: None, measure=measure)


def test_times_are_medians_of_the_repeats() -> None:
    row = {"prompt_tokens": 16, "ttft_ms": [10.0, 12.0, 30.0], "decode_ms": [[1.0, 1.0], [2.0, 2.0], [4.0, 4.0]]}
    memory = [MemorySample(t_s=0, anon_bytes=7, rss_bytes=9), MemorySample(t_s=1, anon_bytes=6, rss_bytes=9)]
    found = times_of({"load_ms": 5.0, "rows": [row]}, memory)
    assert found == Times(load_ms=5.0, ttft_ms=12.0, decode_tokens_per_s=500.0, turn_ms=16.0, peak_anon_bytes=7)
