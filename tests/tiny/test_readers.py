"""`verify` in one process beside publications to the same place by another: the one release or the other, no error."""

from __future__ import annotations

import json
import os
import random
import sys
import time
from pathlib import Path

import pytest

from phiforge import errors
from phiforge.release.destinations import check_destination, parse_destination, publish
from phiforge.release.prepare import seal
from phiforge.release.signing import Signer, Trust
from phiforge.verbs import release as release_verb
from phiforge.verbs.release import ReleaseOptions, release
from phiforge.verbs.verify import verify
from unit.release.conftest import KeyPair, make_keys, plain_report
from unit.release.packages import Made, make_package

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="needs fork")

VERSIONS = ("1.0", "2.0")
PUBLICATIONS = 24


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> KeyPair:
    return make_keys(tmp_path_factory.mktemp("keys"))


@pytest.fixture(scope="module")
def prepared(pair: KeyPair, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two releases of one model, of different files."""
    folder = tmp_path_factory.mktemp("prepared")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(release_verb, "_write_report", plain_report)
        patch.setattr(release_verb, "_refusing", lambda checked, profile: [])
        for version in VERSIONS:
            options = ReleaseOptions(
                destinations=(str(folder / f"out-{version}"),),
                first=True,
                version=version,
                signer=Signer(form="key", key=pair.private),
            )
            release(make_package(folder / version, Made(weights=version.encode())), options)
    return [folder / f"out-{version}" for version in VERSIONS]


@pytest.mark.parametrize("form", ["folder", "hf", "oci"])
def test_verify_beside_publications_finds_no_fault(
    form: str, prepared: list[Path], pair: KeyPair, tmp_path: Path
) -> None:
    place = parse_destination(f"{form}:{tmp_path / 'out'}" + (":stable" if form == "oci" else ""))
    stop, count, result = (tmp_path / name for name in ("stop", "count", "result"))
    count.write_bytes(b"")

    def check() -> None:
        check_destination(place, "nano")

    def put(folder: Path) -> None:
        check()
        publish(folder, place, check=check, seal=lambda other: seal(other, Signer(form="key", key=pair.private)))

    put(prepared[0])
    reader = os.fork()
    if reader == 0:
        try:
            result.write_text(json.dumps(_verify_until(stop, tmp_path / "out", pair, count)), encoding="utf-8")
        finally:
            os._exit(0)
    chance = random.Random(0)
    try:
        for turn in range(1, PUBLICATIONS + 1):
            _wait_for(count, turn)
            time.sleep(chance.uniform(0, 0.04))
            put(prepared[turn % 2])
        _wait_for(count, PUBLICATIONS + 2)
    finally:
        stop.touch()
    assert os.waitpid(reader, 0)[1] == 0
    seen = json.loads(result.read_text(encoding="utf-8"))

    assert seen["errors"] == []
    assert set(seen["versions"]) == set(VERSIONS)


def _wait_for(count: Path, number: int) -> None:
    """Wait until the reader has come to an answer so many times; on a busy machine it may be late."""
    patience = time.monotonic() + 60
    while count.stat().st_size < number and time.monotonic() < patience:
        time.sleep(0.001)


def _verify_until(stop: Path, path: Path, pair: KeyPair, count: Path) -> dict[str, list[str]]:
    """Verify until told to stop, and write a byte for each answer."""
    versions, faults = set(), []
    while not stop.exists():
        try:
            found = verify(path, trust=Trust(key=pair.public))
        except (errors.PhiforgeError, OSError) as error:
            faults.append(repr(error))
        else:
            assert found.release is not None
            assert found.signature == "verified"
            versions.add(found.release.version)
        with count.open("ab") as file:
            file.write(b".")
    return {"versions": sorted(versions), "errors": faults}
