"""Report: judge packages' evidence again and write one report, with evidence from elsewhere if there is any."""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

from phiforge import errors
from phiforge.evidence import parse_evidence
from phiforge.evidence_file import is_evidence_file, parse_evidence_file
from phiforge.hashing import hash_bytes, hash_file
from phiforge.packaging.layout import EVIDENCE_FOLDER
from phiforge.packaging.verify import read_sums, verify_package
from phiforge.packaging.write import content_hash
from phiforge.release.destinations import held
from phiforge.reporting import Entry, Fleet, ReportFiles, Source, make_fleet, write_report
from phiforge.verbs.judging import phiforge_version
from phiforge.verbs.merging import check_names
from phiforge.verbs.no_release import refuse_release
from phiforge.verbs.output import prepare_output
from phiforge.verbs.package import PackageInput, read_package, with_brought

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True, kw_only=True)
class WrittenReport:
    """A report and where it was written."""

    fleet: Fleet
    files: ReportFiles


@dataclass(frozen=True, kw_only=True)
class _Package:
    """A package, what it was made of, its content hash, and the evidence that was brought for it."""

    folder: Path
    content: str
    inputs: list[PackageInput]
    brought: list[Path]


def report(
    packages: Sequence[Path], *, output: Path, evidence: Sequence[Path] = (), travels: bool = False
) -> WrittenReport:
    """Write one report over packages: every variant on every device profile it is packaged for.

    Args:
        packages: Packages, each of which must be as it was sealed. One that is named twice counts once.
        output: Folder for the report's files.
        evidence: What was measured elsewhere, of any of the packages. It counts beside a package's own evidence: files
            of `phiforge measure` for the profile they name, of single records those of time for the profile that the
            file's name tells.
        travels: Whether the report goes with its packages to others, and so does not say where they are here.

    Raises:
        PackageInvalidError: A package is a release, or no package.
        PackageTamperedError: A package is not as it was sealed.
        EvidenceInvalidError: A file of the evidence is broken or was changed, is of no variant or profile of these
            packages, was not measured as its profile says, or contradicts another one.
        OutputUnwritableError: The output folder cannot be written.
        OutputLockedError: A package was replaced while it was read.
    """
    for folder in packages:
        if folder.resolve() in (output.resolve(), *output.resolve().parents):
            raise errors.OutputUnwritableError(
                f"The report cannot be written to {output}.",
                why=f"It is inside of {folder}, which is sealed and has a report over itself already.",
                fix="Choose another folder with --output.",
            )
    check_names(evidence)
    with contextlib.ExitStack() as reading:
        for folder in packages:
            reading.enter_context(held(folder))
        opened = [_open(folder) for folder in {folder.resolve(): folder for folder in packages}.values()]
        for path in evidence:
            _owner(opened, path).brought.append(path)
        entries = [
            entry if travels else entry.model_copy(update={"path": str(package.folder)})
            for package in opened
            for entry in _entries(package, output)
        ]
    fleet = make_fleet(entries, phiforge_version())
    prepare_output(output)
    return WrittenReport(fleet=fleet, files=write_report(fleet, output))


def _open(folder: Path) -> _Package:
    refuse_release(folder)
    verify_package(folder)
    content = content_hash(read_sums(folder))
    return _Package(folder=folder, content=content, inputs=read_package(folder), brought=[])


def _owner(opened: Sequence[_Package], path: Path) -> _Package:
    """The package that a file of evidence is of; of one package alone all are, and what is not is refused later."""
    if len(opened) == 1:
        return opened[0]
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return opened[0]  # refused there, with the reason
    if is_evidence_file(text):
        content = parse_evidence_file(text, str(path)).package.content_sha256
        found = [package for package in opened if package.content == content]
    else:
        variant = parse_evidence(text, str(path)).variant_sha256
        found = [package for package in opened if any(item.subject.sha256 == variant for item in package.inputs)]
    if not found:
        raise errors.EvidenceInvalidError(
            f"The evidence file {path} is of none of these packages.",
            why=f"They are {', '.join(f'{package.folder.name} ({package.content[:12]})' for package in opened)}.",
            fix="Name the package that was measured, or leave the file out.",
        )
    return found[0]


def _entries(package: _Package, output: Path) -> list[Entry]:
    entries: list[Entry] = []
    for item in with_brought(package.folder, package.inputs, package.brought):
        sources = _Sources(package=package.folder, item=item, output=output)
        entries += item.entries(package.folder.name, package.content, sources.of)
    return entries


@dataclass(frozen=True, kw_only=True)
class _Sources:
    """Says of a file that holds evidence of one variant what a report tells of it."""

    package: Path
    item: PackageInput
    output: Path

    def of(self, place: str | Path) -> Source:
        """What is told of a file: by its name in the package's folder of evidence, or its path."""
        if isinstance(place, Path):
            return Source(file=place.name, sha256=hash_file(place), href=_address(place, self.output))
        file = f"{EVIDENCE_FOLDER}/{self.item.subject.name}/{place}"
        digest = hash_bytes(self.item.evidence[place].encode("utf-8"))
        return Source(file=file, sha256=digest, href=_address(self.package / file, self.output))


def _address(path: Path, output: Path) -> str | None:
    """How a page in `output` leads to a file; None where no relative path does, as to another drive of Windows."""
    try:
        relative = os.path.relpath(path, output)
    except ValueError:
        return None
    return quote(Path(relative).as_posix())
