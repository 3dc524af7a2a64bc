"""The trials of a tuning: every contender in a fresh process, round after round, in an order that changes."""

from __future__ import annotations

import random
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING, Any

from phiforge import errors
from phiforge.choice import Contender, decide
from phiforge.tuning import StageResult, Standing, Times, Trial
from phiforge.validation.latency import Work, run_worker

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from phiforge.evidence import MemorySample
    from phiforge.tuning import Settings, StageName, Turn

    Progress = Callable[[str, int, int], None]
    Measurement = Callable[["Attempt", Turn], Times]

WARMUPS, REPEATS = 1, 2


@dataclass(frozen=True)
class Attempt:
    """What a trial runs: a candidate, by name and folder, with settings; `name` tells it from others of its stage."""

    name: str
    candidate: str
    folder: Path
    settings: Settings


def run_stage(
    stage: StageName,
    attempts: Sequence[Attempt],
    turn: Turn,
    *,
    rounds: int,
    progress: Progress,
    measure: Measurement | None = None,
) -> tuple[StageResult, tuple[Trial, ...]]:
    """Measure the attempts of one stage and choose among them.

    An attempt that fails once is not tried again, and is no longer a contender; its failed trial is kept.

    Args:
        stage: What is compared.
        attempts: In order of preference, the default first.
        turn: What is timed.
        rounds: How often each attempt is measured.
        progress: Told of (stage, trials done, trials in all).
        measure: Measures one attempt; by default in a fresh process.
    """
    trials: list[Trial] = []
    failed: set[str] = set()
    for number in range(rounds):
        # Another order every round: whoever comes first in a round was found to be faster.
        for place, attempt in enumerate(random.Random(number).sample(list(attempts), len(attempts))):
            progress(stage, number * len(attempts) + place, rounds * len(attempts))
            if attempt.name in failed:
                continue
            trial = _try(stage, number, place, attempt, turn, measure or measure_turn)
            trials.append(trial)
            failed |= {attempt.name} if trial.times is None else set()
    progress(stage, rounds * len(attempts), rounds * len(attempts))
    return _judge(stage, attempts, trials, failed), tuple(trials)


def measure_turn(attempt: Attempt, turn: Turn) -> Times:
    """Time one attempt in a fresh process.

    Raises:
        VariantUnusableError: The variant does not run.
    """
    raw, memory = run_worker(
        attempt.folder,
        threads=attempt.settings.threads,
        session_options=attempt.settings.session_options,
        work=Work(WARMUPS, REPEATS, (turn.prompt_tokens,), turn.decode_tokens),
        progress=lambda step, done, total: None,
    )
    return times_of(raw, memory)


def times_of(raw: dict[str, Any], memory: Sequence[MemorySample]) -> Times:
    """The figures of one process: medians over its repeats."""
    (row,) = raw["rows"]
    decodes = [sum(tokens) for tokens in row["decode_ms"]]
    return Times(
        load_ms=raw["load_ms"],
        ttft_ms=median(row["ttft_ms"]),
        decode_tokens_per_s=median(
            len(tokens) * 1e3 / total for tokens, total in zip(row["decode_ms"], decodes, strict=True)
        ),
        turn_ms=median(first + rest for first, rest in zip(row["ttft_ms"], decodes, strict=True)),
        peak_anon_bytes=max((sample.anon_bytes for sample in memory), default=0),
    )


def _try(stage: StageName, number: int, place: int, attempt: Attempt, turn: Turn, measure: Measurement) -> Trial:
    times, error = None, None
    try:
        times = measure(attempt, turn)
    except errors.PhiforgeError as raised:
        error = str(raised)
    return Trial(
        stage=stage,
        round=number,
        place=place,
        candidate=attempt.candidate,
        settings=attempt.settings,
        times=times,
        error=error,
    )


def _judge(stage: StageName, attempts: Sequence[Attempt], trials: Sequence[Trial], failed: set[str]) -> StageResult:
    found: dict[str, list[Times]] = {attempt.name: [] for attempt in attempts}
    keys = {(attempt.candidate, attempt.settings.told()): attempt.name for attempt in attempts}
    for trial in trials:
        name = keys[trial.candidate, trial.settings.told()]
        if trial.times is not None and name not in failed:
            found[name].append(trial.times)
    decision = decide([Contender(name, tuple(times.turn_ms for times in all_)) for name, all_ in found.items()])
    return StageResult(
        stage=stage,
        standings=tuple(_standing(name, all_) for name, all_ in found.items()),
        noise_fraction=decision.noise_fraction,
        least_gain_fraction=decision.least_gain_fraction,
        chosen=decision.chosen,
        why=decision.why,
    )


def _standing(name: str, times: Sequence[Times]) -> Standing:
    if not times:
        return Standing(
            name=name, rounds=0, turn_p50_ms=None, ttft_p50_ms=None, decode_tokens_per_s_p50=None,
            peak_anon_bytes_max=None,
        )  # fmt: skip
    return Standing(
        name=name,
        rounds=len(times),
        turn_p50_ms=median(item.turn_ms for item in times),
        ttft_p50_ms=median(item.ttft_ms for item in times),
        decode_tokens_per_s_p50=median(item.decode_tokens_per_s for item in times),
        peak_anon_bytes_max=max(item.peak_anon_bytes for item in times),
    )
