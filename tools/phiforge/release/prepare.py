"""Write a release folder, whole and sealed, before it goes anywhere."""

from __future__ import annotations

import contextlib
import json
import shutil
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from phiforge import errors
from phiforge.hashing import hash_file
from phiforge.packaging.layout import SUMS
from phiforge.packaging.verify import read_sums, verify_package
from phiforge.release.bill import bill_of_materials
from phiforge.release.card import model_card
from phiforge.release.changes import changes_markdown
from phiforge.release.layout import BILL, CARD, CHANGES, CHANGES_TEXT, EVIDENCE, PROVENANCE, RECORD
from phiforge.release.provenance import provenance
from phiforge.release.signing import sign
from phiforge.release.sums import write_sums
from phiforge.store import Store, copy_folder, disk_full_guard

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from pydantic import BaseModel

    from phiforge.evidence import AnyEvidence
    from phiforge.release.card import CardInput
    from phiforge.release.changes import Changes
    from phiforge.release.destinations import Destination
    from phiforge.release.signing import Signer


WORK_SUFFIX = ".release"


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """Everything that goes into one release.

    Attributes:
        package: The package, as it was sealed.
        card: The release's record and what else its card is made of.
        changes: The difference to the previous release.
        evidence: All records that count, by profile.
        runtimes: What runs each profile, as "onnxruntime-genai 0.18.0".
        files: Files for evidence/, by name.
    """

    package: Path
    card: CardInput
    changes: Changes
    evidence: Mapping[str, Sequence[AnyEvidence]]
    runtimes: Mapping[str, str]
    files: Mapping[str, bytes] = field(default_factory=dict)


@contextlib.contextmanager
def preparing_folder(destinations: Sequence[Destination], *, dry_run: bool) -> Iterator[Path]:
    """A folder to make the release in: beside the first destination on this disk, which has room for it.

    What a killed run left there goes.

    Args:
        destinations: Where the release will go.
        dry_run: Whether it goes nowhere; then the folder is a temporary one.

    Raises:
        OutputLockedError: Another run makes its release there.
    """
    paths = [item.path.resolve() for item in destinations if item.path is not None]
    if dry_run or not paths:
        with tempfile.TemporaryDirectory(prefix="phiforge-release-") as name:
            yield Path(name) / "release"
        return
    folder = paths[0].with_name(f".{paths[0].name}{WORK_SUFFIX}")
    with Store(folder).lock():
        try:
            yield folder / "release"
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def prepare(
    candidate: Candidate, folder: Path, signer: Signer, write_report: Callable[[Path, Sequence[Path]], None]
) -> None:
    """Fill a folder with the release; what is in it goes first.

    Args:
        candidate: What is released.
        folder: Where; on the way to its destinations.
        signer: Who signs.
        write_report: Given the package in the folder and the files of evidence beside it, writes the report.

    Raises:
        PackageTamperedError: The package was changed meanwhile.
        DiskFullError: The disk filled up.
    """
    shutil.rmtree(folder, ignore_errors=True)
    with disk_full_guard(folder.parent):
        (folder / EVIDENCE).mkdir(parents=True)
        record = candidate.card.record
        package = folder / record.package.folder
        copy_folder(candidate.package, package)
        if verify_package(package).seal_sha256 != record.package.seal_sha256:
            raise _changed(candidate.package)
        files = [folder / EVIDENCE / name for name in sorted(candidate.files)]
        for path in files:
            path.write_bytes(candidate.files[path.name])
        write_report(package, files)
        _write_texts(candidate, folder, package)
        seal(folder, signer)


def seal(folder: Path, signer: Signer) -> None:
    """Write SHA256SUMS of a release folder, and its signature."""
    write_sums(folder)
    sign(folder, signer)


def sums_of(package: Path) -> dict[str, str]:
    """Return SHA-256 of every file of a package as its seal has them, that of the seal itself included."""
    return read_sums(package) | {SUMS: hash_file(package / SUMS)}


def _write_texts(candidate: Candidate, folder: Path, package: Path) -> None:
    card, sums = candidate.card, sums_of(package)
    texts = {
        CARD: model_card(card),
        RECORD: _json(card.record),
        CHANGES: _json(candidate.changes),
        CHANGES_TEXT: changes_markdown(candidate.changes),
        BILL: bill_of_materials(card, sums, candidate.evidence, candidate.runtimes),
        PROVENANCE: provenance(card.record, card.recipes, sums),
    }
    for name, text in texts.items():
        (folder / name).write_text(text, encoding="utf-8", newline="\n")


def _json(record: BaseModel) -> str:
    return json.dumps(record.model_dump(mode="json"), indent=1, sort_keys=True) + "\n"


def _changed(package: Path) -> errors.PackageTamperedError:
    return errors.PackageTamperedError(
        f"{package.name} was changed while it was released.",
        why="Its seal is another than when it was checked.",
        fix="Run the same command again when nothing else writes to it.",
    )
