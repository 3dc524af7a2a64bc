from __future__ import annotations

from pathlib import Path

from typer.testing import CliRunner, Result

from phiforge import errors
from phiforge.cli.app import app
from unit.release.conftest import KeyPair
from unit.release.packages import CPU, NPU, make_package


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_a_release_is_shown_published_and_verified(tmp_path: Path, keys: KeyPair) -> None:
    package, out = make_package(tmp_path / "new"), tmp_path / "out"
    waiver = f"{NPU}=no device [bold]yet[/]"
    found = run(
        "release", package, "--first", "--to", out, "--key", keys.private, "--waive", waiver, "--version", "1.2"
    )
    assert found.exit_code == 0, found.output
    for said in (
        "nano 1.2, content ",
        "nothing: the first release",
        f"{CPU}: pass, variant cpu-int4",
        "Waived for npu-test: ttft_p50_ms_max. no device [bold]yet[/]",
        "Published: ",
        f"folder:{out}",
    ):
        assert said in found.output, found.output
    assert run("verify", out, "--key", keys.public).exit_code == 0
    unchecked = run("verify", out)
    assert unchecked.exit_code == 4
    assert "was not checked" in unchecked.output


def test_a_dry_run_lists_the_files(tmp_path: Path) -> None:
    package = make_package(tmp_path / "new")
    found = run("release", package, "--first", "--to", tmp_path / "out", "--unsigned", "--require", CPU, "--dry-run")
    assert found.exit_code == 0, found.output
    assert "nano.ortpackage/LICENSE" in found.output
    assert "Dry run, nothing was written." in found.output
    assert "It is not signed" in found.output
    assert not (tmp_path / "out").exists()


def test_what_is_refused_is_shown_first(tmp_path: Path) -> None:
    found = run("release", make_package(tmp_path / "new"), "--first", "--to", tmp_path / "out", "--unsigned")
    assert isinstance(found.exception, errors.ReleaseRefusedError)
    assert f"{NPU}: unverified" in found.output


def test_it_must_be_said_who_signs_and_whose_signature_is_meant(tmp_path: Path, keys: KeyPair) -> None:
    package = make_package(tmp_path / "new")
    for signers in ([], ["--unsigned", "--keyless"], ["--key", keys.private, "--unsigned"]):
        assert run("release", package, "--first", "--to", tmp_path / "out", *signers).exit_code == 2
    for trust in (["--identity", "x"], ["--key", keys.public, "--identity", "x", "--identity-provider", "y"]):
        assert run("verify", package, *trust).exit_code == 2
