"""The exit codes of `verify`: that nobody signed is no better than that nobody looked who did."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from phiforge import errors
from phiforge.cli.app import app
from phiforge.release.signing import Signer
from phiforge.verbs import release as release_verb
from phiforge.verbs.release import ReleaseOptions, release
from unit.release.conftest import KeyPair
from unit.release.packages import make_package

UNVERIFIED = 4


@pytest.fixture(autouse=True)
def willing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(release_verb, "_refusing", lambda checked, profile: [])


def verified(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["verify", *map(str, arguments)])


def make(folder: Path, signer: Signer) -> Path:
    release(make_package(folder / "p"), ReleaseOptions(destinations=(str(folder / "out"),), first=True, signer=signer))
    return folder / "out"


def test_a_release_that_nobody_signed_is_unverified_unless_that_will_do(tmp_path: Path, keys: KeyPair) -> None:
    out = make(tmp_path, Signer(form="none"))
    found = verified(out)
    assert found.exit_code == UNVERIFIED
    assert "It is not signed: it is whole, and who made it cannot be told. Give --unsigned" in found.output
    found = verified(out, "--unsigned")
    assert found.exit_code == 0
    assert "It is not signed" in found.output
    assert isinstance(verified(out, "--key", keys.public).exception, errors.SignatureInvalidError)
    (out / "README.md").write_text("other", encoding="utf-8")
    assert isinstance(verified(out, "--unsigned").exception, errors.PackageTamperedError)


def test_a_signed_release_is_not_less_checked_where_an_unsigned_one_will_do(tmp_path: Path, keys: KeyPair) -> None:
    out = make(tmp_path, Signer(form="key", key=keys.private))
    for options in ([], ["--unsigned"]):
        found = verified(out, *options)
        assert found.exit_code == UNVERIFIED
        assert "Its signature was not checked" in found.output
    assert verified(out, "--key", keys.public).exit_code == 0
    assert verified(out, "--key", keys.public, "--unsigned").exit_code == 2


def test_a_signature_that_was_taken_away_does_not_make_it_better(tmp_path: Path, keys: KeyPair) -> None:
    out = make(tmp_path, Signer(form="key", key=keys.private))
    (out / "signature.json").unlink()
    record, sums = out / "release.json", out / "SHA256SUMS"
    before = hashlib.sha256(record.read_bytes()).hexdigest()
    record.write_text(
        record.read_text(encoding="utf-8").replace('"signature": "key"', '"signature": "none"'), encoding="utf-8"
    )
    after = hashlib.sha256(record.read_bytes()).hexdigest()
    sums.write_text(sums.read_text(encoding="utf-8").replace(before, after), encoding="utf-8")
    assert verified(out).exit_code == UNVERIFIED
    assert isinstance(verified(out, "--key", keys.public).exception, errors.SignatureInvalidError)


@pytest.mark.parametrize("form", ["hf", "oci"])
def test_so_it_is_in_every_form(tmp_path: Path, form: str) -> None:
    place = f"{form}:{tmp_path / 'out'}"
    release(make_package(tmp_path / "p"), ReleaseOptions(destinations=(place,), first=True))
    assert verified(tmp_path / "out").exit_code == UNVERIFIED
    assert verified(tmp_path / "out", "--unsigned").exit_code == 0


def test_a_package_is_whole_and_no_more_is_asked(tmp_path: Path) -> None:
    package = make_package(tmp_path / "p")
    assert verified(package).exit_code == 0
    assert verified(package, "--unsigned").exit_code == 0
    shutil.rmtree(package / "models")
    assert isinstance(verified(package).exception, errors.PackageTamperedError)


def test_a_name_that_no_file_can_have_is_neither(tmp_path: Path) -> None:
    for path in ("x" * 300, f"oci:{tmp_path}/{'x' * 300}:tag", "/" + "x/" * 2500):
        assert isinstance(verified(path).exception, errors.PhiforgeError), path
