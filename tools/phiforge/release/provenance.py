"""How a release was made: an in-toto Statement v1 with the SLSA provenance v1 predicate.

It says what the one who releases says of himself, SLSA Build level 1; the signature over the folder says who that is.
Specifications: in-toto Attestation Framework, Statement v1; slsa.dev/spec/v1.0/provenance.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from phiforge import errors
from phiforge.release.layout import PROVENANCE

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from phiforge.release.layout import ReleaseRecord
    from phiforge.release.recipe import Recipe

STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
PREDICATE_TYPE = "https://slsa.dev/provenance/v1"


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
    return json.dumps(statement, indent=1, sort_keys=True) + "\n"


def check_provenance(folder: Path, package: str, sums: Mapping[str, str]) -> None:
    """Check that the provenance of a release names exactly the files of its package, as they are.

    Args:
        folder: A release folder.
        package: The package's folder in it.
        sums: SHA-256 of the package's files, its SHA256SUMS among them.

    Raises:
        PackageTamperedError: It cannot be read, or names other files.
    """
    try:
        statement = json.loads((folder / PROVENANCE).read_text(encoding="utf-8"))
        named = {item["name"]: item["digest"]["sha256"] for item in statement["subject"]}
        right = (statement["_type"], statement["predicateType"]) == (STATEMENT_TYPE, PREDICATE_TYPE)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise _other(f"It cannot be read: {error!r}.") from error
    if not right:
        raise _other("It is no in-toto statement with SLSA provenance.")
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
            {"name": checkpoint.name, "annotations": {"phiforge-fingerprint-sha256": checkpoint.fingerprint}},
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
        {"name": tool, "annotations": {"digest": version}}
        if tool == "phiforge-code"
        else {"name": tool, "uri": f"pkg:pypi/{tool}@{version}"}
        for tool, version in found
        if version != "absent"
    ]


def _other(why: str) -> errors.PackageTamperedError:
    return errors.PackageTamperedError(
        f"{PROVENANCE} is not of this release.",
        why=why,
        fix="Do not use this release; get it again from where it was published.",
    )
