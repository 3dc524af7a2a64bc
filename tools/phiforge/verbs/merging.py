"""Merge what other machines measured of a package with the evidence it carries."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from phiforge import errors
from phiforge.contradictions import contradiction
from phiforge.evidence import Agreement, Kind, parse_evidence
from phiforge.evidence_file import PackageFacts, is_evidence_file, parse_evidence_file
from phiforge.hashing import hash_file
from phiforge.packaging.layout import load_manifest
from phiforge.packaging.verify import read_sums
from phiforge.packaging.write import content_hash
from phiforge.verbs.judging import is_foreign
from phiforge.verbs.packaged import profile_files

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from phiforge.evidence import AnyEvidence
    from phiforge.evidence_file import EvidenceFile
    from phiforge.target import Profile


@dataclass(frozen=True, kw_only=True)
class Brought:
    """What was brought to a package.

    Attributes:
        files: Evidence files of this very package, each once.
        records: Single records as JSON text, by the variant's hash and the file's name.
    """

    files: tuple[EvidenceFile, ...]
    records: Mapping[str, Mapping[str, str]]


def read_brought(package: Path, variants: Mapping[str, str], paths: Sequence[Path]) -> Brought:
    """Read evidence from elsewhere, and refuse what is of anything else than this package.

    Args:
        package: The package, as it was sealed.
        variants: Its variants: name to hash.
        paths: Evidence files and single records. One that is given twice counts once.

    Raises:
        EvidenceInvalidError: A file cannot be read or was changed, or is of another package, variant or profile, two
            files of one machine contradict each other, or two single records of one variant have one name.
    """
    if not paths:
        return Brought(files=(), records={})
    facts = PackageFacts(name=load_manifest(package).package_name, content_sha256=content_hash(read_sums(package)))
    files: dict[str, tuple[Path, EvidenceFile]] = {}
    records: dict[str, dict[str, str]] = {}
    for path in paths:
        text = _text(path)
        if is_evidence_file(text):
            file = parse_evidence_file(text, str(path))
            _check(file, path, package, facts, variants)
            for earlier, other in files.values():
                _check_agree(path, file, earlier, other)
            files.setdefault(file.model_dump_json(), (path, file))
        else:
            record = parse_evidence(text, str(path))
            if record.variant_sha256 not in variants.values():
                raise _foreign(path, "variant", record.variant_sha256, ", ".join(variants.values()))
            known = records.setdefault(record.variant_sha256, {})
            if known.setdefault(path.name, text) != text:
                raise _same_name(path)
    return Brought(files=tuple(file for _, file in files.values()), records=records)


def merge(own: Sequence[AnyEvidence], brought: Sequence[AnyEvidence], profile: Profile) -> list[AnyEvidence]:
    """Return all evidence of one variant for one profile, what was brought first.

    What the device measured takes the place of what another machine had measured of the same sort: the build machine's
    drift and speed say less of the device than its own. Surrogate and emulated evidence stays beside it, since kinds
    are never mixed, and says what the device was expected to show. Of several devices all count, and the gate takes the
    worst. What was measured in a process of another architecture than the profile's takes no place.
    """
    measured = {_sort(record) for record in brought if record.kind is Kind.MEASURED and not is_foreign(record, profile)}
    kept = [record for record in own if record.kind is not Kind.MEASURED or _sort(record) not in measured]
    return [*brought, *kept]


def _sort(record: AnyEvidence) -> str:
    return f"{record.evidence} {record.comparison}" if isinstance(record, Agreement) else record.evidence


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise errors.EvidenceInvalidError(
            f"The evidence file {path} cannot be used.",
            why=f"It cannot be read: {error}.",
            fix="Give the file that `phiforge measure` printed, or copy it again.",
        ) from error


def _check(file: EvidenceFile, path: Path, package: Path, facts: PackageFacts, variants: Mapping[str, str]) -> None:
    if file.package.content_sha256 != facts.content_sha256:
        raise _foreign(path, "package", file.package.content_sha256, facts.content_sha256)
    if file.package.name != facts.name:
        raise _foreign(path, "package", repr(file.package.name), repr(facts.name))
    name = file.variant.name
    if variants.get(name) != file.variant.sha256:
        raise _foreign(path, f"variant than {name}", file.variant.sha256, variants.get(name, "not in the package"))
    profiles = profile_files(package, name)
    own = hash_file(profiles[file.profile.name]) if file.profile.name in profiles else "not in the package"
    if file.profile.sha256 != own:
        raise _foreign(path, f"profile than {file.profile.name}", file.profile.sha256, own)


def _check_agree(path: Path, file: EvidenceFile, earlier: Path, other: EvidenceFile) -> None:
    why = contradiction(file, other)
    if why is None:
        return
    raise errors.EvidenceInvalidError(
        f"The evidence files {earlier} and {path} contradict each other.",
        why=f"They are of one package on one machine with the same tools, but {why}.",
        fix="Find out which is true and give that one alone, or measure once more.",
    )


def _same_name(path: Path) -> errors.EvidenceInvalidError:
    return errors.EvidenceInvalidError(
        f"The evidence file {path} has the name of another one.",
        why=f"Two files {path.name} with different content were given for one variant, and only one would count.",
        fix="Rename one of them, or give only the one that is to count.",
    )


def _foreign(path: Path, what: str, theirs: str, ours: str) -> errors.EvidenceInvalidError:
    return errors.EvidenceInvalidError(
        f"The evidence file {path} is of another {what}.",
        why=f"It was measured on {theirs[:12]}; here it is {ours if ' ' in ours else ours[:12]}.",
        fix="Measure this package on the device with `phiforge measure`.",
    )
