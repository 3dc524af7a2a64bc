"""Refuse a release where a package is wanted, and say what of it is."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

from phiforge import errors
from phiforge.packaging.layout import MANIFEST, SUFFIX
from phiforge.release.destinations.existing import form_of
from phiforge.release.layout import EVIDENCE

if TYPE_CHECKING:
    from pathlib import Path

_REPORT = "report.html"


def refuse_release(path: Path) -> None:
    """Refuse a release on disk in any form where a report is to be made over a package.

    Raises:
        PackageInvalidError: It is one; the message says where its report is, and what to give.
    """
    form = None if (path / MANIFEST).is_file() else form_of(path)
    if form is None:
        return
    package = next(iter(sorted(path.glob(f"*{SUFFIX}"))), None)
    if package is not None:
        words = ["phiforge", "report", str(package)]
        brought = sorted((path / EVIDENCE).glob("*"))
        words += [word for file in brought for word in ("--evidence", str(file))]
        instead = f"give the package in it{', with what devices measured' if brought else ''}: `{shlex.join(words)}`."
    else:
        instead = "give the package that was released."
    read = f"Read {path / _REPORT}, or " if (path / _REPORT).is_file() else ""
    raise errors.PackageInvalidError(
        f"{path} is a release, and a report is made over packages.",
        why=f"It holds a release in the form {form!r}, which brings the report that it was judged by.",
        fix=read + (instead if read else instead[0].upper() + instead[1:]),
    )
