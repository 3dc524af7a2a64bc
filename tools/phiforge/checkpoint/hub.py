"""Checkpoints of the Hugging Face Hub: a pinned commit, downloaded once, resumed when cut, every file's hash checked.

huggingface_hub lists the files, addresses them, follows redirects and keeps the session with its proxies and, if there
is one, its token; none is needed. The bytes are fetched here, because its own downloads (`snapshot_download`, 2.4.0) go
to a file with a random name that is removed when they fail: what was cut would begin anew. Over plain HTTP it also
compares sizes only.

Files lie in `$HF_HOME/phiforge/<organisation>--<name>/<commit>/<name>`, which all outputs share. What the Hub's own
cache already has is linked and takes no space twice. A file has its name only once its hash is right; before, it grows
in `parts/`. `files.json` beside them is written last and says that all are there, so that no network is needed again.

Only what `_WANTED` names is downloaded: safetensors, configurations, tokenizer, licence; never code.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock, Timeout

from phiforge import errors
from phiforge.checkpoint.family import model_of_hub_id
from phiforge.checkpoint.fields import read_json_object
from phiforge.hashing import hash_file
from phiforge.store import write_atomically

if TYPE_CHECKING:
    from huggingface_hub.hf_api import ModelInfo

Progress = Callable[[str, int, int], None]

PUBLIC_ENDPOINT = "https://huggingface.co"
RECORD_FILE = "files.json"
PARTS_FOLDER = "parts"
WEIGHTS_SUFFIX = ".safetensors"
TIMEOUT_S = 10.0
# A connection that breaks is tried again at once as long as bytes come; after so many tries without any it is over.
TRIES = 3
PAUSE_S = 1.0

_HUB_ID = re.compile(r"[a-z0-9][\w.-]{0,95}/[a-z0-9][\w.-]{0,95}", re.ASCII | re.IGNORECASE)
_COMMIT = re.compile(r"[0-9a-f]{40}")
# Of the repository's root alone: folders in it are other forms of the model.
_WANTED = re.compile(
    r"[a-z0-9][\w.-]*\.(safetensors|json|jinja)|merges\.txt|vocab\.txt|(LICEN[SC]E|NOTICE)[\w.-]*",
    re.ASCII | re.IGNORECASE,
)
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT)


@dataclass(frozen=True, kw_only=True)
class RemoteFile:
    """A file of the Hub's repository: sha256 where Git LFS keeps it, otherwise only the hash Git has of its content."""

    name: str
    size: int
    sha256: str | None
    git_sha1: str | None


def hub_id_of(checkpoint: Path) -> str | None:
    """Gives the Hub id that a checkpoint argument means, None where it means a folder.

    It means a folder when it exists, does not look like `organisation/name`, or lies in a folder that exists; a known
    model's id is one all the same.
    """
    text = checkpoint.as_posix()
    if checkpoint.exists() or not _HUB_ID.fullmatch(text):
        return None
    known = model_of_hub_id(text)
    if known is not None:
        return known.hub_id
    return None if checkpoint.parent.exists() else text


def choose_commit(hub_id: str, revision: str | None) -> str:
    """Gives the commit to download: the one asked for, or the one pinned for a known model.

    Raises:
        RevisionInvalidError: Neither is there, or what is asked for is no commit. Where there is a network, the message
            names the commit that is meant now.
        HubModelUnknownError: That question shows that the Hub has no such model.
    """
    known = model_of_hub_id(hub_id)
    commit = revision or (known.revision if known else None)
    if commit is not None and _COMMIT.fullmatch(commit):
        return commit
    asked = f"{revision!r} is no commit" if revision else f"No commit of {hub_id} is pinned"
    try:
        now = f"At present it is {_ask(hub_id, revision).sha}."
    except (errors.NetworkError, errors.RevisionInvalidError):
        now = "The Hub's page of the model lists its commits under `Files and versions`."
    raise errors.RevisionInvalidError(
        f"{asked}, so it is not said which files of {hub_id} are meant.",
        why="A branch moves, and what is built from it could not be built again.",
        fix=f"Give --revision with the 40 digits of a commit. {now}",
    )


def checkpoint_folder(hub_id: str, commit: str) -> Path:
    """Gives the folder of a downloaded checkpoint, which has the model's name."""
    return _home() / "phiforge" / hub_id.replace("/", "--") / commit / hub_id.partition("/")[2]


def is_complete(folder: Path) -> bool:
    """Says whether a checkpoint's folder holds all of its files, by name and size."""
    try:
        listed = read_json_object(folder.parent / RECORD_FILE).get("sizes")
    except (OSError, ValueError):
        return False
    if not isinstance(listed, dict) or not listed:
        return False
    return all(_size_of(folder / name) == size for name, size in listed.items())


def download(hub_id: str, commit: str, progress: Progress) -> Path:
    """Downloads a checkpoint, or what of it is not there yet, and returns its folder.

    Args:
        hub_id: `organisation/name`.
        commit: The commit, 40 digits.
        progress: Told of each file: (name, bytes there, bytes in all).

    Raises:
        DependencyMissingError: huggingface_hub is not installed.
        NetworkError: The Hub cannot be reached, or the connection broke and stayed broken.
        HubModelUnknownError: The Hub has no such model, or not for everybody.
        RevisionInvalidError: The model has no such commit.
        PickleWeightsError: The model has no safetensors.
        DownloadCorruptError: A file is not the one that the Hub describes; it was removed.
        DiskFullError: The disk is too small, or filled up.
        OutputLockedError: Another process downloads the same.
    """
    folder = checkpoint_folder(hub_id, commit)
    parts = folder.parent / PARTS_FOLDER
    for made in (folder, parts):
        made.mkdir(parents=True, exist_ok=True)
    with _locked(folder.parent), _disk_guarded(hub_id, folder):
        files = _list_files(hub_id, commit)
        lacking = [file for file in files if _size_of(folder / file.name) != file.size]
        lacking = [file for file in lacking if not _link_cached(hub_id, commit, file, folder)]
        _check_disk(hub_id, parts, lacking)
        for file in lacking:
            _fetch(hub_id, commit, file, parts / file.name, progress)
            os.replace(parts / file.name, folder / file.name)
        sizes = {file.name: file.size for file in files}
        record = {"hub_id": hub_id, "commit": commit, "sizes": sizes}
        write_atomically(folder.parent / RECORD_FILE, json.dumps(record, indent=1) + "\n")
        shutil.rmtree(parts)
    return folder


def _list_files(hub_id: str, commit: str) -> list[RemoteFile]:
    """Lists the wanted files, the small ones first, so that a checkpoint that is none is found soon."""
    siblings = _ask(hub_id, commit).siblings or []
    files = [
        RemoteFile(
            name=item.rfilename,
            size=item.lfs.size if item.lfs else item.size or 0,
            sha256=item.lfs.sha256 if item.lfs else None,
            git_sha1=item.blob_id,
        )
        for item in siblings
        if _WANTED.fullmatch(item.rfilename)
    ]
    if not any(file.name.endswith(WEIGHTS_SUFFIX) for file in files):
        raise errors.PickleWeightsError(
            f"The Hub's {hub_id} has no safetensors in its commit {commit}.",
            why="Weights in other forms are pickles, which run code when they are loaded, or of other runtimes.",
            fix="Choose a commit or a model with safetensors.",
        )
    return sorted(files, key=lambda file: (file.size, file.name))


def _ask(hub_id: str, revision: str | None) -> ModelInfo:
    """Asks the Hub what a revision is and which files it has."""
    try:
        from huggingface_hub import HfApi
    except ImportError as error:
        raise errors.DependencyMissingError(
            f"Downloading {hub_id} needs huggingface_hub, which is not installed.",
            why="The light install validates and runs packages; it downloads no checkpoints.",
            fix='pip install -c constraints.txt "phiforge[build,cpu]"',
        ) from error
    with _told(hub_id, revision):
        api = HfApi(endpoint=_endpoint())
        try:
            return api.model_info(hub_id, revision=revision, files_metadata=True, timeout=TIMEOUT_S)
        except (json.JSONDecodeError, TypeError, KeyError) as error:
            raise _unreachable(hub_id, "what answers there is not the Hub") from error


def _fetch(hub_id: str, commit: str, file: RemoteFile, part: Path, progress: Progress) -> None:
    """Downloads one file to its part, going on where the part ends, and checks its hash."""
    if _size_of(part) > file.size:
        part.unlink()
    part.touch()
    idle = 0
    while (start := _size_of(part)) < file.size:
        broken = None
        try:
            with _told(hub_id, commit):
                _stream(hub_id, commit, file, part, progress)
        except errors.NetworkError as error:
            broken = error
        idle = 0 if _size_of(part) > start else idle + 1
        if idle >= TRIES:
            raise _cut(hub_id, file, part, broken) from broken
        time.sleep(PAUSE_S if idle else 0)
    if _digest(part, file) != (file.sha256 or file.git_sha1):
        part.unlink()
        raise errors.DownloadCorruptError(
            f"The file {file.name} of {hub_id} is not the one that the Hub describes, and was removed.",
            why=f"Its {'SHA-256' if file.sha256 else 'Git hash'} differs from {file.sha256 or file.git_sha1}.",
            fix="Run the same command again. If that does not help, what lies between here and the Hub changes files.",
        )


def _stream(hub_id: str, commit: str, file: RemoteFile, part: Path, progress: Progress) -> None:
    from huggingface_hub import get_session, hf_hub_url, hf_raise_for_status
    from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]  # public, but not to mypy

    url = hf_hub_url(hub_id, file.name, revision=commit, endpoint=_endpoint())
    start = _size_of(part)
    headers = {**build_hf_headers(), "Accept-Encoding": "identity"}
    if start:
        headers["Range"] = f"bytes={start}-"
    with get_session().stream("GET", url, headers=headers, timeout=TIMEOUT_S) as response:
        hf_raise_for_status(response)
        goes_on = response.status_code == 206  # A server that knows no ranges sends all of it again.
        with part.open("ab" if goes_on else "wb") as target:
            for chunk in response.iter_bytes():  # As they come: a size to collect would be lost by a cut.
                target.write(chunk[: file.size - target.tell()])
                progress(file.name, target.tell(), file.size)


def _digest(path: Path, file: RemoteFile) -> str:
    if file.sha256 is not None:
        return hash_file(path)
    content = path.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


def _link_cached(hub_id: str, commit: str, file: RemoteFile, folder: Path) -> bool:
    """Links a file that the Hub's own cache has, if it is the right one; says whether."""
    from huggingface_hub import try_to_load_from_cache

    cache = os.environ.get("HF_HUB_CACHE") or str(_home() / "hub")
    cached = try_to_load_from_cache(hub_id, file.name, cache_dir=cache, revision=commit)
    if not isinstance(cached, str) or _digest(Path(cached), file) != (file.sha256 or file.git_sha1):
        return False
    (folder / file.name).unlink(missing_ok=True)
    try:
        os.link(Path(cached).resolve(), folder / file.name)
    except OSError:  # Another disk; then it is downloaded.
        return False
    return True


def _check_disk(hub_id: str, parts: Path, files: list[RemoteFile]) -> None:
    needed = sum(file.size - _size_of(parts / file.name, absent=0) for file in files)
    free = shutil.disk_usage(parts).free
    if free < needed:
        needs = f"needs {needed / 1e9:.2f} GB of disk, and {free / 1e9:.2f} GB are free"
        raise _no_room(f"The download of {hub_id} {needs}.", parts)


@contextlib.contextmanager
def _disk_guarded(hub_id: str, folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in _NO_ROOM:
            raise
        raise _no_room(f"The disk filled up during the download of {hub_id}.", folder) from error


def _no_room(what: str, folder: Path) -> errors.DiskFullError:
    return errors.DiskFullError(
        what,
        why=f"Downloads are kept in {folder.parent}.",
        fix="Free some space and run the same command again, or set HF_HOME to a folder on a larger disk.",
    )


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    lock = FileLock(folder / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise errors.OutputLockedError(
            f"Another process downloads to {folder}.",
            why="It holds the lock of that folder; two downloads would write over each other.",
            fix="Wait for it to end.",
        ) from None
    try:
        yield
    finally:
        lock.release()


@contextlib.contextmanager
def _told(hub_id: str, revision: str | None) -> Iterator[None]:
    """Turns the client's errors into ours."""
    import httpx2
    from huggingface_hub import errors as theirs

    try:
        yield
    except theirs.RevisionNotFoundError as error:
        raise errors.RevisionInvalidError(
            f"The Hub's {hub_id} has no commit {revision}.",
            why="It never had one, or its history was rewritten.",
            fix="Take the 40 digits from the Hub's page of the model, under `Files and versions`.",
        ) from error
    except (theirs.RepositoryNotFoundError, theirs.HFValidationError) as error:
        raise _unknown(hub_id) from error
    except theirs.HfHubHTTPError as error:
        status = error.response.status_code
        if status in (401, 403, 404):
            raise _unknown(hub_id) from error
        raise _unreachable(hub_id, f"it answers with the status {status}") from error
    except (httpx2.HTTPError, httpx2.InvalidURL, theirs.OfflineModeIsEnabled) as error:
        raise _unreachable(hub_id, _one_line(error)) from error


def _unknown(hub_id: str) -> errors.HubModelUnknownError:
    return errors.HubModelUnknownError(
        f"There is no folder {hub_id}, and the Hub at {_endpoint()} gives no model of this name.",
        why="It does not exist there, is private, or is given only to those who agreed to its terms.",
        fix="Check the spelling, give the path of a folder, or log in with `hf auth login`.",
    )


def _unreachable(hub_id: str, why: str) -> errors.NetworkError:
    return errors.NetworkError(
        f"The Hub at {_endpoint()} cannot be reached, and {hub_id} is not here yet.",
        why=f"The reason: {why}.",
        fix="Run the same command with a network, or give the folder of a checkpoint instead of its Hub id.",
    )


def _cut(hub_id: str, file: RemoteFile, part: Path, error: errors.NetworkError | None) -> errors.NetworkError:
    return errors.NetworkError(
        f"The download of {hub_id} was cut in {file.name}, after {_size_of(part):,} of {file.size:,} bytes.",
        why=error.why if error else "The connection ends there each time.",
        fix="Run the same command again; it goes on where it was.",
    )


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()).rstrip(".") or type(error).__name__


def _size_of(path: Path, absent: int = -1) -> int:
    return path.stat().st_size if path.is_file() else absent


def _endpoint() -> str:
    # Read now: the library reads its environment when it is imported.
    return (os.environ.get("HF_ENDPOINT") or PUBLIC_ENDPOINT).rstrip("/")


def _home() -> Path:
    default = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "huggingface"
    return Path(os.environ.get("HF_HOME") or default).expanduser()
