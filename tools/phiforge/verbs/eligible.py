"""Which candidates of a tuning may be chosen: those whose accuracy is known and within the profile's budgets."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from phiforge import errors
from phiforge.evidence import Drift, Latency, load_evidence
from phiforge.gate import RULES, Outcome, judge
from phiforge.packaging.layout import EVIDENCE_FOLDER
from phiforge.tuning import Candidate
from phiforge.verbs.subject import find_subjects

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from phiforge.evidence import AnyEvidence
    from phiforge.gate import Finding
    from phiforge.target import Budgets, Profile
    from phiforge.verbs.subject import Subject


@dataclass(frozen=True)
class Examined:
    """A candidate, and the folder the runtime loads; None where its files cannot be used."""

    candidate: Candidate
    folder: Path | None


@dataclass(frozen=True)
class _Found:
    path: Path
    subject: Subject | None
    error: str = ""


def examine_candidates(paths: Sequence[Path], profile: Profile, evidence: Sequence[Path]) -> tuple[Examined, ...]:
    """Return every variant at the paths, with whether it may be chosen and why not; names are made unique.

    Args:
        paths: Packages, built variants or model folders. One that cannot be read is a candidate that is not eligible.
        profile: Whose budgets count: drift, answers and size. Time and memory are what a tuning measures itself.
        evidence: Folders or files searched for evidence of these variants, besides what packages carry.
    """
    found = list({_identity(item): item for path in paths for item in _subjects(path)}.values())
    known = [item for root in (*paths, *evidence) for item in _evidence_at(root)]
    counts = Counter(item.subject.name for item in found if item.subject)
    return tuple(_examined(item, profile, known, unique=counts[_name(item)] == 1) for item in found)


def accuracy_budgets(budgets: Budgets) -> Budgets:
    """The budgets without those on time and memory."""
    dropped = {name: None for name, rule in RULES.items() if rule.needs == "latency"}
    return budgets.model_copy(update=dropped)


def _subjects(path: Path) -> Iterator[_Found]:
    try:
        for subject in find_subjects(path):
            yield _Found(path, subject)
    except errors.PhiforgeError as error:
        yield _Found(path, None, str(error))


def _evidence_at(root: Path) -> Iterator[AnyEvidence]:
    """All evidence in a file, a folder or a package; other JSON files are passed over."""
    folder = root / EVIDENCE_FOLDER
    files = [root] if root.is_file() else sorted((folder if folder.is_dir() else root).rglob("*.json"))
    for file in files:
        try:
            yield load_evidence(file)
        except errors.EvidenceInvalidError:
            continue


def _identity(item: _Found) -> str:
    """What makes a candidate that is named twice count once."""
    return item.subject.sha256 if item.subject else str(item.path)


def _name(item: _Found) -> str:
    return item.subject.name if item.subject else str(item.path)


def _examined(item: _Found, profile: Profile, known: Sequence[AnyEvidence], *, unique: bool) -> Examined:
    subject = item.subject
    if subject is None:
        nothing = Candidate(
            name=str(item.path), path=str(item.path), variant_sha256=None, bytes=None, options={}, eligible=False,
            reasons=(item.error,),
        )  # fmt: skip
        return Examined(nothing, None)
    own = [record for record in known if record.variant_sha256 == subject.sha256 and not isinstance(record, Latency)]
    eligible, reasons = _judged(subject, profile, own)
    candidate = Candidate(
        name=subject.name if unique else f"{subject.name} ({subject.sha256[:8]})",
        path=str(item.path),
        variant_sha256=subject.sha256,
        bytes=subject.bytes,
        options=subject.record.options if subject.record else {},
        eligible=eligible,
        reasons=reasons,
    )
    return Examined(candidate, subject.folder)


def _judged(subject: Subject, profile: Profile, evidence: Sequence[AnyEvidence]) -> tuple[bool, tuple[str, ...]]:
    """Whether a variant may be chosen; the findings that speak against it, or that leave something unknown."""
    if not any(isinstance(record, Drift) for record in evidence):
        return False, ("There is no drift evidence of it.",)
    family = subject.record.checkpoint.family if subject.record else ""
    verdict = judge(
        accuracy_budgets(profile.budgets_of(family)),
        profile.accepts,
        evidence,
        variant_sha256=subject.sha256,
        variant_bytes=subject.bytes,
    )
    against = [finding for finding in verdict.findings if finding.outcome is Outcome.FAIL or _is_open_drift(finding)]
    unknown = [finding for finding in verdict.findings if finding.outcome is Outcome.UNVERIFIED]
    return not against, tuple(finding.reason for finding in against or unknown)


def _is_open_drift(finding: Finding) -> bool:
    """Whether a drift budget is left unverified, as by evidence of a kind the profile does not accept."""
    rule = RULES.get(finding.budget)
    return finding.outcome is Outcome.UNVERIFIED and rule is not None and rule.needs == "drift"
