"""The schema of a tuning: what was tried on one machine, how long it took, and what was chosen for it.

A tuning is evidence of the kind `measured`, in a file of its own. Threads and session options belong to the device, so
they are applied when a variant is loaded and never baked into a package.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, ValidationError

from phiforge import errors
from phiforge.evidence import SCHEMA_VERSION, Conditions, Kind, Machine, Record

if TYPE_CHECKING:
    from pathlib import Path

TUNING_FILE = "tuning.json"
StageName = Literal["candidates", "threads", "session options"]


class Settings(Record):
    """How a variant is run: threads of the CPU operators, and entries of the runtime's session options."""

    threads: Annotated[int, Field(ge=1)]
    session_options: dict[str, str] = Field(default_factory=dict)

    def told(self) -> str:
        """The settings in words, as "2 threads, session.intra_op.allow_spinning=0"."""
        threads = f"{self.threads} thread{'' if self.threads == 1 else 's'}"
        return ", ".join([threads, *(f"{key}={value}" for key, value in sorted(self.session_options.items()))])


class Turn(Record):
    """The turn of a conversation that is timed: a prompt, its first token, and the tokens decoded after that."""

    prompt_tokens: Annotated[int, Field(ge=1)]
    decode_tokens: Annotated[int, Field(ge=1)]

    def told(self) -> str:
        """The turn in words."""
        return f"{self.prompt_tokens:,} prompt tokens and {self.decode_tokens:,} decoded ones"


class Candidate(Record):
    """One variant that could be chosen; `reasons` say why it may not be, or what is not known of one that may.

    The hash is None where the candidate's files cannot be used at all.
    """

    name: str
    path: str
    variant_sha256: str | None
    bytes: int | None
    options: dict[str, str]
    eligible: bool
    reasons: tuple[str, ...]


class Times(Record):
    """What one trial measured, in a fresh process: medians of its repeats, and its peak memory."""

    load_ms: float
    ttft_ms: float
    decode_tokens_per_s: float
    turn_ms: float
    peak_anon_bytes: int


class Trial(Record):
    """One run of one candidate with one choice of settings; `times` is None where it failed, and `error` says how."""

    stage: StageName
    round: int
    place: int
    candidate: str
    settings: Settings
    times: Times | None
    error: str | None = None


class Standing(Record):
    """How one contender of a stage came out: medians over its rounds; None where it failed."""

    name: str
    rounds: int
    turn_p50_ms: float | None
    ttft_p50_ms: float | None
    decode_tokens_per_s_p50: float | None
    peak_anon_bytes_max: int | None


class StageResult(Record):
    """One comparison: contenders in order of preference, the default first, and which of them was chosen and why.

    `noise_fraction` is the deviation of single trials from their contender's median; a gain below
    `least_gain_fraction` is none.
    """

    stage: StageName
    standings: tuple[Standing, ...]
    noise_fraction: float
    least_gain_fraction: float
    chosen: str | None
    why: str


class Choice(Record):
    """What was chosen: a candidate, and how it is run on this machine."""

    candidate: str
    variant_sha256: str
    settings: Settings
    turn_p50_ms: float


class Tuning(Record):
    """Everything that one `phiforge tune` tried; `choice` is None where no candidate was eligible, or none ran."""

    evidence: Literal["tuning"] = "tuning"
    schema_version: str = SCHEMA_VERSION
    kind: Kind
    conditions: Conditions
    profile: str
    turn: Turn
    rounds: int
    candidates: tuple[Candidate, ...]
    trials: tuple[Trial, ...]
    stages: tuple[StageResult, ...]
    choice: Choice | None

    def settings_for(self, variant_sha256: str, machine: Machine) -> Settings:
        """The settings chosen for a variant on this machine.

        Raises:
            EvidenceInvalidError: Nothing was chosen, or for another variant, or on another machine.
        """
        if self.choice is None:
            raise _unfit("It chose nothing: no candidate was eligible and ran.")
        if self.choice.variant_sha256 != variant_sha256:
            raise _unfit(
                f"It chose the variant {self.choice.variant_sha256[:12]} ({self.choice.candidate}), and this one is "
                f"{variant_sha256[:12]}."
            )
        own, here = _identity(self.conditions.machine), _identity(machine)
        if own != here:
            raise _unfit(f"It was made on {own}, and this is {here}.")
        return self.choice.settings


def dump_tuning(tuning: Tuning) -> str:
    """Return the tuning as JSON text with sorted keys and a final newline."""
    return json.dumps(tuning.model_dump(mode="json"), indent=1, sort_keys=True) + "\n"


def load_tuning(path: Path) -> Tuning:
    """Read a tuning.

    Raises:
        EvidenceInvalidError: The file cannot be read, is no JSON, or breaks the schema.
    """
    try:
        return Tuning.model_validate_json(path.read_bytes())
    except OSError as error:
        raise _unfit(f"{path} cannot be read: {error.strerror}.") from error
    except ValidationError as error:
        raise _unfit(f"{path}: {str(error).replace(chr(10), '; ')}") from error


def _identity(machine: Machine) -> str:
    return f"{machine.processor} with {machine.logical_cores} logical cores, {machine.process_architecture}"


def _unfit(why: str) -> errors.EvidenceInvalidError:
    return errors.EvidenceInvalidError(
        "The tuning cannot be used here.",
        why=why,
        fix="Run `phiforge tune` on this machine, with the variant among its candidates.",
    )
