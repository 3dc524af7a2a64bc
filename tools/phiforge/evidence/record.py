"""What all evidence is made of: the kinds, the conditions, and numbers that come with how sure they are."""

from __future__ import annotations

from enum import StrEnum

from pydantic import AwareDatetime, BaseModel, ConfigDict

from phiforge import errors

SCHEMA_VERSION = "1.0"


class Kind(StrEnum):
    """How a number was come by; kinds are never mixed."""

    MEASURED = "measured"
    EMULATED = "emulated"
    SURROGATE = "surrogate"
    PREDICTED = "predicted"


class Record(BaseModel):
    """Base of all evidence: frozen, unknown keys forbidden."""

    model_config = ConfigDict(extra="forbid", frozen=True, ser_json_inf_nan="constants")


class Machine(Record):
    """The machine a measurement ran on."""

    processor: str
    architecture: str
    process_architecture: str
    logical_cores: int
    physical_cores: int
    memory_bytes: int
    system: str
    power_source: str | None = None


class Conditions(Record):
    """What a measurement depends on besides the variant; `taken_at` is in UTC."""

    machine: Machine
    provider: str
    threads: int
    versions: dict[str, str]
    dataset: str | None = None
    split: str | None = None
    dataset_sha256: str | None = None
    samples: int | None = None
    taken_at: AwareDatetime | None = None
    notes: tuple[str, ...] = ()


class Percentiles(Record):
    """Percentiles of one distribution; the unit is in the name of the field that holds them."""

    p1: float
    p5: float
    p50: float
    p90: float
    p95: float
    p99: float
    p99_9: float
    max: float


class Estimate(Record):
    """A mean and its standard error, which comes from blocks of text and not from single tokens."""

    mean: float
    standard_error: float


class Interval(Record):
    """The 90 % confidence interval of a number: each end is a one-sided bound at 95 %. None is no bound at all."""

    low: float | None
    high: float | None


def invalid(name: str, why: str, *, newer: bool = False) -> errors.EvidenceInvalidError:
    """Return the error that a file of evidence cannot be used; `newer` if it is of a phiforge to come."""
    return errors.EvidenceInvalidError(
        f"The evidence file {name} cannot be used.",
        why=why,
        fix="Read it with the phiforge that wrote it, or a newer one."
        if newer
        else "Measure again with `phiforge measure`, `validate` or `bench`; evidence is never edited by hand.",
    )
