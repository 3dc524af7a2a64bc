from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from phiforge import errors
from phiforge.packaging.layout import check_inside, load_component, load_manifest, variant_folders
from phiforge.packaging.verify import verify_package
from phiforge.packaging.write import Contents, PackagedVariant, write_package


def _contents(root: Path, *, evidence: str = "{}") -> Contents:
    model = root / "model"
    model.mkdir(exist_ok=True)
    (model / "model.onnx").write_bytes(b"onnx")
    (model / "genai_config.json").write_text("{}")
    licence = root / "LICENSE"
    licence.write_text("MIT")
    variant = PackagedVariant(
        name="cpu-int4",
        folder=model,
        sha256="0" * 64,
        provider="cpu",
        device="cpu",
        metadata={"bytes": 4},
        build={"plan.json": "{}", "profiles/cpu-x64.json": "{}"},
        evidence={"drift.json": evidence},
    )
    return Contents(
        name="nano",
        version="1",
        description="a model",
        licences=[licence],
        variants=[variant],
        reports={"cpu-x64": {"report.md": "# report"}},
        metadata={},
    )


@pytest.fixture
def package(tmp_path: Path) -> Path:
    folder = tmp_path / "nano.ortpackage"
    folder.mkdir()
    write_package(_contents(tmp_path), folder)
    return folder


def test_layout_is_the_onnx_runtime_one(package: Path) -> None:
    manifest = json.loads((package / "manifest.json").read_text())
    assert manifest["schema_version"] == "1.0"
    assert manifest["components"] == {"model": "models/model"}
    variant = load_component(package).variants["cpu-int4"]
    assert (variant.ep, variant.device) == ("CPUExecutionProvider", "cpu")
    assert variant_folders(package)["cpu-int4"] == package / "models/model/cpu-int4"
    assert not (package / "genai_config.json").exists()


def test_untouched_package_verifies(package: Path) -> None:
    assert verify_package(package).files == len([p for p in package.rglob("*") if p.is_file()]) - 1


def test_changed_byte_is_found(package: Path) -> None:
    (package / "models/model/cpu-int4/model.onnx").write_bytes(b"onnX")
    with pytest.raises(errors.PackageTamperedError) as caught:
        verify_package(package)
    assert caught.value.why == "changed: models/model/cpu-int4/model.onnx"


def test_missing_and_added_files_are_found(package: Path) -> None:
    (package / "LICENSE").unlink()
    (package / "models" / "extra.bin").write_bytes(b"")
    with pytest.raises(errors.PackageTamperedError) as caught:
        verify_package(package)
    assert caught.value.why == "added: models/extra.bin; missing: LICENSE"


def test_a_link_is_not_the_file_it_points_to(package: Path, tmp_path: Path) -> None:
    file = package / "LICENSE"
    file.unlink()
    file.symlink_to(tmp_path / "LICENSE")
    with pytest.raises(errors.PackageTamperedError, match="not as they were sealed"):
        verify_package(package)


def test_evidence_does_not_change_what_the_package_is(tmp_path: Path) -> None:
    hashes = []
    for index, evidence in enumerate(("{}", '{"t": 1}')):
        folder = tmp_path / f"p{index}"
        folder.mkdir()
        hashes.append(write_package(_contents(tmp_path, evidence=evidence), folder))
    assert hashes[0] == hashes[1]


def test_tied_variants_are_refused(tmp_path: Path) -> None:
    contents = _contents(tmp_path)
    twin = replace(contents.variants[0], name="other")
    folder = tmp_path / "p"
    folder.mkdir()
    with pytest.raises(ValueError, match="tie"):
        write_package(replace(contents, variants=[*contents.variants, twin]), folder)


@pytest.mark.parametrize("path", ["../x", "/etc/passwd", "a/../../x", "C:/x", "a\\b", ""])
def test_paths_that_leave_the_package_are_refused(path: str) -> None:
    with pytest.raises(errors.UnsafePathError):
        check_inside(path)


@given(st.text(alphabet="abc./\\:", max_size=12))
def test_an_accepted_path_stays_inside(path: str) -> None:
    try:
        accepted = check_inside(path)
    except errors.UnsafePathError:
        return
    root = Path("/package")
    assert (root / accepted).resolve().is_relative_to(root)


def test_manifest_with_unknown_key_is_refused(package: Path) -> None:
    path = package / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"surprise": 1}))
    with pytest.raises(errors.PackageInvalidError, match="no phiforge package"):
        load_manifest(package)


def test_traversal_in_sums_is_refused(package: Path) -> None:
    with (package / "SHA256SUMS").open("a") as file:
        file.write(f"{'0' * 64}  ../outside\n")
    with pytest.raises(errors.UnsafePathError):
        verify_package(package)
