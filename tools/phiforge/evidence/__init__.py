"""The schema of evidence: measurements, each with its conditions and how it was come by.

Every number that phiforge reports stands in one of these records, in a JSON file of its own. Units are in the names
(`_nats`, `_ms`, `_bytes`, `_per_s`, `_fraction`); probabilities and agreements are fractions of 1.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, TypeAlias

from pydantic import Field, TypeAdapter, ValidationError

from phiforge.evidence.latency import (
    Cliff,
    Comparison,
    ComparisonRow,
    ContentionRow,
    DecodeBin,
    Energy,
    IdleRow,
    Latency,
    LatencyRow,
    MemoryNeed,
    MemorySample,
    PredictedRow,
    Prediction,
    SecondTurn,
)
from phiforge.evidence.quality import (
    Agreement,
    AgreementBin,
    Breakdown,
    Drift,
    DriftStep,
    Endings,
    FreeRunning,
    Metric,
    PositionBin,
    Probe,
    Probes,
    RefusalCategory,
    Refusals,
    Tasks,
    TaskScore,
    TaskSource,
)
from phiforge.evidence.record import (
    SCHEMA_VERSION,
    Conditions,
    Estimate,
    Interval,
    Kind,
    Machine,
    Percentiles,
    Record,
    invalid,
)

if TYPE_CHECKING:
    from pathlib import Path

__all__ = [
    "SCHEMA_VERSION",
    "Agreement",
    "AgreementBin",
    "AnyEvidence",
    "Breakdown",
    "Cliff",
    "Comparison",
    "ComparisonRow",
    "Conditions",
    "ContentionRow",
    "DecodeBin",
    "Drift",
    "DriftStep",
    "Endings",
    "Energy",
    "Estimate",
    "FreeRunning",
    "IdleRow",
    "Interval",
    "Kind",
    "Latency",
    "LatencyRow",
    "Machine",
    "MemoryNeed",
    "MemorySample",
    "Metric",
    "Percentiles",
    "PositionBin",
    "PredictedRow",
    "Prediction",
    "Probe",
    "Probes",
    "Record",
    "RefusalCategory",
    "Refusals",
    "SecondTurn",
    "TaskScore",
    "TaskSource",
    "Tasks",
    "dump_evidence",
    "invalid",
    "load_evidence",
    "parse_evidence",
]

AnyEvidence: TypeAlias = Annotated[
    Drift | Tasks | FreeRunning | Refusals | Probes | Latency | Comparison | Prediction | Agreement | Breakdown,
    Field(discriminator="evidence"),
]

_ADAPTER: TypeAdapter[AnyEvidence] = TypeAdapter(AnyEvidence)


def dump_evidence(evidence: AnyEvidence) -> str:
    """Return the evidence as JSON text with sorted keys and a final newline."""
    return json.dumps(evidence.model_dump(mode="json"), indent=1, sort_keys=True) + "\n"


def load_evidence(path: Path) -> AnyEvidence:
    """Read one evidence file.

    Raises:
        EvidenceInvalidError: The file cannot be read, or errors as `parse_evidence`.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise invalid(str(path), str(error)) from error
    return parse_evidence(text, str(path))


def parse_evidence(text: str, name: str) -> AnyEvidence:
    """Read evidence from JSON text; `name` is what an error calls it.

    Raises:
        EvidenceInvalidError: The text is no JSON, breaks the schema, or says what evidence may not say
            (`evidence_checks`).
    """
    # Imported here: the checks are written in terms of the records above.
    from phiforge.evidence_checks import check_record

    try:
        record = _ADAPTER.validate_json(text)
    except ValidationError as error:
        raise invalid(name, str(error).replace("\n", "; ")) from error
    check_record(record, name)
    return record
