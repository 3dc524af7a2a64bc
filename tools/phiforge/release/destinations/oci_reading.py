"""Read a release out of an OCI image layout: every digest is checked before anything is unpacked."""

from __future__ import annotations

import contextlib
import re
import tarfile
from typing import TYPE_CHECKING, TypeVar

from pydantic import BaseModel, ValidationError

from phiforge import errors
from phiforge.hashing import hash_bytes, hash_file
from phiforge.packaging.layout import check_inside
from phiforge.release.destinations.disk import copy_stream
from phiforge.release.destinations.existing import LAYOUT_FILE, ReleaseFacts, parse_facts
from phiforge.release.destinations.oci_schema import (
    REST_TYPE,
    TAG_KEY,
    TITLE,
    Descriptor,
    ImageManifest,
    Index,
    Layout,
    ManifestDescriptor,
    dump,
)
from phiforge.release.layout import RECORD

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_Model = TypeVar("_Model", bound=BaseModel)

INDEX_FILE = "index.json"
BLOBS = "blobs/sha256"
PARTIAL = ".partial"
_NAMED = 8
_TOP = f"(?:{re.escape(INDEX_FILE)}|{re.escape(LAYOUT_FILE)})"
_PART = re.escape(PARTIAL)
_OURS = re.compile(rf"{_TOP}|\.{_TOP}{_PART}|{BLOBS}/(?:[0-9a-f]{{64}}|(?:\.[0-9a-f]{{64}})?{_PART})")


def load_index(layout: Path) -> Index:
    """Read index.json.

    Raises:
        PackageTamperedError: It is absent or not as a release's is.
    """
    return _load(layout, INDEX_FILE, Index)


def load_manifest(layout: Path, entry: ManifestDescriptor) -> ImageManifest:
    """Read the manifest that the index names, and check it against its digest and its tag.

    Raises:
        PackageTamperedError: It is absent, changed, or of another tag.
    """
    name = f"{BLOBS}/{entry.hex}"
    manifest = _load(layout, name, ImageManifest, entry)
    if manifest.annotations.get(TAG_KEY) != entry.tag:
        raise _tampered(layout, [f"changed: {INDEX_FILE} (the tag {entry.tag!r} is not the manifest's)"])
    return manifest


def manifests_of(layout: Path) -> list[tuple[ManifestDescriptor, ImageManifest]]:
    """Read every manifest of a layout, in the order of the index.

    Raises:
        PackageTamperedError: One of them, or the index, is not as a release's is.
    """
    return [(entry, load_manifest(layout, entry)) for entry in load_index(layout).manifests]


def read_member(layout: Path, manifest: ImageManifest, name: str) -> bytes | None:
    """Read one file that is of no variant out of a release's layers, None where they have none of that name.

    Raises:
        PackageTamperedError: A layer is absent, or no tar.
    """
    for layer in manifest.layers:
        if layer.mediaType != REST_TYPE:
            continue
        with _opened(layout, layer) as tar:
            for member in tar:
                source = tar.extractfile(member) if member.name == name and member.isreg() else None
                if source is not None:
                    return source.read()
    return None


def releases_in(layout: Path) -> tuple[ReleaseFacts, ...]:
    """Read the facts of every release in a layout, in the order of the index; where a release.json is none, empty ones.

    Raises:
        PackageTamperedError: It is not as a release's is.
    """
    found = []
    for entry, manifest in manifests_of(layout):
        facts = parse_facts(read_member(layout, manifest, RECORD) or b"")
        model = manifest.annotations.get(TITLE, "")
        found.append(facts or ReleaseFacts(model=model, version=entry.tag, licence="", content_sha256="", signed=False))
    return tuple(found)


def strangers_in(layout: Path) -> list[str]:
    """Names of files that no publication makes: links, and whatever is called neither a blob nor half of one."""
    files = (path for path in layout.rglob("*") if path.is_symlink() or not path.is_dir())
    return sorted(path.relative_to(layout).as_posix() for path in files if not is_ours(layout, path))


def is_ours(layout: Path, path: Path) -> bool:
    """Whether a file in a layout is called as a publication calls its own, and no link; it may be gone by now."""
    return _OURS.fullmatch(path.relative_to(layout).as_posix()) is not None and not path.is_symlink()


def is_bare_layout(folder: Path) -> bool:
    """Whether a folder is an OCI layout but for the file that says so."""
    return (folder / INDEX_FILE).is_file() and (folder / BLOBS).is_dir() and not (folder / LAYOUT_FILE).exists()


def check_layout(layout: Path) -> list[tuple[ManifestDescriptor, ImageManifest]]:
    """Check every file of a layout: digests and sizes of all blobs, nothing changed, lost or added.

    A blob that no tag leads to is let through if its name is its hash: the release that was replaced last, or a
    publication that was stopped, leaves such.

    Returns:
        Its manifests, in the order of the index.

    Raises:
        PackageTamperedError: A file is not as it was published; the message names it.
    """
    _load(layout, LAYOUT_FILE, Layout)
    manifests = manifests_of(layout)
    faults = []
    known = {INDEX_FILE, LAYOUT_FILE}
    for entry, manifest in manifests:
        known.add(f"{BLOBS}/{entry.hex}")
        for blob in (manifest.config, *manifest.layers):
            name = f"{BLOBS}/{blob.hex}"
            if name not in known:
                known.add(name)
                faults += _blob_faults(layout, blob, entry.tag)
    for path in sorted(layout.rglob("*")):
        name = path.relative_to(layout).as_posix()
        if name not in known and (path.is_symlink() or not path.is_dir()) and not _is_left_over(layout, path):
            faults.append(f"added: {name}")
    if faults:
        raise _tampered(layout, faults)
    return manifests


def unpack(layout: Path, manifest: ImageManifest, target: Path) -> None:
    """Unpack the layers of a checked manifest into a new folder: files alone, each inside it and only once.

    Raises:
        PackageTamperedError: A layer is no tar, or holds something else than files.
        UnsafePathError: A path in it leaves the folder.
    """
    target.mkdir()
    for layer in manifest.layers:
        with _opened(layout, layer) as tar:
            for member in tar:
                _unpack_file(tar, member, target, f"{BLOBS}/{layer.hex} ({layer.annotation(TITLE)})", layout)


@contextlib.contextmanager
def _opened(layout: Path, layer: Descriptor) -> Iterator[tarfile.TarFile]:
    """Open a layer, and tell of what is wrong with it while it is read."""
    name = f"{BLOBS}/{layer.hex}"
    try:
        with tarfile.TarFile(layout / name, mode="r", encoding="utf-8") as tar:
            yield tar
    except (tarfile.TarError, UnicodeError) as error:
        raise _tampered(layout, [f"changed: {name}, which is no tar"]) from error
    except FileNotFoundError as error:
        raise _tampered(layout, [f"missing: {name}"]) from error


def _unpack_file(tar: tarfile.TarFile, member: tarfile.TarInfo, target: Path, blob: str, layout: Path) -> None:
    path = target / check_inside(member.name)
    # A sparse file may claim any size for a few bytes.
    source = tar.extractfile(member) if member.isreg() and not member.issparse() else None
    if source is None or path.exists():
        raise _tampered(layout, [f"changed: {blob} holds {member.name!r} twice, or as something else than a file"])
    path.parent.mkdir(parents=True, exist_ok=True)
    with source, path.open("wb") as file:
        copy_stream(source, file)


def _blob_faults(layout: Path, blob: Descriptor, tag: str) -> list[str]:
    path = layout / BLOBS / blob.hex
    what = f"{BLOBS}/{blob.hex} ({blob.annotation(TITLE) or 'the config'} of {tag})"
    try:
        whole = not path.is_symlink() and path.stat().st_size == blob.size and hash_file(path) == blob.hex
    except FileNotFoundError:
        return [f"missing: {what}"]
    return [] if whole else [f"changed: {what}"]


def _is_left_over(layout: Path, path: Path) -> bool:
    """Whether a file is what a publication leaves: half a file, a blob that no tag leads to, or none any more."""
    if not is_ours(layout, path):
        return False
    try:
        return path.name.endswith(PARTIAL) or hash_file(path) == path.name
    except FileNotFoundError:
        return True


def _load(layout: Path, name: str, model: type[_Model], entry: Descriptor | None = None) -> _Model:
    """Read a file of the layout, against its descriptor where there is one."""
    try:
        content = b"" if (layout / name).is_symlink() else (layout / name).read_bytes()
    except OSError as error:
        named = f" (a manifest, by {INDEX_FILE})" if entry is not None else ""
        raise _tampered(layout, [f"missing: {name}{named}"]) from error
    if entry is not None and (len(content) != entry.size or hash_bytes(content) != entry.hex):
        raise _tampered(layout, [f"changed: {name} (the manifest)"])
    try:
        found = model.model_validate_json(content)
    except ValidationError as error:
        first = error.errors()[0]
        raise _tampered(layout, [f"changed: {name} ({'.'.join(map(str, first['loc']))}: {first['msg']})"]) from error
    if entry is None and dump(found) != content:  # nothing else says what its bytes were
        raise _tampered(layout, [f"changed: {name} (not written as a publication writes it)"])
    return found


def _tampered(layout: Path, faults: list[str]) -> errors.PackageTamperedError:
    more = f"; and {len(faults) - _NAMED} more" if len(faults) > _NAMED else ""
    return errors.PackageTamperedError(
        f"The OCI layout {layout} is not as it was published.",
        why="; ".join(faults[:_NAMED]) + more + ".",
        fix="Do not use it; get it again from where it was published, or publish the release anew.",
    )
