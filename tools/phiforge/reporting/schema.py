"""The schema of a report: facts of one variant, the evidence about it, and the verdict.

A report holds everything its Markdown and HTML show, so both can be made again from the JSON file alone.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Literal, TypeVar

from pydantic import ValidationError

from phiforge import errors
from phiforge.evidence import AnyEvidence, Drift, Kind, Latency, Probes, Record, Tasks
from phiforge.gate import Verdict
from phiforge.target import Budgets
from phiforge.variant import CheckpointFacts, Facts, NpuFacts, WeightGroup

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

_Sort = TypeVar("_Sort", bound=Record)

_ORDER = (
    "drift",
    "free-running",
    "breakdown",
    "agreement",
    "tasks",
    "refusals",
    "probes",
    "latency",
    "comparison",
    "prediction",
)


class ProfileFacts(Facts):
    """The device profile the variant is judged for; `soc_source` says where an NPU's SoC number is from."""

    name: str
    title: str
    provider: str
    runtime_package: str
    runtime_version: str
    accepts: tuple[Kind, ...]
    soc_source: str | None = None


class PipelineFacts(Facts):
    """The pipeline that built the variant, and the options it ran with."""

    name: str
    options: dict[str, str]


class VariantFacts(Facts):
    """The variant's files: identity, size, operators, weights, and what was compiled for an NPU."""

    sha256: str
    bytes: int
    bits_per_weight: float
    operators: dict[str, int]
    weights: tuple[WeightGroup, ...]
    npu: NpuFacts | None = None


class Stage(Facts):
    """One stage of the build; a reused one was taken from the store, and its time is that of the lookup."""

    stage: str
    seconds: float
    reused: bool


class Report(Facts):
    """Everything known about one variant on one device; absent evidence is None.

    `notices` are sentences to read before any number. `further` holds the evidence that has no field of its own: drift,
    answers or probes of another kind, agreement, a breakdown.
    """

    schema_version: Literal["1.0"] = "1.0"
    phiforge_version: str
    title: str
    notices: tuple[str, ...] = ()
    checkpoint: CheckpointFacts
    profile: ProfileFacts
    pipeline: PipelineFacts
    variant: VariantFacts
    stages: tuple[Stage, ...]
    drift: Drift | None = None
    tasks: Tasks | None = None
    probes: Probes | None = None
    latency: Latency | None = None
    further: tuple[AnyEvidence, ...] = ()
    budgets: Budgets
    verdict: Verdict
    limits: tuple[str, ...]

    @property
    def evidence(self) -> tuple[AnyEvidence, ...]:
        """All evidence, sort by sort as the report shows it, the first of each sort before the others."""
        first = (self.drift, self.tasks, self.probes, self.latency)
        records = (*(record for record in first if record is not None), *self.further)
        return tuple(sorted(records, key=lambda record: _ORDER.index(record.evidence)))


def first_of(sort: type[_Sort], evidence: Sequence[AnyEvidence]) -> _Sort | None:
    """The first piece of evidence of a sort, which has a field of its own in the report."""
    return next((record for record in evidence if isinstance(record, sort)), None)


def further_than(first: Sequence[AnyEvidence | None], evidence: Sequence[AnyEvidence]) -> tuple[AnyEvidence, ...]:
    """The evidence without the first of each sort."""
    return tuple(record for record in evidence if not any(record is known for known in first))


def report_json(report: Report) -> str:
    """Return the report as JSON text with sorted keys and a final newline."""
    return json.dumps(report.model_dump(mode="json"), indent=1, sort_keys=True, ensure_ascii=False) + "\n"


def load_report(path: Path) -> Report:
    """Read one report.

    Raises:
        EvidenceInvalidError: The file cannot be read, is no JSON, or breaks the schema.
    """
    try:
        return Report.model_validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        raise errors.EvidenceInvalidError(
            f"The report {path} cannot be used.",
            why=str(error).replace("\n", "; "),
            fix="Make the report again from its evidence; reports are never edited by hand.",
        ) from error


def json_schema() -> str:
    """Return the JSON Schema of a report, as committed in docs/report.schema.json."""
    schema = {"$schema": "https://json-schema.org/draft/2020-12/schema", **Report.model_json_schema()}
    return json.dumps(schema, indent=1, sort_keys=True) + "\n"
