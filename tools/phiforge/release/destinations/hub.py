"""Upload a release to a repository of the Hugging Face Hub: large files first, then one commit, which publishes it.

Until the commit nothing can be seen. What of the large files has been sent stays with the Hub, which knows it by its
hash, so the same command goes on after a cut. The commit names the one before it as its parent, so that it is refused
if somebody else published meanwhile.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from phiforge import errors
from phiforge.checkpoint.hub import PUBLIC_ENDPOINT, TIMEOUT_S
from phiforge.hashing import hash_file
from phiforge.release.destinations.existing import GIT_ATTRIBUTES, ReleaseFacts, parse_facts, release_facts
from phiforge.release.destinations.hf_layout import is_large
from phiforge.release.destinations.published import Action, Published, PublishedFile
from phiforge.release.layout import CARD, RECORD

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from huggingface_hub import CommitOperationAdd, HfApi

    from phiforge.release.destinations.destination import Destination

MAIN = "main"
_GIT_IGNORE = ".gitignore"
# What the Hub itself puts into a new repository.
_OF_A_NEW_REPOSITORY = frozenset({GIT_ATTRIBUTES, CARD})
_NO_WRITE = frozenset({401, 403})
_CHANGED_MEANWHILE = frozenset({409, 412})


@dataclass(frozen=True, kw_only=True)
class _RemoteFile:
    """A file of the repository: its SHA-256 where the Hub keeps it as a large one, otherwise Git's hash of it."""

    sha256: str | None
    git_sha1: str | None


@dataclass(frozen=True, kw_only=True)
class _Remote:
    """What the repository has at its branch."""

    commit: str
    files: dict[str, _RemoteFile]


def check_repository(destination: Destination, model: str, *, dry_run: bool) -> tuple[ReleaseFacts, ...]:
    """Check that a release may go to a repository: it is there, may be written, and has this model's release or none.

    Args:
        destination: The repository.
        model: The model's name.
        dry_run: Whether nothing will be sent; then nothing is asked.

    Returns:
        The release that is there, if there is one and it was asked.

    Raises:
        DestinationError: There is no such repository, no token, or something else in it.
        NetworkError: The Hub cannot be reached.
        DependencyMissingError: huggingface_hub is not installed.
    """
    api = _api(destination)
    if dry_run:
        return ()
    _check_token(destination)
    with _told(destination):
        remote = _remote(api, destination)
        content = _content(api, destination, remote) if RECORD in remote.files else None
    if _GIT_IGNORE in remote.files:
        raise _refused(destination, "It has a .gitignore, by which the Hub leaves files out without a word.")
    if content is None:
        if remote.files.keys() - _OF_A_NEW_REPOSITORY:
            raise _refused(destination, "It is not empty, and what is there is no release.")
        return ()
    facts = parse_facts(content)
    if facts is None or facts.model != model:
        raise _refused(destination, f"There is a release of {facts.model if facts else 'something else'}.")
    return (facts,)


def planned(folder: Path, destination: Destination) -> Published:
    """Say what would be sent to the repository; nothing is asked of the Hub, so what it has already is not known.

    Args:
        folder: The folder in the layout of a repository.
        destination: The repository.
    """
    return Published(location=str(destination), files=tuple(_listed(folder, {})), asked=False)


def upload(
    folder: Path, destination: Destination, check: Callable[[], object], on_file: Callable[[str, int], None]
) -> Published:
    """Make the repository's branch hold exactly this folder, in one commit.

    Args:
        folder: The folder in the layout of a repository.
        destination: The repository.
        check: Raises if what is there may not be replaced.
        on_file: Told of each file when it has been sent: (name, bytes).

    Raises:
        DestinationError: The Hub has no such repository, does not let it be written, or refuses the files.
        NetworkError: The Hub cannot be reached, or the connection broke and stayed broken.
        DependencyMissingError: huggingface_hub is not installed.
        PhiforgeError: As `check` does; nothing was sent.
    """
    api = _api(destination)
    _check_token(destination)
    from huggingface_hub import CommitOperationAdd

    with _told(destination):
        remote = _remote(api, destination)
    check()  # after the commit is known: if it sees a later one, ours is refused
    files = _listed(folder, remote.files)
    additions = {
        file.name: CommitOperationAdd(path_in_repo=file.name, path_or_fileobj=str(folder / file.name))
        for file in files
        if file.action != "remove"
    }
    with _told(destination):
        for file in files:
            if file.lfs and file.action != "remove":
                _send_large(api, destination, additions[file.name])
                on_file(file.name, file.bytes)
        commit = _commit(api, destination, folder, [*additions.values()], files, remote.commit)
        sent = _remote(api, destination, commit)
    for file in files:
        if not file.lfs and file.action != "remove":
            on_file(file.name, file.bytes)
    _check_sent(folder, destination, sent)
    return Published(location=f"{destination} at {commit}", files=tuple(files))


def _send_large(api: HfApi, destination: Destination, addition: CommitOperationAdd) -> None:
    """Send one large file, unless the Hub has it."""
    api.preupload_lfs_files(
        _id(destination), [addition], revision=destination.tag or MAIN, num_threads=1, free_memory=False
    )


def _commit(
    api: HfApi,
    destination: Destination,
    folder: Path,
    additions: list[CommitOperationAdd],
    files: list[PublishedFile],
    parent: str,
) -> str:
    from huggingface_hub import CommitOperationDelete

    deletions = [CommitOperationDelete(path_in_repo=file.name) for file in files if file.action == "remove"]
    facts = release_facts(folder)
    title = f"Release {facts.model} {facts.version}".strip() if facts else "Release"
    found = api.create_commit(
        _id(destination),
        [*additions, *deletions],
        commit_message=title,
        revision=destination.tag or MAIN,
        parent_commit=parent,
        num_threads=1,
    )
    return str(found.oid)


def _listed(folder: Path, remote: dict[str, _RemoteFile]) -> list[PublishedFile]:
    """List the folder's files, and those of the repository that go."""
    files = []
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        name, size = path.relative_to(folder).as_posix(), path.stat().st_size
        digest = hash_file(path)
        before = remote.get(name)
        action: Action = "add" if before is None else ("keep" if _is_same(path, digest, before) else "replace")
        files.append(
            PublishedFile(name=name, bytes=size, sha256=digest, action=action, lfs=is_large(name, size) and size > 0)
        )
    here = {file.name for file in files}
    for name, before in remote.items():
        if name not in here:
            files.append(PublishedFile(name=name, bytes=0, sha256=before.sha256 or "", action="remove"))
    return sorted(files, key=lambda file: file.name)


def _is_same(path: Path, digest: str, remote: _RemoteFile) -> bool:
    if remote.sha256 is not None:
        return remote.sha256 == digest
    content = path.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest() == remote.git_sha1


def _check_sent(folder: Path, destination: Destination, sent: _Remote) -> None:
    """Check that the commit holds what was sent and nothing else."""
    wrong = [file.name for file in _listed(folder, sent.files) if file.action != "keep"]
    if wrong:
        raise errors.DestinationError(
            f"What the Hub has now at {destination} is not the release.",
            why=f"These files differ, lack, or are too many: {', '.join(wrong[:3])}.",
            fix="Look at the repository's history on the Hub, and run the same command again.",
        )


def _remote(api: HfApi, destination: Destination, commit: str | None = None) -> _Remote:
    revision = commit or destination.tag or MAIN
    found = api.model_info(_id(destination), revision=revision, files_metadata=True, timeout=TIMEOUT_S)
    files = {
        item.rfilename: _RemoteFile(sha256=item.lfs.sha256 if item.lfs else None, git_sha1=item.blob_id)
        for item in found.siblings or []
    }
    return _Remote(commit=str(found.sha), files=files)


def _content(api: HfApi, destination: Destination, remote: _Remote) -> bytes:
    """Fetch the repository's release.json."""
    from huggingface_hub import get_session, hf_hub_url, hf_raise_for_status
    from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]  # public, but not to mypy

    url = hf_hub_url(_id(destination), RECORD, revision=remote.commit, endpoint=api.endpoint)
    response = get_session().get(url, headers=build_hf_headers(), timeout=TIMEOUT_S, follow_redirects=True)
    hf_raise_for_status(response)
    return bytes(response.content)


def _api(destination: Destination) -> HfApi:
    try:
        from huggingface_hub import HfApi
    except ImportError as error:
        raise errors.DependencyMissingError(
            f"Sending a release to {destination} needs huggingface_hub, which is not installed.",
            why="Only the extra `release` brings it.",
            fix='pip install -c constraints.txt "phiforge[release]"',
        ) from error
    return HfApi(endpoint=os.environ.get("HF_ENDPOINT") or PUBLIC_ENDPOINT)


def _check_token(destination: Destination) -> None:
    from huggingface_hub import get_token

    if get_token() is None:
        raise errors.DestinationError(
            f"A release cannot be sent to {destination} without a token of the Hub.",
            why="Neither the variable HF_TOKEN is set nor has anybody logged in here.",
            fix="Set HF_TOKEN to a token that may write to the repository, or run `hf auth login`.",
        )


def _id(destination: Destination) -> str:
    assert destination.repository is not None
    return destination.repository


@contextlib.contextmanager
def _told(destination: Destination) -> Iterator[None]:
    """Turn the client's errors into ours, and keep its progress bars from the screen."""
    import httpx2
    from huggingface_hub import errors as theirs

    with _silent():
        try:
            yield
        except (theirs.RepositoryNotFoundError, theirs.RevisionNotFoundError) as error:
            raise _absent(destination) from error
        except theirs.HfHubHTTPError as error:
            raise _http_error(destination, error.response.status_code) from error
        except (httpx2.HTTPError, httpx2.InvalidURL, theirs.OfflineModeIsEnabled, json.JSONDecodeError) as error:
            raise _unreachable(destination, _one_line(error)) from error
        except (RuntimeError, OSError) as error:
            # How the client tells of a large file that could not be sent, by Git LFS and by Xet; the cause says why.
            cause = error.__cause__
            if isinstance(cause, theirs.HfHubHTTPError):
                raise _http_error(destination, cause.response.status_code) from error
            raise _unreachable(destination, _one_line(cause or error)) from error
        except ValueError as error:
            raise errors.DestinationError(
                f"The Hub does not take the release at {destination}.",
                why=_one_line(error),
                fix="Mend what it names and run the same command again; nothing was published.",
            ) from error


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    from huggingface_hub.utils.tqdm import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    if are_progress_bars_disabled():
        yield
        return
    disable_progress_bars()
    try:
        yield
    finally:
        enable_progress_bars()


def _http_error(destination: Destination, status: int) -> errors.PhiforgeError:
    if status in _NO_WRITE:
        return _refused(destination, f"The token may not write there (status {status}).")
    if status in _CHANGED_MEANWHILE:
        return _refused(destination, f"Somebody else published there meanwhile (status {status}).")
    return _unreachable(destination, f"it answers with the status {status}")


def _refused(destination: Destination, why: str) -> errors.DestinationError:
    return errors.DestinationError(
        f"A release cannot go to {destination}.",
        why=why,
        fix="Give --to a repository of yours that is new or has a release of the same model; nothing was published.",
    )


def _absent(destination: Destination) -> errors.DestinationError:
    return errors.DestinationError(
        f"The Hub has no repository or branch for {destination}.",
        why="It does not exist, or the token may not see it.",
        fix=f"Make it with `hf repo create {destination.repository}`, or check the name, the branch and the token.",
    )


def _unreachable(destination: Destination, why: str) -> errors.NetworkError:
    return errors.NetworkError(
        f"The connection to the Hub failed before it said that {destination} has the release.",
        why=f"{why[:1].upper()}{why[1:].rstrip('.')}.",
        fix="Run the same command again: what the Hub has already is not sent twice.",
    )


def _one_line(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return text or type(error).__name__
