"""One file with all that one machine measured of one package, bound to the package's content.

The file names what it is about (package, variant and profile, each by its hash), where it was measured, and holds the
records. Its digest is over all of that, so a file that was damaged or edited is found. It is no signature: whoever
means to deceive can compute it again. Whom to trust is a matter of how the file came here.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field, ValidationError

from phiforge.evidence import AnyEvidence, Machine, Record, invalid
from phiforge.evidence_checks import check_record
from phiforge.hashing import content_key

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

SCHEMA_VERSION = "1.0"
MACHINE_ID_DIGITS = 12
_GIBIBYTE = 1 << 30

Sha256 = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]


class PackageFacts(Record):
    """The package that was measured; its content hash covers all but evidence and reports."""

    name: str
    content_sha256: Sha256


class VariantFacts(Record):
    """The variant that was measured; its hash is over its files."""

    name: str
    sha256: Sha256


class ProfileFacts(Record):
    """The profile that said how; its hash is of the JSON file in the package."""

    name: str
    sha256: Sha256


class MachineFacts(Record):
    """The machine, the device in it that ran the variant, and a short name for both that tells nothing of its owner."""

    id: Annotated[str, Field(pattern="^[0-9a-f]{12}$")]
    adapter: str
    facts: Machine


class EvidenceFile(Record):
    """What one machine measured of one variant of a package; `placement` counts nodes by onnxruntime's providers."""

    schema_version: str = SCHEMA_VERSION
    phiforge_version: str
    package: PackageFacts
    variant: VariantFacts
    profile: ProfileFacts
    machine: MachineFacts
    placement: dict[str, Annotated[int, Field(ge=0)]]
    records: Annotated[tuple[AnyEvidence, ...], Field(min_length=1)]


@dataclass(frozen=True, kw_only=True)
class EvidenceSource:
    """The records of one file of evidence, an evidence file or a single record, with where they are from.

    Attributes:
        place: The file's name in the package's folder of evidence, or the path it was brought from.
        profile: The one profile it counts for; None where it counts for each of its variant.
        records: What it holds.
        adapter: The device that ran the variant, where the file says so.
        placement: Nodes by onnxruntime's providers, where the file says so.
    """

    place: str | Path
    profile: str | None
    records: tuple[AnyEvidence, ...]
    adapter: str | None = None
    placement: Mapping[str, int] | None = None


def machine_id(machine: Machine, adapter: str) -> str:
    """Return 12 hex digits that tell one machine and device from others of another kind.

    They are a hash of the processor, the architectures, the memory in whole GiB (what the system keeps of it changes
    from start to start), the system and the device; of no host, user or serial number. Equal machines have equal ids.
    """
    facts = [
        machine.processor,
        machine.architecture,
        machine.process_architecture,
        lasting(machine).memory_bytes // _GIBIBYTE,
        machine.system,
        adapter,
    ]
    return content_key(facts)[:MACHINE_ID_DIGITS]


def lasting(machine: Machine) -> Machine:
    """Return a machine without what changes from start to start: its memory in whole GiB, and no power source."""
    gibibytes = (machine.memory_bytes + _GIBIBYTE // 2) // _GIBIBYTE
    return machine.model_copy(update={"memory_bytes": gibibytes * _GIBIBYTE, "power_source": None})


def file_name(file: EvidenceFile) -> str:
    """Return the name an evidence file is written under; letters that no system forbids in names."""
    parts = (file.package.name, file.profile.name, file.machine.id)
    return f"evidence-{'-'.join(_plain(part) for part in parts)}.json"


def dump_evidence_file(file: EvidenceFile) -> str:
    """Return the file's text: JSON with sorted keys, the digest, and a final newline."""
    content = file.model_dump(mode="json")
    return json.dumps({**content, "digest": content_key(content)}, indent=1, sort_keys=True) + "\n"


def is_evidence_file(text: str) -> bool:
    """Return whether a text is, or was once, an evidence file, and no single record."""
    try:
        content = json.loads(text)
    except (ValueError, RecursionError):
        return False
    return isinstance(content, dict) and ("records" in content or "digest" in content)


def load_evidence_file(path: Path) -> EvidenceFile:
    """Read one evidence file; errors as `parse_evidence_file` and `evidence_text`."""
    return parse_evidence_file(evidence_text(path), str(path))


def evidence_text(path: Path) -> str:
    """Return the text of a file of evidence of either sort.

    Raises:
        EvidenceInvalidError: It cannot be read.
    """
    try:
        if path.exists() and not path.is_file():
            raise invalid(str(path), "It is no file.")
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise invalid(str(path), f"It cannot be read: {error}.") from error


def parse_evidence_file(text: str, name: str) -> EvidenceFile:
    """Read an evidence file from its text; `name` is what an error calls it.

    Raises:
        EvidenceInvalidError: It is no JSON, of a newer phiforge, was changed after it was written, breaks the schema,
            contradicts itself, or holds what evidence may not say (`evidence_checks`).
    """
    content = _object(text, name)
    version = content.get("schema_version")
    if version != SCHEMA_VERSION:
        raise invalid(name, f"Its schema version is {version!r}, this phiforge reads {SCHEMA_VERSION!r}.", newer=True)
    digest = content.pop("digest", None)
    if digest != _digest(content, name):
        raise invalid(name, "It was changed after it was written: its digest is that of other content.")
    try:
        file = EvidenceFile.model_validate_json(json.dumps(content))
    except ValidationError as error:
        first = error.errors()[0]
        raise invalid(name, f"{'.'.join(map(str, first['loc']))}: {first['msg']}.") from error
    _check(file, name)
    return file


def _object(text: str, name: str) -> dict[str, Any]:
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise invalid(name, f"It is no JSON: {error}.") from error
    if not isinstance(content, dict):
        raise invalid(name, "It is no JSON object.")
    return content


def _digest(content: Mapping[str, Any], name: str) -> str:
    try:
        return content_key(content)
    except (ValueError, RecursionError) as error:  # half a surrogate pair, or nested without end
        raise invalid(name, f"It holds what no evidence holds: {error}.") from error


def _check(file: EvidenceFile, name: str) -> None:
    """Check what a digest made anew would hide."""
    own = machine_id(file.machine.facts, file.machine.adapter)
    if file.machine.id != own:
        raise invalid(name, f"The machine it describes is {own}, not {file.machine.id}.")
    for record in file.records:
        if record.variant_sha256 != file.variant.sha256:
            raise invalid(name, f"Its {record.evidence} evidence is of another variant than the file.")
        if lasting(record.conditions.machine) != lasting(file.machine.facts):
            raise invalid(name, f"Its {record.evidence} evidence is of another machine than the file.")
        check_record(record, name)


def _plain(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9._]", "-", name)[:80].strip(".")
