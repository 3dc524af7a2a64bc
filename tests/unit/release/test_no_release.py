"""What a release is refused with where a package is wanted, and what is named in its place."""

from __future__ import annotations

import shlex
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from phiforge import errors
from phiforge.cli.app import app
from phiforge.release.layout import EVIDENCE
from phiforge.verbs.report import report
from unit.release.conftest import real_report
from unit.release.packages import NPU, make_package

MANY = ("", "hf:", "oci:")


def release(package: Path, to: str) -> None:
    given = ["release", package, "--first", "--unsigned", "--waive", f"{NPU}=no device yet", "--to", to]
    found = CliRunner().invoke(app, [str(argument) for argument in given])
    assert found.exit_code == 0, found.output


@pytest.mark.parametrize("form", MANY)
def test_a_report_over_a_release_names_what_to_give(form: str, tmp_path: Path) -> None:
    package, out = make_package(tmp_path / "new"), tmp_path / "a release"
    release(package, f"{form}{out}")
    with pytest.raises(errors.PackageInvalidError) as found:
        report([out], output=tmp_path / "report")
    assert found.value.what == f"{out} is a release, and a report is made over packages."
    if form == "oci:":
        assert found.value.fix == "Give the package that was released."
        return
    read, command = found.value.fix.split("`")[:2]
    assert Path(read.removeprefix("Read ").partition(", or ")[0]).is_file()
    words = shlex.split(command)
    assert words[:2] == ["phiforge", "report"]
    assert CliRunner().invoke(app, [*words[1:], "-o", str(tmp_path / "report")]).exit_code in (0, 3, 4)


def test_the_evidence_of_a_release_is_named_with_its_package(tmp_path: Path) -> None:
    package, out = make_package(tmp_path / "new"), tmp_path / "out"
    release(package, str(out))
    (out / EVIDENCE).mkdir(exist_ok=True)
    (out / EVIDENCE / "a phone.json").write_text("{}", encoding="utf-8")
    with pytest.raises(errors.PackageInvalidError) as found:
        report([out], output=tmp_path / "report")
    assert f"--evidence '{out / EVIDENCE / 'a phone.json'}'" in found.value.fix


def test_a_package_is_taken_and_named_as_it_was_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = make_package(tmp_path / "new")
    shutil.copytree(package, tmp_path / "here" / package.name)
    monkeypatch.chdir(tmp_path / "here")
    given = Path("..") / "here" / package.name
    (entry, *_) = report([given], output=tmp_path / "report").fleet.entries
    assert (entry.package, entry.path) == (package.name, str(given))
    assert f"phiforge bench {given} --target {NPU}" in (tmp_path / "report" / "report.md").read_text(encoding="utf-8")


def test_the_report_in_a_release_says_no_path_of_this_machine(tmp_path: Path) -> None:
    package = make_package(tmp_path / "new")
    real_report(package, ())
    for name in ("report.json", "report.md", "report.html"):
        assert str(tmp_path) not in (package.parent / name).read_text(encoding="utf-8")
    told = (package.parent / "report.md").read_text(encoding="utf-8")
    assert f"phiforge bench {package.name} --target {NPU}" in told


def test_a_refused_release_names_the_verb_that_works(tmp_path: Path) -> None:
    package = make_package(tmp_path / "the new")
    found = CliRunner().invoke(app, ["release", str(package), "--first", "--unsigned", "--to", str(tmp_path / "out")])
    assert isinstance(found.exception, errors.ReleaseRefusedError)
    assert f"`phiforge bench '{package}' --target {NPU}`" in found.exception.fix
    assert "phiforge measure" not in found.exception.fix
