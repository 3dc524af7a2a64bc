"""Write a package: variants, plan, evidence, report and licence, hashed and sealed."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from phiforge.hashing import hash_files, hash_listing
from phiforge.packaging.layout import (
    BUILD_FOLDER,
    COMPONENT,
    COMPONENT_FOLDER,
    EVIDENCE_FOLDER,
    MANIFEST,
    REFERENCE_FOLDER,
    REPORT_FOLDER,
    SUMS,
    VARYING_FOLDERS,
    Component,
    Manifest,
    VariantEntry,
)
from phiforge.providers import PROVIDERS
from phiforge.store import copy_folder

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class PackagedVariant:
    """One variant to package: its folder, and the text files about it by relative path."""

    name: str
    folder: Path
    sha256: str
    provider: str
    device: str
    metadata: Mapping[str, Any]
    build: Mapping[str, str]
    evidence: Mapping[str, str]


@dataclass(frozen=True, kw_only=True)
class Contents:
    """Everything that goes into one package; `reports` makes the report's files, given the content hash."""

    name: str
    version: str
    description: str
    licences: Sequence[Path]
    variants: Sequence[PackagedVariant]
    reports: Callable[[str], Mapping[str, str]]
    metadata: Mapping[str, Any]
    reference: Mapping[str, bytes] = field(default_factory=dict)


def write_package(contents: Contents, folder: Path) -> str:
    """Fill the empty `folder` with the package and return its content hash.

    The content hash covers what the package is (variants, plan, reference, licence, manifests); evidence and reports,
    which differ from run to run because time does, are covered by the seal over all files, SHA256SUMS.

    Raises:
        ValueError: Two variants would be selected alike (same provider and device).
    """
    selected = [(variant.provider, variant.device) for variant in contents.variants]
    if len(set(selected)) != len(selected):
        raise ValueError(f"variants tie: {selected}")
    component = folder / COMPONENT_FOLDER
    component.mkdir(parents=True)
    for variant in contents.variants:
        _write_variant(variant, folder)
    entries = {variant.name: _entry(variant) for variant in contents.variants}
    _write_json(
        component / COMPONENT, Component(component_name="model", variants=entries).model_dump(exclude_none=True)
    )
    for name, data in contents.reference.items():
        (folder / REFERENCE_FOLDER).mkdir(exist_ok=True)
        (folder / REFERENCE_FOLDER / name).write_bytes(data)
    for licence in contents.licences:
        shutil.copyfile(licence, folder / licence.name)
    manifest = Manifest(
        schema_version="1.0",
        package_name=contents.name,
        package_version=contents.version,
        description=contents.description,
        components={"model": COMPONENT_FOLDER},
        additional_metadata=dict(contents.metadata),
    )
    _write_json(folder / MANIFEST, manifest.model_dump(exclude_none=True))
    hashes = hash_files(folder)
    content = content_hash(hashes)
    _write_texts(folder / REPORT_FOLDER, contents.reports(content))
    hashes |= {f"{REPORT_FOLDER}/{path}": digest for path, digest in hash_files(folder / REPORT_FOLDER).items()}
    lines = "".join(f"{digest}  {path}\n" for path, digest in sorted(hashes.items()))
    (folder / SUMS).write_text(lines, encoding="utf-8", newline="\n")
    return content


def content_hash(hashes: Mapping[str, str]) -> str:
    """The hash of what a package is: of all files but evidence, reports and the seal."""
    return hash_listing(
        {path: digest for path, digest in hashes.items() if path.split("/")[0] not in VARYING_FOLDERS and path != SUMS}
    )


def _write_variant(variant: PackagedVariant, folder: Path) -> None:
    copy_folder(variant.folder, folder / COMPONENT_FOLDER / variant.name)
    _write_texts(folder / BUILD_FOLDER / variant.name, variant.build)
    _write_texts(folder / EVIDENCE_FOLDER / variant.name, variant.evidence)


def _write_texts(folder: Path, texts: Mapping[str, str]) -> None:
    for name, text in texts.items():
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text, encoding="utf-8", newline="\n")


def _entry(variant: PackagedVariant) -> VariantEntry:
    return VariantEntry.model_validate(
        {
            "variant_directory": variant.name,
            "ep": PROVIDERS[variant.provider].execution_provider,
            "device": variant.device,
            "additional_metadata": {"sha256": variant.sha256, **variant.metadata},
        }
    )


def _write_json(path: Path, data: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(data, indent=1, sort_keys=True) + "\n", encoding="utf-8", newline="\n")
