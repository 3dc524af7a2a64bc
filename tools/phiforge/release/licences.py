"""Recognize a licence by its text, and say whether what questions came under is known."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from phiforge.evidence import Tasks
from phiforge.gate import Finding, Outcome
from phiforge.hashing import hash_bytes

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from phiforge.evidence import AnyEvidence

PREFIX = "licence:"
# SPDX identifiers by the digest of the licence's words, without its title and the lines that name the owner.
KNOWN_TEXTS = {
    "0cf21bdfd1964a97a8615e128534845826afbc887edc95aa5c925cbf64386b5c": "MIT",
    "ff7be961361eda3cd2a76927dd0d9482cf45defafde2045befedf77400d98100": "Apache-2.0",
    "e9dbf930ca0f1e090ec68da9a37b657d11bc9e43b30643455d6a96dbf73116ca": "Apache-2.0",
    "53075742228962c7ea381b8242c64602fa32e7b8f52facb6d13ee4f9c596ddfa": "BSD-3-Clause",
    "986c3c3199a93b916c8f2e0aeed57819bcbdcb2cd9d99902dcc9d74b53f93a74": "BSD-2-Clause",
}
_TITLE = r"(the )?(mit license( \(mit\))?|bsd [23]-clause license)"
_OWNER = r"copyright\b.*|\(c\).*|©.*|all rights reserved\.?|microsoft\.?"
_NO_TERMS = re.compile(rf"^[ \t]*({_TITLE}|{_OWNER})[ \t]*$", re.IGNORECASE | re.MULTILINE)
_UNKNOWN = ("", "unknown", "other", "noassertion", "none", "unlicensed", "proprietary")
# What an SPDX expression is made of: identifiers, AND, OR, WITH and brackets.
_SPDX = re.compile(r"\(*[A-Za-z0-9][A-Za-z0-9.+:-]*\)*( (AND|OR|WITH) \(*[A-Za-z0-9][A-Za-z0-9.+:-]*\)*)*")


def recognize(text: str) -> str | None:
    """Return the SPDX identifier of a licence text; None if it is not word for word one of those known here."""
    return KNOWN_TEXTS.get(words_digest(text))


def words_digest(text: str) -> str:
    """Return the SHA-256 of a licence's words in lower case, one space between them, without title and owner."""
    terms = _NO_TERMS.sub("", "\n".join(text.splitlines()))
    return hash_bytes(" ".join(re.findall(r"[a-z0-9]+", terms.lower())).encode())


def licence_of(folder: Path) -> tuple[str | None, str]:
    """Return the SPDX expression of the LICENSE files of a folder, and if it is not known why."""
    files = sorted(folder.glob("LICENSE*"))
    if not files:
        return None, "there is no LICENSE file"
    found = {file.name: recognize(file.read_text(encoding="utf-8", errors="replace")) for file in files}
    strange = [name for name, identifier in found.items() if identifier is None]
    if strange:
        known = ", ".join(sorted(set(KNOWN_TEXTS.values())))
        return None, f"{', '.join(strange)} is not word for word one of {known}"
    return " AND ".join(sorted({identifier for identifier in found.values() if identifier})), ""


def check_questions(evidence: Sequence[AnyEvidence]) -> tuple[Finding, ...]:
    """Return a finding for each task, named `licence:<task>`: a fail where it is not known what it came under.

    Of several records of one task each must say so. Answers that name no task have a finding by the name of their sum.
    """
    told: dict[str, list[str]] = {}
    for record in evidence:
        for score in (record.scores or (record.overall,)) if isinstance(record, Tasks) else ():
            told.setdefault(score.task, []).append(score.source.licence if score.source else "")
    return tuple(_finding(task, licences) for task, licences in told.items())


def _finding(task: str, licences: Sequence[str]) -> Finding:
    unknown = any(licence.lower() in _UNKNOWN or not _SPDX.fullmatch(licence) for licence in licences)
    reason = (
        f"It is not known under which licence the questions of {task} came."
        if unknown
        else f"The questions of {task} came under {', '.join(dict.fromkeys(licences))}."
    )
    outcome = Outcome.FAIL if unknown else Outcome.PASS
    return Finding(
        budget=f"{PREFIX}{task}", limit=1, value=float(not unknown), kind=None, outcome=outcome, reason=reason
    )
