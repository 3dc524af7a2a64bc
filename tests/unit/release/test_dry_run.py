"""A dry run writes nothing, shows every path whole, and refuses what the real run would; -q leaves out the plan."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest
from typer.testing import CliRunner

from phiforge import errors
from phiforge.cli.app import app
from phiforge.hashing import hash_files
from phiforge.release.destinations import check_destination, parse_destination
from unit.release.packages import CPU, NPU, make_package

if TYPE_CHECKING:
    from pathlib import Path

FORMS = ("", "hf:", "oci:", "foundry:")


def release(package: Path, *arguments: object) -> str:
    given = ["release", package, "--first", "--unsigned", "--waive", f"{NPU}=no device yet", *arguments]
    found = CliRunner().invoke(app, [str(argument) for argument in given], env={"COLUMNS": "40"})
    if found.exception is not None and not isinstance(found.exception, SystemExit):
        raise found.exception
    assert found.exit_code == 0, found.output
    return found.output


@pytest.mark.parametrize("form", FORMS[:3])
def test_each_file_is_one_line(form: str, tmp_path: Path) -> None:
    package = make_package(tmp_path / "new")
    told = release(package, "--to", f"{form}{tmp_path / 'out'}", "--dry-run")
    release(package, "--to", f"{form}{tmp_path / 'out'}")
    rows = [line.split(maxsplit=4) for line in told.splitlines() if line.startswith("add ")]
    written = {name: (tmp_path / "out" / name).stat().st_size for name in hash_files(tmp_path / "out")}
    assert {row[4]: int(row[1].replace(",", "")) for row in rows} == written
    assert all(len(row[3]) == 12 for row in rows)


@pytest.mark.parametrize("dry", [False, True])
def test_quiet_says_only_what_came_of_it(dry: bool, tmp_path: Path) -> None:
    package = make_package(tmp_path / "new")
    arguments = ["--to", tmp_path / "out", *(["--dry-run"] if dry else [])]
    told, quiet = release(package, *arguments), release(package, *arguments, "-q")
    for plan in ("Held against", "Waived for", f"{CPU}: pass"):
        assert plan in told and plan not in quiet
    assert ("Would publish: " if dry else "Published: ") in quiet


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("place", ["file", "file/x", "file/x/y"])
def test_what_the_real_run_refuses_the_dry_run_does(form: str, place: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    told = []
    for dry_run in (False, True):
        with pytest.raises(errors.PhiforgeError) as found:
            check_destination(parse_destination(f"{form}{tmp_path / place}"), "nano", dry_run=dry_run)
        told.append((type(found.value), found.value.what, found.value.why))
    assert told[0] == told[1]


@pytest.mark.parametrize("unnamed", [True, False])
def test_a_folder_without_permission_is_refused_and_none_is_touched(
    unnamed: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not unnamed:
        monkeypatch.delattr(os, "O_TMPFILE", raising=False)
    before = tmp_path.stat().st_mtime_ns
    check_destination(parse_destination(str(tmp_path / "out")), "nano", dry_run=True)
    assert (tmp_path.stat().st_mtime_ns, list(tmp_path.iterdir())) == (before, [])

    def refused(*arguments: object) -> int:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "open", refused)
    monkeypatch.setattr(os, "access", lambda *arguments: False)
    with pytest.raises(errors.OutputUnwritableError, match="cannot be written"):
        check_destination(parse_destination(str(tmp_path / "out")), "nano", dry_run=True)


def test_of_the_hub_it_says_that_nothing_was_asked(tmp_path: Path) -> None:
    package = make_package(tmp_path / "new")
    told = release(package, "--to", "hf://someone/nano", "--to", f"hf:{tmp_path / 'out'}", "--dry-run", "-q")
    lines = told.splitlines()
    (number,) = (number for number, line in enumerate(lines) if line.startswith("What is there was not asked: "))
    assert lines[number - 1].endswith(", hf://someone/nano")
