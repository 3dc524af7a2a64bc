"""What is at a path: no release, or one of which model in which form."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from phiforge import errors
from phiforge.packaging.layout import SUFFIX
from phiforge.packaging.verify import read_sums
from phiforge.release.layout import RECORD, SIGNING

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

DiskForm = Literal["folder", "hf", "oci", "foundry"]

GIT_ATTRIBUTES = ".gitattributes"
INFERENCE_MODEL = "inference_model.json"
LAYOUT_FILE = "oci-layout"
# What seals a release and cannot list itself in SHA256SUMS.
SEALS = frozenset(SIGNING)


@dataclass(frozen=True, kw_only=True)
class ReleaseFacts:
    """What a release.json names: model, version, licence, the package's content hash, and whether it was signed.

    `evidence` are the hashes of the files of evidence beside the package, by name.
    """

    model: str
    version: str
    licence: str
    content_sha256: str
    signed: bool
    evidence: Mapping[str, str] = field(default_factory=dict)


def form_of(folder: Path) -> DiskForm | None:
    """Say in which form a folder holds a release, None where it holds none."""
    if (folder / LAYOUT_FILE).is_file():
        return "oci"
    if not (folder / RECORD).is_file():
        return None
    if any(folder.glob(f"*{SUFFIX}")):
        return "hf" if (folder / GIT_ATTRIBUTES).is_file() else "folder"
    return "foundry" if any(folder.glob(f"*/{INFERENCE_MODEL}")) else None


def parse_facts(content: bytes) -> ReleaseFacts | None:
    """Read the facts out of a release.json, None where it is none; what it does not say is empty."""
    try:
        found = json.loads(content)
    except ValueError:
        return None
    if not isinstance(found, dict) or not isinstance(found.get("name"), str):
        return None
    package, evidence = found.get("package"), found.get("evidence")
    return ReleaseFacts(
        model=found["name"],
        version=str(found.get("version", "")),
        licence=str(found.get("licence", "")),
        content_sha256=str(package.get("content_sha256", "")) if isinstance(package, dict) else "",
        signed=found.get("signature") in ("key", "keyless"),
        evidence=evidence if isinstance(evidence, dict) else {},
    )


def release_facts(folder: Path) -> ReleaseFacts | None:
    """Read the facts of the release in a folder, None where there is none."""
    try:
        return parse_facts((folder / RECORD).read_bytes())
    except OSError:
        return None


def package_folder(release: Path) -> Path:
    """Give the package inside a release folder.

    Raises:
        PreviousReleaseError: There is none, or more than one.
    """
    found = sorted(release.glob(f"*{SUFFIX}"))
    if len(found) == 1:
        return found[0]
    raise errors.PreviousReleaseError(
        f"{release} is no release folder.",
        why=f"It holds {len(found)} packages; a release has one.",
        fix="Give a folder that `phiforge release` wrote.",
    )


def sealed_files(folder: Path) -> dict[str, str]:
    """SHA-256 of a release's files by name as its SHA256SUMS has them; empty where that cannot be read."""
    try:
        return read_sums(folder)
    except (errors.PackageInvalidError, errors.UnsafePathError):
        return {}


def strangers(folder: Path) -> list[str]:
    """Names of files in a release's folder that the release did not bring, which replacing it would remove."""
    known = sealed_files(folder).keys() | SEALS
    names = (path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_symlink() or path.is_file())
    return sorted(name for name in names if name not in known)
