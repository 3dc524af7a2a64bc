"""Write a release into an OCI image layout on disk: blobs first, then the index, which names them, in one step."""

from __future__ import annotations

import hashlib
import os
import tarfile
from dataclasses import dataclass
from typing import TYPE_CHECKING, BinaryIO, cast

from phiforge import errors
from phiforge.packaging.layout import load_component, variant_folders
from phiforge.release.destinations.destination import TAG
from phiforge.release.destinations.disk import sync_folder, write_synced
from phiforge.release.destinations.existing import LAYOUT_FILE, ReleaseFacts, package_folder, release_facts
from phiforge.release.destinations.oci_reading import (
    BLOBS,
    INDEX_FILE,
    PARTIAL,
    is_ours,
    load_index,
    load_manifest,
    manifests_of,
    releases_in,
    strangers_in,
)
from phiforge.release.destinations.oci_schema import (
    ARTIFACT_TYPE,
    CONFIG_TYPE,
    DEVICE,
    FILE_PATH,
    LICENCES,
    MANIFEST_TYPE,
    PROVIDER,
    REFERENCE,
    REST_TYPE,
    TAG_KEY,
    TITLE,
    VARIANT,
    VARIANT_TYPE,
    VERSION,
    Descriptor,
    ImageManifest,
    Index,
    Layout,
    ManifestDescriptor,
    dump,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

LATEST = "latest"


@dataclass(frozen=True, kw_only=True)
class _Part:
    """One layer to be: its media type, annotations, and files."""

    media_type: str
    annotations: dict[str, str]
    files: Sequence[Path]


def default_tag(facts: ReleaseFacts | None) -> str:
    """Give the tag of a release that was given none: its version, or `latest` where that is no tag."""
    return facts.version if facts is not None and TAG.fullmatch(facts.version) else LATEST


def check_only_model(layout: Path, model: str) -> tuple[ReleaseFacts, ...]:
    """Check that a layout holds releases of this model and nothing else, and return what they are.

    Raises:
        DestinationError: There is something else in it, or it cannot be read.
    """
    try:
        titles = {manifest.annotations.get(TITLE, "") for _, manifest in manifests_of(layout)}
        there = releases_in(layout)
    except errors.PackageTamperedError as error:
        raise errors.DestinationError(
            f"A release cannot go to the OCI layout {layout}.",
            why=f"What is there is no whole layout of a release: {error.why}",
            fix="Give --to another folder.",
        ) from error
    if titles != {model}:
        raise _mixed(model, layout, f"It holds {', '.join(sorted(titles))}.")
    added = strangers_in(layout)
    if added:
        raise _mixed(model, layout, f"No release brought {', '.join(added[:3])}.")
    return there


def _mixed(model: str, layout: Path, why: str) -> errors.DestinationError:
    return errors.DestinationError(
        f"A release of {model} cannot go to the OCI layout {layout}.",
        why=why,
        fix="Give --to another folder; a layout has the releases of one model and nothing else.",
    )


def layout_files(layout: Path) -> dict[str, str]:
    """SHA-256 by name of the files that a layout's index leads to; empty where there is no layout."""
    if not (layout / INDEX_FILE).is_file():
        return {}
    small = {name: hashlib.sha256((layout / name).read_bytes()).hexdigest() for name in (LAYOUT_FILE, INDEX_FILE)}
    return small | {f"{BLOBS}/{digest}": digest for digest in _referenced(layout, load_index(layout))}


def copy_index(layout: Path, target: Path) -> None:
    """Copy of a layout into a new folder what names its blobs, without layers and configs."""
    (target / BLOBS).mkdir(parents=True)
    manifests = [f"{BLOBS}/{entry.hex}" for entry in load_index(layout).manifests]
    for name in (LAYOUT_FILE, INDEX_FILE, *manifests):
        (target / name).write_bytes((layout / name).read_bytes())


def publish_layout(prepared: Path, layout: Path, tag: str, on_file: Callable[[str, int], None]) -> None:
    """Put a release into a layout under a tag, which may be a new folder; other tags stay.

    Blobs are removed last: those to which neither the new index leads nor the one that it replaces. So whoever has
    read the index still finds what it names until another publication is done.

    Args:
        prepared: The release folder.
        layout: The layout's folder.
        tag: The tag; a release that had it before is replaced.
        on_file: Told of each blob when it is written: (name, bytes).
    """
    blobs = layout / BLOBS
    blobs.mkdir(parents=True, exist_ok=True)
    facts = release_facts(prepared)
    assert facts is not None
    layers = [_write_layer(prepared, part, blobs, on_file) for part in _parts(prepared)]
    config = _write_blob(dump(_config(facts, layers)), CONFIG_TYPE, blobs, on_file)
    annotations = {TITLE: facts.model, VERSION: facts.version, LICENCES: facts.licence, TAG_KEY: tag}
    manifest = ImageManifest(
        config=config, layers=tuple(layers), annotations={k: v for k, v in annotations.items() if v}
    )
    found = _write_blob(dump(manifest), MANIFEST_TYPE, blobs, on_file)
    entry = ManifestDescriptor(
        mediaType=MANIFEST_TYPE,
        digest=found.digest,
        size=found.size,
        artifactType=ARTIFACT_TYPE,
        annotations={REFERENCE: tag},
    )
    before = load_index(layout) if (layout / INDEX_FILE).is_file() else None
    others = before.manifests if before else ()
    index = Index(manifests=(*(other for other in others if other.tag != tag), entry))
    kept = _referenced(layout, index) | (_referenced(layout, before) if before else set())
    write_synced(layout / LAYOUT_FILE, dump(Layout(imageLayoutVersion="1.0.0")))
    sync_folder(blobs)
    write_synced(layout / INDEX_FILE, dump(index))
    sync_folder(layout)
    _prune(layout, kept)


def _parts(prepared: Path) -> list[_Part]:
    """Divide a release into one part for each variant and one with all the rest."""
    package = package_folder(prepared)
    component = load_component(package)
    rest = {path for path in prepared.rglob("*") if path.is_file()}
    parts = []
    for name, folder in sorted(variant_folders(package).items()):
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        rest -= set(files)
        entry = component.variants[name]
        annotations = {
            TITLE: f"{name}.tar",
            FILE_PATH: folder.relative_to(prepared).as_posix(),
            VARIANT: name,
            PROVIDER: entry.ep,
            DEVICE: entry.device,
        }
        parts.append(_Part(media_type=VARIANT_TYPE, annotations=annotations, files=files))
    return [*parts, _Part(media_type=REST_TYPE, annotations={TITLE: "release.tar"}, files=sorted(rest))]


def _config(facts: ReleaseFacts, layers: Sequence[Descriptor]) -> dict[str, object]:
    """The config of ModelPack's model specification; nothing in it says when it was made."""
    descriptor: dict[str, object] = {"name": facts.model, "version": facts.version}
    if facts.licence:
        descriptor["licenses"] = [facts.licence]
    return {
        "descriptor": descriptor,
        "config": {"format": "onnx"},
        "modelfs": {"type": "layers", "diffIds": [layer.digest for layer in layers]},
    }


class _Hashing:
    """A file for tarfile to write to, which knows the hash of what it got."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.sha256 = hashlib.sha256()
        self.size = 0

    def write(self, block: bytes) -> int:
        """Write a block."""
        self.sha256.update(block)
        self.size += len(block)
        return self._file.write(block)

    def tell(self) -> int:
        """How much it got."""
        return self.size


def _write_layer(prepared: Path, part: _Part, blobs: Path, on_file: Callable[[str, int], None]) -> Descriptor:
    """Write a layer: a tar with names, sizes and content alone, so that equal files make equal layers."""
    partial = blobs / PARTIAL
    with partial.open("wb") as file:
        hashing = _Hashing(file)
        with tarfile.TarFile(
            fileobj=cast("BinaryIO", hashing), mode="w", format=tarfile.PAX_FORMAT, encoding="utf-8"
        ) as tar:
            for path in part.files:
                member = tarfile.TarInfo(path.relative_to(prepared).as_posix())
                member.size, member.mode = path.stat().st_size, 0o644
                with path.open("rb") as content:
                    tar.addfile(member, content)
        file.flush()
        os.fsync(file.fileno())
    digest = hashing.sha256.hexdigest()
    os.replace(partial, blobs / digest)
    on_file(f"{BLOBS}/{digest}", hashing.size)
    return Descriptor(
        mediaType=part.media_type, digest=f"sha256:{digest}", size=hashing.size, annotations=part.annotations
    )


def _write_blob(content: bytes, media_type: str, blobs: Path, on_file: Callable[[str, int], None]) -> Descriptor:
    digest = hashlib.sha256(content).hexdigest()
    write_synced(blobs / digest, content)
    on_file(f"{BLOBS}/{digest}", len(content))
    return Descriptor(mediaType=media_type, digest=f"sha256:{digest}", size=len(content))


def _referenced(layout: Path, index: Index) -> set[str]:
    found = set()
    for entry in index.manifests:
        manifest = load_manifest(layout, entry)
        found |= {entry.hex, manifest.config.hex, *(layer.hex for layer in manifest.layers)}
    return found


def _prune(layout: Path, kept: set[str]) -> None:
    """Remove other blobs than these: of a release that was replaced before the last one, or by a killed process."""
    for path in (*(layout / BLOBS).iterdir(), *layout.glob(f".*{PARTIAL}")):
        if path.name not in kept and is_ours(layout, path) and not path.is_dir():
            path.unlink()
