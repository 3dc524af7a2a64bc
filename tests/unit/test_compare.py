"""What `compare` is held against: an earlier package of the same model, or the one in a release."""

from __future__ import annotations

from pathlib import Path

import pytest

from phiforge import errors
from phiforge.packaging.layout import load_manifest
from phiforge.verbs.compare import comparison_file
from phiforge.verbs.previous import open_earlier_package
from unit.packages import npu_package


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return npu_package(tmp_path_factory.mktemp("release"))


@pytest.fixture(scope="module")
def model(package: Path) -> str:
    return load_manifest(package).package_name


def test_a_package_stands_for_itself(package: Path, model: str) -> None:
    with open_earlier_package(package, model) as found:
        assert found == package


def test_another_model_is_refused(package: Path) -> None:
    with (
        pytest.raises(errors.PreviousReleaseError, match="cannot be the previous release") as caught,
        open_earlier_package(package, "phi-5"),
    ):
        pass
    assert "what is held against it is phi-5" in caught.value.why


@pytest.mark.parametrize("what", ["absent", "empty", "two", "file"])
def test_what_holds_no_package_is_refused(tmp_path: Path, what: str) -> None:
    path = tmp_path / what
    if what == "file":
        path.write_text("", encoding="utf-8")
    elif what != "absent":
        path.mkdir()
    if what == "two":
        (path / "a.ortpackage").mkdir()
        (path / "b.ortpackage").mkdir()
    with (
        pytest.raises(errors.PreviousReleaseError, match="is no release on disk") as caught,
        open_earlier_package(path, "phi-4-nano"),
    ):
        pass
    assert "release.json" in caught.value.why


def test_the_evidence_is_named_after_the_profile() -> None:
    assert comparison_file("cpu-x64") == "comparison-cpu-x64.json"
