"""The OCI layout: valid by the specification, one layer a variant, and no byte of it can change unseen."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from pathlib import Path
from typing import Any

import jsonschema  # type: ignore[import-untyped]
import pytest

from phiforge import errors
from phiforge.hashing import hash_files
from phiforge.release.destinations import check_destination, open_release, parse_destination, publish
from phiforge.verbs.verify import verify
from unit.release.destinations.releases import MODEL, VARIANTS, make_release, seal, unchecked

# The rules of the OCI image specification 1.1 (image-layout.md, image-index.md, manifest.md, descriptor.md).
MEDIA_TYPE = {
    "type": "string",
    "pattern": r"^[A-Za-z0-9][A-Za-z0-9!#$&^_.+-]{0,126}/[A-Za-z0-9][A-Za-z0-9!#$&^_.+-]{0,126}$",
}
DESCRIPTOR = {
    "type": "object",
    "required": ["mediaType", "digest", "size"],
    "properties": {
        "mediaType": MEDIA_TYPE,
        "artifactType": MEDIA_TYPE,
        "digest": {"type": "string", "pattern": r"^[a-z0-9]+(?:[+._-][a-z0-9]+)*:[a-zA-Z0-9=_-]+$"},
        "size": {"type": "integer", "minimum": 0},
        "annotations": {"type": "object", "additionalProperties": {"type": "string"}},
    },
}
MANIFEST = {
    "type": "object",
    "required": ["schemaVersion", "config", "layers"],
    "properties": {
        "schemaVersion": {"const": 2},
        "mediaType": {"const": "application/vnd.oci.image.manifest.v1+json"},
        "artifactType": MEDIA_TYPE,
        "config": DESCRIPTOR,
        "layers": {"type": "array", "items": DESCRIPTOR, "minItems": 1},
        "annotations": DESCRIPTOR["properties"]["annotations"],  # type: ignore[index]
    },
}
INDEX = {
    "type": "object",
    "required": ["schemaVersion", "manifests"],
    "properties": {
        "schemaVersion": {"const": 2},
        "mediaType": {"const": "application/vnd.oci.image.index.v1+json"},
        "manifests": {"type": "array", "items": DESCRIPTOR},
    },
}
# CNCF ModelPack, docs/config.md: what a model's config must have.
CONFIG = {
    "type": "object",
    "required": ["descriptor", "config", "modelfs"],
    "properties": {
        "descriptor": {"type": "object"},
        "config": {"type": "object"},
        "modelfs": {
            "type": "object",
            "required": ["type", "diffIds"],
            "properties": {"type": {"const": "layers"}, "diffIds": {"type": "array", "minItems": 1}},
        },
    },
}


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.fsync", lambda descriptor: None)


@pytest.fixture
def prepared(tmp_path: Path) -> Path:
    return make_release(tmp_path / "prepared", "2.0")


@pytest.fixture
def layout(prepared: Path, tmp_path: Path) -> Path:
    return put(prepared, tmp_path / "layout")


def put(prepared: Path, layout: Path, tag: str = "") -> Path:
    destination = parse_destination(f"oci:{layout}{tag}")
    check_destination(destination, MODEL)
    publish(prepared, destination, check=lambda: check_destination(destination, MODEL), seal=seal)
    return layout


def read(layout: Path, digest: str) -> Any:
    return json.loads((layout / "blobs" / "sha256" / digest.removeprefix("sha256:")).read_bytes())


def only_manifest(layout: Path) -> Any:
    (entry,) = json.loads((layout / "index.json").read_bytes())["manifests"]
    return read(layout, entry["digest"])


def test_the_layout_is_valid(layout: Path) -> None:
    index = json.loads((layout / "index.json").read_bytes())
    jsonschema.validate(index, INDEX)
    manifest = only_manifest(layout)
    jsonschema.validate(manifest, MANIFEST)
    jsonschema.validate(read(layout, manifest["config"]["digest"]), CONFIG)
    assert json.loads((layout / "oci-layout").read_bytes()) == {"imageLayoutVersion": "1.0.0"}
    assert index["manifests"][0]["annotations"] == {"org.opencontainers.image.ref.name": "2.0"}
    for descriptor in (*index["manifests"], manifest["config"], *manifest["layers"]):
        content = (layout / "blobs" / "sha256" / descriptor["digest"].removeprefix("sha256:")).read_bytes()
        assert (descriptor["size"], descriptor["digest"]) == (
            len(content),
            f"sha256:{hashlib.sha256(content).hexdigest()}",
        )


def test_one_layer_is_one_variant(layout: Path, prepared: Path) -> None:
    layers = {layer["annotations"].get("phiforge.variant"): layer for layer in only_manifest(layout)["layers"]}
    assert set(layers) == {*VARIANTS, None}
    assert layers["webgpu-int4"]["annotations"]["phiforge.ep"] == "WebGpuExecutionProvider"
    assert layers["webgpu-int4"]["annotations"]["phiforge.device"] == "gpu"
    seen: dict[str, str] = {}
    for name, layer in layers.items():
        blob = layout / "blobs" / "sha256" / layer["digest"].removeprefix("sha256:")
        with tarfile.open(blob) as tar:
            members = tar.getmembers()
            assert all((m.mtime, m.uid, m.gid, m.uname, m.gname, m.mode) == (0, 0, 0, "", "", 0o644) for m in members)
            assert [m.name for m in members] == sorted(m.name for m in members)
            inside = f"{MODEL}.ortpackage/models/model/{name}/"
            assert all(m.name.startswith(inside) for m in members) or name is None
            seen |= {m.name: hashlib.sha256(tar.extractfile(m).read()).hexdigest() for m in members}  # type: ignore[union-attr]
    assert seen == hash_files(prepared)


def test_the_same_release_makes_the_same_bytes(layout: Path, prepared: Path, tmp_path: Path) -> None:
    for path in prepared.rglob("*"):
        if path.is_file():
            path.chmod(0o600)
            path.touch()

    assert hash_files(put(prepared, tmp_path / "again")) == hash_files(layout)


def test_tags_stand_side_by_side(layout: Path, prepared: Path, tmp_path: Path) -> None:
    put(make_release(tmp_path / "next", "3.0"), layout)
    put(prepared, layout, ":stable")
    for tag, version in (("2.0", "2.0"), ("3.0", "3.0"), ("stable", "2.0")):
        with open_release(Path(f"oci:{layout}:{tag}")) as folder:
            assert json.loads((folder / "release.json").read_bytes())["version"] == version
    with open_release(layout) as folder:
        assert hash_files(folder) == hash_files(prepared)
    with (
        pytest.raises(errors.PreviousReleaseError, match="no release on disk") as caught,
        open_release(Path(f"oci:{layout}:9")),
    ):
        pass
    assert "2.0, 3.0, stable" in caught.value.why


def test_what_was_replaced_stays_for_its_readers_until_the_next_publication(layout: Path, tmp_path: Path) -> None:
    def blobs() -> set[str]:
        return {name for name in hash_files(layout) if name.startswith("blobs/")}

    generations = [blobs()]
    for version in ("3.0", "4.0"):
        before = blobs()
        (layout / "blobs" / "sha256" / ".partial").write_bytes(b"half")
        put(make_release(tmp_path / version, version), layout, ":2.0")
        generations.append(blobs() - before)
    assert blobs() == generations[1] | generations[2]
    with open_release(layout) as folder:
        assert json.loads((folder / "release.json").read_bytes())["version"] == "4.0"
    (layout / "index.json").write_bytes(_index_of(layout, generations[1]))
    with open_release(layout) as folder:
        assert json.loads((folder / "release.json").read_bytes())["version"] == "3.0"


STRANGE = ("mine.txt", "F" * 64, "f" * 63, "mine.partial", f"{'f' * 64}/mine.txt", "folder/mine.txt")


@pytest.mark.parametrize("name", STRANGE)
def test_a_stranger_among_the_blobs_is_named_and_stays(name: str, layout: Path, tmp_path: Path) -> None:
    path = layout / "blobs" / "sha256" / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(b"mine")
    with pytest.raises(errors.DestinationError) as caught:
        put(make_release(tmp_path / "next", "3.0"), layout)
    assert f"No release brought blobs/sha256/{name}" in caught.value.why
    assert f"added: blobs/sha256/{name}" in refusal(layout)
    for version in ("3.0", "4.0"):
        destination = parse_destination(f"oci:{layout}")
        publish(make_release(tmp_path / f"p-{version}", version), destination, check=unchecked, seal=seal)
    assert path.read_bytes() == b"mine"


@pytest.mark.parametrize("name", [".partial", f".{'f' * 64}.partial", "f" * 64])
def test_what_a_killed_publication_left_is_no_stranger(name: str, layout: Path, tmp_path: Path) -> None:
    (layout / "blobs" / "sha256" / name).write_bytes(b"half")
    put(make_release(tmp_path / "next", "3.0"), layout)
    assert not (layout / "blobs" / "sha256" / name).exists()


def _index_of(layout: Path, blobs: set[str]) -> bytes:
    """The index again that names the manifest among these blobs."""
    index = json.loads((layout / "index.json").read_bytes())
    for name in blobs:
        content = (layout / name).read_bytes()
        if content.startswith(b'{"annotations"') and b"image.manifest" in content:
            index["manifests"][0] |= {"digest": f"sha256:{name.rpartition('/')[2]}", "size": len(content)}
    return (json.dumps(index, sort_keys=True, separators=(",", ":")) + "\n").encode()


def refusal(layout: Path) -> str:
    """Open a release that must be refused; gives the reason."""
    with pytest.raises(errors.PackageTamperedError) as caught, open_release(layout):
        pass
    return caught.value.why


def test_no_byte_can_change_unseen(layout: Path) -> None:
    for path in sorted(path for path in layout.rglob("*") if path.is_file()):
        content = path.read_bytes()
        step = 1 if path.parent == layout else max(40, len(content) // 3)
        for position in range(0, len(content), step):
            for changed in (content[position] ^ 1, content[position] ^ 0x80):
                path.write_bytes(content[:position] + bytes([changed]) + content[position + 1 :])
                why = refusal(layout)
                assert path.name in why or path.name == "index.json", (path, position, why)
        path.write_bytes(content)
    with open_release(layout):
        pass


@pytest.mark.parametrize("action", ["cut", "remove", "add", "link", "add a blob"])
def test_no_file_can_come_or_go_unseen(action: str, layout: Path) -> None:
    for path in sorted(path for path in layout.rglob("*") if path.is_file() and path.name != "oci-layout"):
        content = path.read_bytes()
        named = path.name
        if action == "cut":
            path.write_bytes(content[:-1])
        elif action == "remove":
            path.unlink()
        elif action == "add a blob":
            (path.parent / ("f" * 64)).write_bytes(b"x")
            named = "f" * 64
        elif action == "add":
            (path.parent / "added.txt").write_bytes(b"x")
            named = "added.txt"
        else:
            path.rename(layout.parent / "elsewhere")
            path.symlink_to(layout.parent / "elsewhere")
        assert named in refusal(layout) or path.name == "index.json"
        path.unlink(missing_ok=True)
        (path.parent / named).unlink(missing_ok=True)
        path.write_bytes(content)
    with open_release(layout):
        pass


def test_a_lost_layer_is_named_by_its_variant(layout: Path) -> None:
    layer = next(x for x in only_manifest(layout)["layers"] if x["annotations"].get("phiforge.variant") == "cpu-int4")
    (layout / "blobs" / "sha256" / layer["digest"].removeprefix("sha256:")).unlink()

    assert "cpu-int4.tar of 2.0" in refusal(layout)


def write_index(layout: Path, index: object) -> None:
    text = json.dumps(index, sort_keys=True, separators=(",", ":"))
    (layout / "index.json").write_text(f"{text}\n", encoding="utf-8", newline="\n")


def evil_layout(layout: Path, member: tarfile.TarInfo, content: bytes = b"") -> None:
    """Replace the last layer by one with this member, with every digest right."""
    index = json.loads((layout / "index.json").read_bytes())
    manifest = only_manifest(layout)
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for _ in range(2 if member.name == "twice" else 1):
            tar.addfile(member, io.BytesIO(content))

    def store(data: bytes) -> dict[str, Any]:
        digest = hashlib.sha256(data).hexdigest()
        (layout / "blobs" / "sha256" / digest).write_bytes(data)
        return {"digest": f"sha256:{digest}", "size": len(data)}

    manifest["layers"][-1] |= store(buffer.getvalue())
    index["manifests"][0] |= store(json.dumps(manifest).encode())
    write_index(layout, index)


@pytest.mark.parametrize("name", ["../up.txt", "/etc/up.txt", "a/../../up.txt", "nul", "a\\b"])
def test_a_layer_cannot_write_elsewhere(name: str, layout: Path) -> None:
    evil_layout(layout, tarfile.TarInfo(name))

    with pytest.raises(errors.UnsafePathError), open_release(layout):
        pass


@pytest.mark.parametrize(
    "kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.DIRTYPE, tarfile.CHRTYPE, "twice"]
)
def test_a_layer_holds_files_alone_and_each_once(kind: Any, layout: Path) -> None:
    member = tarfile.TarInfo("twice" if kind == "twice" else "link")
    if kind != "twice":
        member.type, member.linkname = kind, "/etc/passwd"
    evil_layout(layout, member)

    assert "something else than a file" in refusal(layout)


def test_what_is_no_tar(layout: Path) -> None:
    index = json.loads((layout / "index.json").read_bytes())
    manifest = only_manifest(layout)
    for target, data in ((manifest["layers"][-1], b"no tar at all" * 100), (index["manifests"][0], None)):
        data = data if data is not None else json.dumps(manifest).encode()
        digest = hashlib.sha256(data).hexdigest()
        (layout / "blobs" / "sha256" / digest).write_bytes(data)
        target |= {"digest": f"sha256:{digest}", "size": len(data)}
    write_index(layout, index)

    assert "which is no tar" in refusal(layout)


def test_a_damaged_layout_takes_no_release(layout: Path, prepared: Path) -> None:
    (layout / "index.json").write_bytes(b"{}")

    with pytest.raises(errors.DestinationError, match="cannot go"):
        check_destination(parse_destination(f"oci:{layout}"), MODEL)


def test_a_layout_that_lost_its_mark_is_said_to_have_lost_it(layout: Path) -> None:
    (layout / "oci-layout").unlink()
    with pytest.raises(errors.PackageTamperedError) as caught:
        verify(layout)
    assert caught.value.why == "missing: oci-layout"


def test_a_manifest_that_is_not_there_may_be_the_index_s_fault(layout: Path) -> None:
    index = (layout / "index.json").read_text(encoding="utf-8")
    digit = index.index("sha256:") + 7
    (layout / "index.json").write_text(index[:digit] + "0f"[index[digit] == "0"] + index[digit + 1 :], encoding="utf-8")
    assert "by index.json" in refusal(layout)
