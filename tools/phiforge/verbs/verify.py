"""Verify: find whatever is not as it was sealed, in a package or a release, and say whether the signature holds."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from phiforge import errors
from phiforge.evidence import load_evidence
from phiforge.hashing import hash_file, hash_listing
from phiforge.packaging.layout import (
    BUILD_FOLDER,
    COMPONENT_FOLDER,
    EVIDENCE_FOLDER,
    MANIFEST,
    SUMS,
    load_component,
    load_manifest,
)
from phiforge.packaging.verify import find_changes, read_sums, tampered, verify_package
from phiforge.packaging.write import content_hash
from phiforge.release.bill import check_bill
from phiforge.release.destinations import locate, open_release, reread
from phiforge.release.destinations.existing import LAYOUT_FILE
from phiforge.release.destinations.oci_reading import is_bare_layout
from phiforge.release.layout import EVIDENCE, SIGNATURE, SIGNING, load_release
from phiforge.release.provenance import check_provenance
from phiforge.release.signing import Trust, check_signature
from phiforge.release.sums import check_sums
from phiforge.variant import load_record
from phiforge.verbs.merging import read_brought

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from phiforge.release.layout import ReleaseRecord
    from phiforge.release.signing import State


@dataclass(frozen=True, kw_only=True)
class Verified:
    """A package or a release that is as it was sealed.

    `signature` is None for a package, which has none; `release` is the record of a release.
    """

    path: Path
    files: int
    seal_sha256: str
    signature: State | None = None
    release: ReleaseRecord | None = None


def verify(path: Path, *, trust: Trust | None = None) -> Verified:
    """Check a package or a release: hashes, what its parts say of each other, evidence, signature.

    If another release is published there meanwhile, it is read again, so that what is said is of one of the two.

    Args:
        path: A package, or a release on disk in any form.
        trust: Whose signature is expected. Without it, a signature is held against the files, and who signed is not
            checked.

    Raises:
        PackageInvalidError: It is neither a package nor a release.
        PackageTamperedError: Files were changed, removed or added, or parts are not of this release.
        EvidenceInvalidError: A piece of evidence is broken or of another variant.
        SignatureInvalidError: The signature is absent, broken or somebody else's.
        DependencyMissingError: The signature is to be checked and model-signing is not installed.
        OutputLockedError: It was replaced each time that it was read.
    """
    folder, _ = locate(path)
    return reread(folder, lambda: _verified(path, trust or Trust()))


def _verified(path: Path, trust: Trust) -> Verified:
    if (path / MANIFEST).is_file():
        return _verified_package(path, trust)
    with contextlib.ExitStack() as stack:
        try:
            folder = stack.enter_context(open_release(path))
        except errors.PreviousReleaseError as error:
            raise _neither(path, error) from error
        return check_release(folder, trust, path)


def check_release(folder: Path, trust: Trust, path: Path) -> Verified:
    """Check a release folder that was opened from `path`; as `verify`."""
    signature = check_signature(folder, trust)
    sums = check_sums(folder)
    record = load_release(folder)
    if (record.signature == "none") != (signature == "none"):
        raise errors.SignatureInvalidError(
            f"{folder.name} has {'no ' if signature == 'none' else 'a '}{SIGNATURE}, and its record says otherwise.",
            why=f"release.json says that it was signed: {record.signature}.",
            fix="Do not use this release; get it again from where it was published.",
        )
    package = folder / record.package.folder
    if package.is_dir() or not list(folder.glob("*/inference_model.json")):
        _check_package(folder, package, record, sums)
    return Verified(
        path=path, files=len(sums), seal_sha256=hash_file(folder / SUMS), signature=signature, release=record
    )


def _verified_package(package: Path, trust: Trust) -> Verified:
    found = verify_package(package)
    _check_evidence(package, read_sums(package))
    if trust != Trust():
        raise unsigned_package(package)
    return Verified(path=package, files=found.files, seal_sha256=found.seal_sha256)


def _neither(path: Path, error: errors.PreviousReleaseError) -> errors.PhiforgeError:
    """The error for what looks like no release: one that lost its record, or something else."""
    if (path / SUMS).is_file():
        sums, faults = find_changes(path, besides=SIGNING)
        if faults:
            return tampered(path, faults, len(sums))
    if is_bare_layout(path):
        return tampered(path, [f"missing: {LAYOUT_FILE}"], 1)
    return errors.PackageInvalidError(
        f"{path} is neither a package nor a release.",
        why=error.why,
        fix="Give a folder that ends in .ortpackage, or what `phiforge release` published.",
    )


def unsigned_package(package: Path) -> errors.SignatureInvalidError:
    """The error for a package of which a signature is expected."""
    return errors.SignatureInvalidError(
        f"{package.name} is a package, and packages are not signed.",
        why="A signature is over a whole release, the package in it included.",
        fix="Give the folder of the release, or leave out whose signature is expected.",
    )


def _check_package(folder: Path, package: Path, record: ReleaseRecord, sums: Mapping[str, str]) -> None:
    """Check the package in a release, whose files' digests are known, against itself and against what is said of it."""
    prefix = f"{package.name}/"
    own = {path.removeprefix(prefix): digest for path, digest in sums.items() if path.startswith(prefix)}
    sealed = read_sums(package)
    present = {path: digest for path, digest in own.items() if path != SUMS}
    faults = [
        f"changed: {prefix}{path}"
        for path in sorted(sealed.keys() | present.keys())
        if sealed.get(path) != present.get(path)
    ]
    if faults:
        raise tampered(package, faults, len(sealed))
    manifest, variants = load_manifest(package), _variants(package, sealed)
    said = (record.name, record.package.seal_sha256, record.package.content_sha256, dict(record.variants))
    if said != (manifest.package_name, own[SUMS], content_hash(sealed), variants):
        raise tampered(folder, ["release.json is of another package"], len(sums))
    _check_evidence(package, sealed)
    _check_brought(folder, package, record, sums)
    check_bill(folder, package.name, own)
    check_provenance(folder, package.name, own)


def _variants(package: Path, sums: Mapping[str, str]) -> dict[str, str]:
    """The hash of each variant's files, which must be the recorded one.

    Raises:
        PackageTamperedError: It is not.
    """
    found = {}
    for name, entry in load_component(package).variants.items():
        prefix = f"{COMPONENT_FOLDER}/{entry.variant_directory}/"
        files = {path.removeprefix(prefix): digest for path, digest in sums.items() if path.startswith(prefix)}
        found[name] = hash_listing(files)
        if load_record(package / BUILD_FOLDER / name).sha256 != found[name]:
            raise tampered(package, [f"{BUILD_FOLDER}/{name}/variant.json is of another variant"], len(sums))
    return found


def _check_evidence(package: Path, sums: Mapping[str, str]) -> None:
    """Check that each piece of evidence in a package is of its variant."""
    variants = _variants(package, sums)
    for path in sorted(path for path in sums if path.startswith(f"{EVIDENCE_FOLDER}/")):
        name = path.split("/")[1]
        record = load_evidence(package / path)
        if record.variant_sha256 != variants.get(name):
            raise errors.EvidenceInvalidError(
                f"The evidence file {path} of {package.name} belongs to another variant.",
                why=f"It was taken on {record.variant_sha256[:12]}; {name} is {variants.get(name, 'not there')[:12]}.",
                fix="Do not use this; get it again from where it was published.",
            )


def _check_brought(folder: Path, package: Path, record: ReleaseRecord, sums: Mapping[str, str]) -> None:
    """Check the evidence beside the package: it is what the release says, and of this package."""
    prefix = f"{EVIDENCE}/"
    present = {path.removeprefix(prefix): digest for path, digest in sums.items() if path.startswith(prefix)}
    if present != record.evidence:
        other = sorted(
            path for path in present.keys() | record.evidence if present.get(path) != record.evidence.get(path)
        )
        raise tampered(folder, [f"not the released one: {prefix}{path}" for path in other], len(sums))
    read_brought(package, record.variants, [folder / EVIDENCE / name for name in sorted(present)])
