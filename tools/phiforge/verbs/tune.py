"""Tune: choose, by measuring on this machine, which of several variants to run and with which settings."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from phiforge import catalog, errors
from phiforge.evidence import Conditions, Kind
from phiforge.machine import describe_machine, now, thread_choices, tool_versions
from phiforge.selection import RUNTIME_WHEELS
from phiforge.store import write_atomically
from phiforge.target import load_profile
from phiforge.tuning import TUNING_FILE, Candidate, Choice, Settings, Trial, Tuning, Turn, dump_tuning
from phiforge.verbs.eligible import examine_candidates
from phiforge.verbs.watch import Unwatched

if TYPE_CHECKING:
    from collections.abc import Sequence

    from phiforge.target import Profile
    from phiforge.tuning import StageName, StageResult
    from phiforge.validation.trials import Attempt
    from phiforge.verbs.watch import Watcher

VERSIONS = (*RUNTIME_WHEELS, "numpy", "phiforge")
# Least rounds: of two one could not say how noisy they are.
ROUNDS_MIN = 3
# Session options worth a trial; none had an effect on the machine of docs/benchmarks.md, on others they may.
SESSION_OPTIONS: tuple[dict[str, str], ...] = (
    {"session.intra_op.allow_spinning": "0"},
    {"session.dynamic_block_base": "4"},
)
NOTES = (
    "every trial is a fresh process: one warm-up turn, the median of two; the order changes every round",
    "prompts are random token ids, each used once",
    "candidates are compared first, with the default threads; then the threads of the chosen one, then session options",
    "of all that are within the noise of the fastest, the first in order is chosen; the default is the first",
)


@dataclass(frozen=True, kw_only=True)
class TuningResult:
    """What a tuning came to, and the file it was written to."""

    tuning: Tuning
    file: Path


@dataclass(kw_only=True)
class _Run:
    """A tuning in progress."""

    turn: Turn
    rounds: int
    watcher: Watcher
    trials: list[Trial] = field(default_factory=list)
    stages: list[StageResult] = field(default_factory=list)

    def choose(self, stage: StageName, attempts: Sequence[Attempt]) -> Attempt | None:
        """Measure one stage and return what it chose."""
        from phiforge.validation.trials import run_stage

        result, trials = run_stage(stage, attempts, self.turn, rounds=self.rounds, progress=self.watcher.advanced)
        self.stages.append(result)
        self.trials += trials
        return next((attempt for attempt in attempts if attempt.name == result.chosen), None)


def tune(
    candidates: Sequence[Path],
    *,
    target: str,
    output: Path = Path("artifacts/tuning"),
    evidence: Sequence[Path] = (),
    rounds: int = 5,
    prompt_tokens: int = 128,
    decode_tokens: int = 64,
    project: Path | None = None,
    watcher: Watcher | None = None,
) -> TuningResult:
    """Choose the candidate, threads and session options with the shortest turn on this machine.

    Only candidates whose drift is known and within the profile's budgets are eligible. What failed is kept in the
    result. Nothing is changed in the candidates: the choice is applied when one is loaded (`bench`, `chat`).

    Args:
        candidates: Packages, built variants or model folders, in order of preference: where the gain is below the
            noise, the first stays.
        target: Name of a device profile, or the path of one: its budgets decide what is eligible.
        output: Folder that receives tuning.json.
        evidence: Folders or files with the candidates' evidence, for those that do not carry their own.
        rounds: How often each contender is measured, at least 3.
        prompt_tokens: Length of the prompt of the turn that is timed.
        decode_tokens: Tokens decoded in it after the first one.
        project: The project whose profiles are meant; found from the working folder by default.
        watcher: Told of the progress.

    Raises:
        NoCandidateError: No candidate is eligible, or none of them runs; tuning.json says why.
    """
    watcher = watcher or Unwatched()
    profile = load_profile(catalog.profile_path(project or catalog.find_project(), target))
    examined = examine_candidates(candidates, profile, evidence)
    run = _Run(
        turn=Turn(prompt_tokens=prompt_tokens, decode_tokens=decode_tokens),
        rounds=max(ROUNDS_MIN, rounds),
        watcher=watcher,
    )
    choice = _choose(run, [item.candidate for item in examined], {i.candidate.name: i.folder for i in examined})
    tuning = _tuning(run, profile, tuple(item.candidate for item in examined), choice)
    output.mkdir(parents=True, exist_ok=True)
    file = output / TUNING_FILE
    write_atomically(file, dump_tuning(tuning))
    if choice is None:
        raise _nothing(tuning, file)
    return TuningResult(tuning=tuning, file=file)


def _choose(run: _Run, candidates: Sequence[Candidate], folders: dict[str, Path | None]) -> Choice | None:
    """Go through the stages; None where nothing could be chosen."""
    from phiforge.validation.trials import Attempt

    threads = thread_choices()
    default = Settings(threads=threads[0])
    attempts = [
        Attempt(item.name, item.name, folder, default)
        for item in candidates
        if item.eligible and (folder := folders[item.name]) is not None
    ]
    if not attempts:
        return None
    chosen = run.choose("candidates", attempts) if len(attempts) > 1 else attempts[0]
    if chosen is None:
        return None
    chosen = run.choose("threads", [_other(chosen, Settings(threads=count)) for count in threads])
    if chosen is None:
        return None
    counted = chosen.settings.threads
    settings = [Settings(threads=counted, session_options=options) for options in ({}, *SESSION_OPTIONS)]
    chosen = run.choose("session options", [_other(chosen, item) for item in settings])
    if chosen is None:
        return None
    digest = next(item.variant_sha256 for item in candidates if item.name == chosen.candidate)
    turn_ms = next(item.turn_p50_ms for item in run.stages[-1].standings if item.name == chosen.name)
    assert digest is not None and turn_ms is not None
    return Choice(candidate=chosen.candidate, variant_sha256=digest, settings=chosen.settings, turn_p50_ms=turn_ms)


def _other(attempt: Attempt, settings: Settings) -> Attempt:
    """The same candidate with other settings, named by them."""
    from phiforge.validation.trials import Attempt

    return Attempt(settings.told(), attempt.candidate, attempt.folder, settings)


def _tuning(run: _Run, profile: Profile, candidates: tuple[Candidate, ...], choice: Choice | None) -> Tuning:
    return Tuning(
        kind=Kind.MEASURED,
        conditions=Conditions(
            machine=describe_machine(),
            provider=profile.runtime.provider,
            threads=choice.settings.threads if choice else thread_choices()[0],
            versions=tool_versions(VERSIONS),
            samples=run.rounds,
            taken_at=now(),
            notes=NOTES,
        ),
        profile=profile.name,
        turn=run.turn,
        rounds=run.rounds,
        candidates=candidates,
        trials=tuple(run.trials),
        stages=tuple(run.stages),
        choice=choice,
    )


def _nothing(tuning: Tuning, file: Path) -> errors.NoCandidateError:
    reasons = [f"{item.name}: {' '.join(item.reasons)}" for item in tuning.candidates if not item.eligible]
    reasons += [f"{trial.candidate}: {trial.error}" for trial in tuning.trials if trial.error]
    return errors.NoCandidateError(
        f"Of {len(tuning.candidates)} candidates none can be chosen.",
        why="; ".join(reasons),
        fix=f"Validate them (`phiforge validate`) and give the evidence with --evidence, or build others. See {file}.",
    )
