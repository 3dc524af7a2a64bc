"""Destinations as they are written on the command line, and what may be there before a release goes to one."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import tempfile
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from phiforge import errors
from phiforge.release.destinations.disk import existing_above, name_refusal, settle, unwritable, work_folder
from phiforge.release.destinations.existing import ReleaseFacts, form_of, release_facts, strangers
from phiforge.release.destinations.rereading import reread

if TYPE_CHECKING:
    from collections.abc import Sequence

Form = Literal["folder", "hf", "hub", "oci", "foundry"]

_DISK_FORMS: dict[str, Form] = {"folder": "folder", "hf": "hf", "oci": "oci", "foundry": "foundry"}
_FORMS = "folder:DIR, hf:DIR, hf://OWNER/NAME[@BRANCH], oci:DIR[:TAG] and foundry:DIR"
# Two letters at least, since one is a drive of Windows.
_PREFIX = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):(.*)", re.DOTALL)
_NAME = r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}"
_REPOSITORY = re.compile(rf"//({_NAME}/{_NAME})(?:@([A-Za-z0-9][A-Za-z0-9._/-]{{0,127}}))?")
# OCI image specification 1.1, annotations; OCI distribution specification 1.1, "tag".
TAG = re.compile(r"[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}")


@dataclass(frozen=True, kw_only=True)
class Destination:
    """Where a release goes.

    Attributes:
        form: `folder`, `hf` (a repository of the Hub on disk), `hub` (an upload), `oci` or `foundry`.
        path: The folder, for all but `hub`.
        repository: `OWNER/NAME`, for `hub`.
        tag: The tag of an OCI layout or the branch of a repository, where one was given.
    """

    form: Form
    path: Path | None = None
    repository: str | None = None
    tag: str | None = None

    def __str__(self) -> str:
        if self.form == "hub":
            return f"hf://{self.repository}" + (f"@{self.tag}" if self.tag else "")
        return f"{self.form}:{self.path}" + (f":{self.tag}" if self.tag else "")


def parse_destination(text: str) -> Destination:
    """Read a destination: `DIR` or `folder:DIR`, `hf:DIR`, `hf://OWNER/NAME[@BRANCH]`, `oci:DIR[:TAG]`, `foundry:DIR`.

    Raises:
        DestinationError: The form is unknown, or what follows it is none of that form.
    """
    match = _PREFIX.fullmatch(text)
    if match is None:
        return Destination(form="folder", path=_path(text, text))
    prefix, rest = match[1], match[2]
    if prefix == "hf" and rest.startswith("//"):
        found = _REPOSITORY.fullmatch(rest)
        if found is None:
            raise _unknown(text, f"{rest[2:]!r} is no OWNER/NAME of the Hub, with or without @BRANCH.")
        return Destination(form="hub", repository=found[1], tag=found[2])
    if prefix not in _DISK_FORMS:
        raise _unknown(text, f"{prefix!r} is no form of a destination.")
    if prefix == "oci":
        folder, _, tag = rest.rpartition(":")
        if folder and TAG.fullmatch(tag):
            return Destination(form="oci", path=_path(folder, text), tag=tag)
    return Destination(form=_DISK_FORMS[prefix], path=_path(rest, text))


def check_name(destination: Destination) -> None:
    """Check that the file system takes the names that publishing there needs.

    Raises:
        DestinationError: One is too long, or has what no name may have.
    """
    if destination.path is None:
        return
    why = name_refusal(resolved(destination))
    if why is not None:
        raise errors.DestinationError(
            f"A release cannot go to {destination}.",
            why=f"The file system refuses that name, or those that publishing adds: {why}.",
            fix="Give --to another name.",
        )


def check_destination(destination: Destination, model: str, *, dry_run: bool = False) -> tuple[ReleaseFacts, ...]:
    """Check that a release may go there: nothing is there, or a release of this model in this form.

    Args:
        destination: The destination.
        model: The model's name, as the release will have it.
        dry_run: Whether nothing will be written; then neither the network nor a token is needed.

    Returns:
        The releases of this model that are there: one, several in an OCI layout, or none.

    Raises:
        DestinationError: Something else is there, or a release of another model or in another form.
        OutputUnwritableError: The folder, or the one it is in, cannot be written.
        OutputLockedError: Another process publishes there.
        NetworkError: The Hub cannot be reached.
        DependencyMissingError: The upload needs huggingface_hub.
    """
    if destination.form == "hub":
        from phiforge.release.destinations.hub import check_repository

        return check_repository(destination, model, dry_run=dry_run)
    check_name(destination)
    path = resolved(destination)
    if path.exists() and not path.is_dir():
        raise _refused(destination, "It is a file.")
    if not existing_above(path).is_dir():
        raise unwritable(path, NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR)))
    if path.is_mount():
        raise _refused(destination, "It is a mount point, whose name cannot be given to a new folder.")
    if not dry_run:
        settle(path)
    _check_writable(path, dry_run=dry_run)
    if path.exists() and any(path.iterdir()):
        return reread(path, lambda: _check_same(destination, path, model))
    return ()


def check_apart(destinations: Sequence[Destination], sources: Sequence[Path]) -> None:
    """Check that no destination is inside of what is read, or in the way of another one.

    Args:
        destinations: All of one release. Two tags of one OCI layout are not in each other's way.
        sources: The folders of the package and the previous release; the latter's itself may be replaced.

    Raises:
        DestinationError: One is.
    """
    places = [(item, resolved(item)) for item in destinations if item.path is not None]
    for item, path in places:
        inside = next((source for source in sources if source.resolve() in path.parents), None)
        if inside is not None:
            raise _refused(item, f"It is inside of {inside}, which the release is made from.")
    for (one, first), (other, second) in combinations(places, 2):
        tags = first == second and one.form == other.form == "oci" and one.tag != other.tag
        if not tags and (first == second or first in second.parents or second in first.parents):
            raise _refused(other, f"It is in the way of {one}.")


def resolved(destination: Destination) -> Path:
    """Give the folder of a destination on disk without links on the way, so that the folder itself is replaced."""
    assert destination.path is not None
    return destination.path.resolve()


def _check_same(destination: Destination, path: Path, model: str) -> tuple[ReleaseFacts, ...]:
    """Check that what is there is a release of this model in this form, with nothing of somebody else's in it."""
    form = form_of(path)
    if form is None:
        raise _refused(destination, "It is not empty, and what is there is no release.")
    if form != destination.form:
        raise _refused(destination, f"There is a release in the form {form!r}.")
    if form == "oci":
        from phiforge.release.destinations.oci_layout import check_only_model

        return check_only_model(path, model)
    facts = release_facts(path)
    if facts is None or facts.model != model:
        other = f"a release of {facts.model}" if facts else "a release whose release.json cannot be read"
        raise _refused(destination, f"There is {other}; this one is of {model}.")
    added = strangers(path)
    if added:
        named = ", ".join(added[:3]) + (f" and {len(added) - 3} more" if len(added) > 3 else "")
        raise _refused(destination, f"The release there did not bring {named}, and the new one would remove it.")
    return (facts,)


def _check_writable(path: Path, *, dry_run: bool) -> None:
    """Write a file where the work folder will be, and in the folder itself, and make that folder; all goes again.

    Permissions do not tell: of a read-only disk, a network share or an administrator they say nothing. A dry run opens
    a file without a name there, where the system has such, and leaves no trace.
    """
    places = {existing_above(work_folder(path).parent), *([path] if path.exists() else [])}
    for place in places:
        try:
            if dry_run:
                _open_unnamed(place)
                continue
            with tempfile.TemporaryFile(prefix=".phiforge-", dir=place) as file:
                file.write(b"?")
        except OSError as error:
            raise unwritable(path, error) from error
    work = work_folder(path)
    if not dry_run and work.parent.is_dir():
        try:
            work.mkdir()
        except FileExistsError:
            return
        except OSError as error:
            raise unwritable(path, error) from error
        with contextlib.suppress(OSError):  # somebody publishes there since
            work.rmdir()


def _open_unnamed(folder: Path) -> None:
    """Find out whether a folder can be written, and write nothing; by its permissions where there is no other way."""
    unnamed = getattr(os, "O_TMPFILE", None)
    if unnamed is not None:
        try:
            os.close(os.open(folder, unnamed | os.O_RDWR))
        except OSError as error:
            if error.errno not in (errno.EOPNOTSUPP, errno.EISDIR):  # not of this file system or kernel
                raise
        else:
            return
    if not os.access(folder, os.W_OK | os.X_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))


def _path(text: str, whole: str) -> Path:
    if not text:
        raise _unknown(whole, "It names no folder.")
    try:
        text.encode("utf-8")
        path = Path(text).expanduser()
    except (RuntimeError, UnicodeEncodeError) as error:
        why = "Its name is not UTF-8." if isinstance(error, UnicodeEncodeError) else "There is no such user's folder."
        raise _unknown(whole, why) from error
    if "\0" in text:
        raise _unknown(whole, "No name may hold a null character.")
    return path


def _refused(destination: Destination, why: str) -> errors.DestinationError:
    return errors.DestinationError(
        f"A release cannot go to {destination}.",
        why=why,
        fix="Give --to a folder that is absent, empty, or a release of the same model in the same form.",
    )


def _unknown(text: str, why: str) -> errors.DestinationError:
    return errors.DestinationError(
        f"{text!r} is no destination of a release.", why=why, fix=f"Destinations are {_FORMS}; DIR alone is a folder."
    )
