"""How a release was made: an in-toto Statement v1 with the SLSA provenance v1 predicate.

It says what the one who releases says of himself, SLSA Build level 1; the signature over the folder says who that is.
Specifications: in-toto Attestation Framework, Statement v1, ResourceDescriptor and DigestSet;
slsa.dev/spec/v1.0/provenance. Two of its digests are of no predefined algorithm, as DigestSet allows; both in lowercase
hex:

    phiforgeCheckpointHash  SHA-256 of the lines `SHA-256  name`, sorted by name, of the files that a build reads; it is
                            the `dirHash` of a folder with no other files
    phiforgeCodeHash        first 16 digits of the SHA-256 of the modules of phiforge that shape a variant
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeAlias
from urllib.parse import quote

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from phiforge import errors
from phiforge.release.layout import PROVENANCE, Sha256
from phiforge.release.recipe import ABSENT, CODE_DIGEST

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from phiforge.release.layout import ReleaseRecord
    from phiforge.release.recipe import Recipe

StatementType: TypeAlias = Literal["https://in-toto.io/Statement/v1"]
PredicateType: TypeAlias = Literal["https://slsa.dev/provenance/v1"]
STATEMENT_TYPE: StatementType = "https://in-toto.io/Statement/v1"
PREDICATE_TYPE: PredicateType = "https://slsa.dev/provenance/v1"
CHECKPOINT_HASH, CODE_HASH = "phiforgeCheckpointHash", "phiforgeCodeHash"

_Uri = Annotated[str, Field(pattern=r"^[a-zA-Z][a-zA-Z0-9+.-]*:\S+$")]
_Hex = Annotated[str, Field(pattern="^([0-9a-f]{2})+$")]


class _Entry(BaseModel):
    """Base of the statement's objects: frozen, unknown keys forbidden."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class _Sha256Digest(_Entry):
    sha256: Sha256


class _File(_Entry):
    """A subject: a file of the package."""

    name: str
    digest: _Sha256Digest


class _Resource(_Entry):
    """A ResourceDescriptor as it is used here: it must have a URI or a digest."""

    name: str
    uri: _Uri | None = None
    digest: Annotated[dict[str, _Hex], Field(min_length=1)] | None = None

    @model_validator(mode="after")
    def _is_named(self) -> _Resource:
        if self.uri is None and self.digest is None:
            raise ValueError(f"{self.name} has neither uri nor digest")
        return self


class _BuildDefinition(_Entry):
    buildType: _Uri  # noqa: N815 - the specification's key
    externalParameters: Annotated[dict[str, Any], Field(min_length=1)]  # noqa: N815
    internalParameters: dict[str, Any]  # noqa: N815
    resolvedDependencies: tuple[_Resource, ...]  # noqa: N815


class _Builder(_Entry):
    id: _Uri
    version: dict[str, str]


class _Metadata(_Entry):
    invocationId: str  # noqa: N815


class _RunDetails(_Entry):
    builder: _Builder
    metadata: _Metadata


class _Predicate(_Entry):
    buildDefinition: _BuildDefinition  # noqa: N815
    runDetails: _RunDetails  # noqa: N815


class _Statement(_Entry):
    """An in-toto Statement with SLSA provenance, with what both specifications require."""

    type: Annotated[StatementType, Field(alias="_type")]
    subject: Annotated[tuple[_File, ...], Field(min_length=1)]
    predicateType: PredicateType  # noqa: N815
    predicate: _Predicate

    @model_validator(mode="after")
    def _names_files_once(self) -> _Statement:
        if len({item.name for item in self.subject}) < len(self.subject):
            raise ValueError("a file is named twice")
        return self


def provenance(record: ReleaseRecord, recipes: Mapping[str, Recipe], sums: Mapping[str, str]) -> str:
    """Return provenance.intoto.json: every file of the package, and what the package was made of.

    Args:
        record: The release.
        recipes: What each variant was made of.
        sums: SHA-256 of the package's files, its SHA256SUMS among them.
    """
    subjects = [
        {"name": f"{record.package.folder}/{path}", "digest": {"sha256": digest}}
        for path, digest in sorted(sums.items())
    ]
    statement = {
        "_type": STATEMENT_TYPE,
        "subject": subjects,
        "predicateType": PREDICATE_TYPE,
        "predicate": {
            "buildDefinition": _definition(record, recipes),
            "runDetails": {
                "builder": {
                    "id": f"pkg:pypi/phiforge@{record.phiforge_version}",
                    "version": {"phiforge": record.phiforge_version},
                },
                "metadata": {"invocationId": record.package.content_sha256},
            },
        },
    }
    _Statement.model_validate_json(json.dumps(statement))
    return json.dumps(statement, indent=1, sort_keys=True) + "\n"


def check_provenance(folder: Path, package: str, sums: Mapping[str, str]) -> None:
    """Check that the provenance of a release is one, and names exactly the files of its package, as they are.

    Args:
        folder: A release folder.
        package: The package's folder in it.
        sums: SHA-256 of the package's files, its SHA256SUMS among them.

    Raises:
        PackageTamperedError: It cannot be read, or names other files.
    """
    try:
        statement = _Statement.model_validate_json((folder / PROVENANCE).read_bytes())
    except OSError as error:
        raise _other(f"It cannot be read: {error.strerror}.") from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise _other(f"It is no in-toto statement with SLSA provenance: {where}: {first['msg']}.") from error
    named = {item.name: item.digest.sha256 for item in statement.subject}
    own = {f"{package}/{path}": digest for path, digest in sums.items()}
    if named != own:
        other = sorted(name for name in named.keys() | own.keys() if named.get(name) != own.get(name))
        raise _other(f"It is of other files: {', '.join(other[:8])}.")


def _definition(record: ReleaseRecord, recipes: Mapping[str, Recipe]) -> dict[str, Any]:
    checkpoint = next(iter(recipes.values())).record.checkpoint
    return {
        "buildType": f"pkg:pypi/phiforge@{record.phiforge_version}#docs/release.md",
        "externalParameters": {
            "checkpoint": checkpoint.model_dump(mode="json"),
            "profiles": {name: item.variant for name, item in record.profiles.items()},
            "pipelines": {name: dict(recipe.workflow["passes"]) for name, recipe in recipes.items()},
        },
        "internalParameters": {"keys": {name: recipe.record.key for name, recipe in recipes.items()}},
        "resolvedDependencies": [
            {"name": checkpoint.name, "digest": {CHECKPOINT_HASH: checkpoint.fingerprint}},
            *_calibration(recipes),
            *_tools(recipes),
        ],
    }


def _calibration(recipes: Mapping[str, Recipe]) -> list[dict[str, Any]]:
    found = {
        options["calibration_sha256"]: str(options.get("calibration"))
        for recipe in recipes.values()
        for options in recipe.workflow["passes"].values()
        if options.get("calibration_sha256")
    }
    return [{"name": name, "digest": {"sha256": digest}} for digest, name in sorted(found.items())]


def _tools(recipes: Mapping[str, Recipe]) -> list[dict[str, Any]]:
    """The tools as packages of PyPI; phiforge's own code by its digest."""
    found = sorted({item for recipe in recipes.values() for item in recipe.record.toolchain.items()})
    return [
        {"name": tool, "digest": {CODE_HASH: version}}
        if tool == CODE_DIGEST
        else {"name": tool, "uri": f"pkg:pypi/{quote(tool, safe='')}@{quote(version, safe='')}"}
        for tool, version in found
        if version != ABSENT
    ]


def _other(why: str) -> errors.PackageTamperedError:
    return errors.PackageTamperedError(
        f"{PROVENANCE} is not of this release.",
        why=why,
        fix="Do not use this release; get it again from where it was published.",
    )
