"""The schema of a report: for each variant and device its facts, the evidence about it, and the verdict.

A report holds everything its Markdown and HTML show, so both can be made again from the JSON file alone.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Literal, TypeVar

from pydantic import ValidationError, model_validator

from phiforge import errors
from phiforge.evidence import AnyEvidence, Drift, Kind, Latency, Probes, Record, Tasks
from phiforge.gate import Verdict
from phiforge.target import Budgets
from phiforge.variant import CheckpointFacts, Facts, NpuFacts, WeightGroup

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path
    from typing import Self

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


class Source(Facts):
    """The file a piece of evidence stands in, and that file's hash; `href` leads there from the report's folder."""

    file: str
    sha256: str
    href: str | None = None


class Entry(Facts):
    """One variant of one package on one device.

    `key` is "<model>/<profile>", its place in the report; `sources` are of `report.evidence`, in its order. `path` is
    the package as the command was given it, for the commands that a report names; None in a report that travels with
    its package, where the folder's name is enough.
    """

    key: str
    package: str
    path: str | None = None
    content_sha256: str
    report: Report
    sources: tuple[Source, ...]

    @model_validator(mode="after")
    def _each_has_a_source(self) -> Self:
        if len(self.sources) != len(self.report.evidence):
            raise ValueError(f"{len(self.report.evidence)} pieces of evidence have {len(self.sources)} sources")
        return self


class Fleet(Facts):
    """A whole report: any number of variants and devices. `notices` are sentences to read before any of them."""

    schema_version: Literal["1.0"] = "1.0"
    phiforge_version: str
    notices: tuple[str, ...] = ()
    entries: tuple[Entry, ...]

    def report_for(self, profile: str) -> Report:
        """The first report for a device profile."""
        return next(entry.report for entry in self.entries if entry.report.profile.name == profile)


def make_entry(package: str, content_sha256: str, report: Report, sources: Mapping[int, Source]) -> Entry:
    """Put a report beside the files its evidence came from.

    Args:
        package: Name of the package's folder.
        content_sha256: The package's content hash.
        report: The report of one variant on one device.
        sources: Where each record of `report.evidence` came from, by its `id()`: equal records may stand in two files.
    """
    key = f"{slug(report.checkpoint.name)}/{slug(report.profile.name)}"
    return Entry(
        key=key,
        package=package,
        content_sha256=content_sha256,
        report=report,
        sources=tuple(sources[id(record)] for record in report.evidence),
    )


def make_fleet(entries: Sequence[Entry], phiforge_version: str, notices: tuple[str, ...] = ()) -> Fleet:
    """Put entries into one report; where two have one key, the later ones are numbered."""
    keys: set[str] = set()
    own = []
    for entry in entries:
        key, number = entry.key, 2
        while key in keys:
            key, number = f"{entry.key}-{number}", number + 1
        keys.add(key)
        own.append(entry.model_copy(update={"key": key}))
    return Fleet(phiforge_version=phiforge_version, notices=notices, entries=tuple(own))


def slug(name: str) -> str:
    """A name as a part of an address: letters, digits, dots, dashes; the last part of a path."""
    return re.sub(r"[^A-Za-z0-9.]+", "-", name.rsplit("/", 1)[-1]).strip("-.") or "x"


def report_json(fleet: Fleet) -> str:
    """Return the report as JSON text with sorted keys and a final newline."""
    return json.dumps(fleet.model_dump(mode="json"), indent=1, sort_keys=True, ensure_ascii=False) + "\n"


def load_report(path: Path) -> Fleet:
    """Read a report.

    Raises:
        EvidenceInvalidError: The file cannot be read, is no JSON, or breaks the schema.
    """
    try:
        return Fleet.model_validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        raise errors.EvidenceInvalidError(
            f"The report {path} cannot be used.",
            why=str(error).replace("\n", "; "),
            fix="Make the report again from its evidence; reports are never edited by hand.",
        ) from error


def json_schema() -> str:
    """Return the JSON Schema of a report, as committed in docs/report.schema.json."""
    schema = {"$schema": "https://json-schema.org/draft/2020-12/schema", **Fleet.model_json_schema()}
    return json.dumps(schema, indent=1, sort_keys=True) + "\n"
