"""Names and records of a release: one folder that holds a package and all that is said of it.

    README.md                 the model card, made from measurements
    release.json              what was released, why it was allowed to be, and what it was held against
    CHANGES.md changes.json   what changed since the previous release
    report.*                  the report over all evidence
    evidence/                 what was brought from devices, and the comparisons with the previous release
    <model>.ortpackage/       the package, as it was sealed
    sbom.cdx.json             a CycloneDX ML-BOM
    provenance.intoto.json    an in-toto statement with SLSA provenance
    SHA256SUMS                every other file but the signature
    signature.json            the signature over all other files, by model-signing

The comparisons are of time on one machine. Nothing here holds a moment of its making: the same inputs give the same
files, but for the signature.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from phiforge import errors
from phiforge.evidence import Kind
from phiforge.gate import Finding, Outcome
from phiforge.packaging.layout import SUFFIX, SUMS, check_inside
from phiforge.quantities import Unit

if TYPE_CHECKING:
    from pathlib import Path

CARD = "README.md"
RECORD = "release.json"
CHANGES_TEXT = "CHANGES.md"
CHANGES = "changes.json"
EVIDENCE = "evidence"
BILL = "sbom.cdx.json"
PROVENANCE = "provenance.intoto.json"
SIGNATURE = "signature.json"
SIGNING = (SUMS, SIGNATURE)
COMPARISON_PREFIX = "comparison-"

_VERSION = re.compile(r"[0-9A-Za-z][0-9A-Za-z.+_-]{0,63}")
Sha256 = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]


class Entry(BaseModel):
    """Base of a release's records: frozen, unknown keys forbidden."""

    model_config = ConfigDict(extra="forbid", frozen=True, ser_json_inf_nan="constants")


class PackageFacts(Entry):
    """The package in the release: its folder, the hash of what it is, and the hash of its SHA256SUMS."""

    folder: str
    content_sha256: Sha256
    seal_sha256: Sha256

    @field_validator("folder")
    @classmethod
    def _inside(cls, value: str) -> str:
        if "/" in check_inside(value) or not value.endswith(SUFFIX):
            raise ValueError(f"{value!r} is no package's folder")
        return value


class Number(Entry):
    """One number of a variant on a profile, and how it was come by; no kind where it is a fact of the files.

    `low` and `high` are the ends of its 90 % interval where it has one; `where` says at which prompt length.
    """

    metric: str
    title: str
    unit: Unit
    kind: Kind | None
    where: str = ""
    value: float
    low: float | None = None
    high: float | None = None


class ProfileStanding(Entry):
    """One device of a release: the verdict, and what was checked besides the budgets."""

    variant: str
    title: str
    required: bool
    outcome: Outcome
    numbers: tuple[Number, ...]
    checks: tuple[Finding, ...]


class Waiver(Entry):
    """A reason why checks may be unpassed; `checks` are those it let through, `check` the one it was given for."""

    profile: str
    check: str | None
    reason: str
    checks: tuple[str, ...]


class Previous(Entry):
    """What a release was held against."""

    name: str
    version: str
    content_sha256: Sha256
    seal_sha256: Sha256
    signature: Literal["verified", "not checked", "none"]


class ReleaseRecord(Entry):
    """release.json."""

    schema_version: Literal["1.0"] = "1.0"
    phiforge_version: str
    name: str
    version: str
    licence: str
    package: PackageFacts
    variants: dict[str, Sha256]
    profiles: dict[str, ProfileStanding]
    waivers: tuple[Waiver, ...]
    evidence: dict[str, Sha256]
    previous: Previous | None
    toolchain: dict[str, dict[str, str]]
    signature: Literal["key", "keyless", "none"]


def check_version(version: str) -> str:
    """Return a release's version if it can stand in names and tags.

    Raises:
        DestinationError: It cannot.
    """
    if _VERSION.fullmatch(version):
        return version
    raise errors.DestinationError(
        f"{version!r} cannot be the version of a release.",
        why="A version has letters, digits and . + _ - alone, begins with a letter or digit, and is at most 64 long.",
        fix="Give another one with --version, as 1.2.0.",
    )


def load_release(folder: Path) -> ReleaseRecord:
    """Read release.json of a release folder.

    Raises:
        PackageInvalidError: It is absent or cannot be read.
        UnsafePathError: A path in it leaves the folder.
    """
    try:
        return ReleaseRecord.model_validate_json((folder / RECORD).read_bytes())
    except OSError as error:
        raise _unreadable(folder, f"{RECORD} cannot be read: {error.strerror}.") from error
    except ValidationError as error:
        first = error.errors()[0]
        raise _unreadable(folder, f"{RECORD}: {'.'.join(map(str, first['loc']))}: {first['msg']}.") from error


def _unreadable(folder: Path, why: str) -> errors.PackageInvalidError:
    return errors.PackageInvalidError(
        f"{folder} is no release.",
        why=why,
        fix="Give the folder that `phiforge release` wrote, or get it again from where it was published.",
    )
