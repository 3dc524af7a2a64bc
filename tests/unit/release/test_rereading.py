"""Another release takes the place of one while it is read: the reader gets the one or the other, and no false alarm."""

from __future__ import annotations

import contextlib
import functools
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from filelock import FileLock

from phiforge import errors
from phiforge.hashing import hash_file
from phiforge.packaging.verify import Verification, verify_package
from phiforge.release.destinations import (
    check_destination,
    destination,
    disk,
    existing,
    parse_destination,
    publish,
    rereading,
)
from phiforge.release.prepare import seal
from phiforge.release.signing import Signer, Trust
from phiforge.verbs import previous
from phiforge.verbs import release as release_verb
from phiforge.verbs.previous import open_earlier_package, open_previous
from phiforge.verbs.release import ReleaseOptions, release
from phiforge.verbs.report import report
from phiforge.verbs.verify import verify
from unit.release.conftest import KeyPair, make_keys, plain_report
from unit.release.packages import Made, make_package

OPENINGS = ("open", "os.scandir", "os.listdir")


@dataclass
class Interruption:
    """Something that happens once, before a file or folder is opened for the n-th time."""

    number: int = -1
    work: Callable[[], object] = field(default=lambda: None)
    count: int = 0
    busy: bool = False

    def __call__(self, event: str, arguments: tuple[object, ...]) -> None:
        if self.number < 0 or self.busy or event not in OPENINGS:
            return
        self.count += 1
        if self.count > self.number:
            self.busy, self.number = True, -1
            self.work()


@pytest.fixture(scope="module")
def interruption() -> Interruption:
    found = Interruption()
    sys.addaudithook(found)
    return found


@contextlib.contextmanager
def interrupted(interruption: Interruption, number: int, work: Callable[[], object]) -> Iterator[None]:
    interruption.number, interruption.work, interruption.count, interruption.busy = number, work, 0, False
    try:
        yield
    finally:
        interruption.number = -1


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> KeyPair:
    return make_keys(tmp_path_factory.mktemp("keys"))


@pytest.fixture(scope="module")
def prepared(pair: KeyPair, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Three releases of one model, of different files."""
    folder = tmp_path_factory.mktemp("prepared")
    found = []
    for name in ("1.0", "2.0", "3.0"):
        package = make_package(folder / name, Made(weights=name.encode()))
        options = ReleaseOptions(
            destinations=(str(folder / f"out-{name}"),),
            first=True,
            version=name,
            signer=Signer(form="key", key=pair.private),
        )
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(release_verb, "_write_report", plain_report)
            patch.setattr(release_verb, "_refusing", lambda checked, profile: [])
            release(package, options)
        found.append(folder / f"out-{name}")
    return found


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.fsync", lambda descriptor: None)
    monkeypatch.setattr(rereading, "_PAUSE_S", 0.0)


def put(release_folder: Path, place: str, pair: KeyPair) -> None:
    goal = parse_destination(place)
    check = functools.partial(check_destination, goal, "nano")
    check()
    signer = Signer(form="key", key=pair.private)
    publish(release_folder, goal, check=check, seal=lambda folder: seal(folder, signer))


def counted(interruption: Interruption, read: Callable[[], object]) -> int:
    with interrupted(interruption, sys.maxsize, lambda: None):
        read()
        return interruption.count


@pytest.mark.parametrize(
    ("form", "times", "step", "exchange"),
    [
        ("folder", 1, 7, True),
        ("folder", 2, 17, True),
        ("folder", 1, 17, False),
        ("hf", 1, 29, True),
        ("foundry", 1, 13, True),
        ("oci", 1, 11, True),
        ("oci", 2, 5, True),
    ],
)
def test_verify_is_told_of_one_release_whenever_another_takes_its_place(
    prepared: list[Path], pair: KeyPair, tmp_path: Path, interruption: Interruption, monkeypatch: pytest.MonkeyPatch,
    form: str, times: int, step: int, exchange: bool,
) -> None:  # fmt: skip
    if not exchange:
        monkeypatch.setattr(disk, "exchange", lambda first, second: False)
    if form == "foundry":
        monkeypatch.setattr("phiforge.release.destinations.foundry.chat_pieces", lambda folder: Pieces())
    place = f"{form}:{tmp_path / 'out'}" + (":stable" if form == "oci" else "")
    trust = Trust(key=pair.public)

    def read() -> object:
        return verify(tmp_path / "out", trust=trust)

    put(prepared[0], place, pair)
    total = counted(interruption, read)
    assert total > 30
    versions = set()
    for number in range(0, total, step):
        shutil.rmtree(tmp_path / "out")
        put(prepared[0], place, pair)

        def replace() -> None:
            for again in prepared[1 : 1 + times]:
                put(again, place, pair)

        with interrupted(interruption, number, replace):
            found = verify(tmp_path / "out", trust=trust)
        assert interruption.busy, number
        assert found.signature == "verified"
        assert found.release is not None
        versions.add(found.release.version)
    # What was read of a layout holds although another came; a folder is read again.
    assert versions == {f"{1 + times}.0", *(("1.0",) if form == "oci" else ())}


@pytest.mark.parametrize("what", ["out", "out/nano.ortpackage"])
def test_verify_waits_where_a_release_is_replaced_in_two_steps(
    prepared: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    """Between the two renames there is nothing at the release's name."""
    out, work = tmp_path / "out", tmp_path / ".out.publishing"
    shutil.copytree(prepared[0], work / "new")
    (work / "replacing").touch()
    publisher = FileLock(work / "lock")
    publisher.acquire()

    def finish(seconds: float) -> None:
        if seconds and (work / "replacing").exists():
            (work / "new").rename(out)
            (work / "replacing").unlink()
            publisher.release()

    monkeypatch.setattr("time.sleep", finish)
    monkeypatch.setattr(rereading, "_PAUSE_S", 1e-9)
    assert verify(tmp_path / what).files > 0


@dataclass(frozen=True)
class Pieces:
    """In the place of a chat template's."""

    system: str = "{Content}"


def test_a_release_that_is_replaced_each_time_is_said_to_be(
    prepared: list[Path], pair: KeyPair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(prepared[0], str(tmp_path / "out"), pair)
    reads = 0

    def busy(*_: object, **__: object) -> None:
        nonlocal reads
        reads += 1
        put(prepared[reads % 2], str(tmp_path / "out"), pair)

    monkeypatch.setattr("phiforge.verbs.verify.check_signature", busy)
    with pytest.raises(errors.OutputLockedError, match="was replaced while it was read"):
        verify(tmp_path / "out")
    assert reads == rereading.READS_MAX


@pytest.mark.parametrize("what", ["package", "release"])
def test_files_that_go_while_they_are_read_are_named_without_a_traceback(
    prepared: list[Path], tmp_path: Path, interruption: Interruption, what: str
) -> None:
    path = tmp_path / "out"
    inside = path / "nano.ortpackage" if what == "package" else path
    shutil.copytree(prepared[0], path)
    total = counted(interruption, lambda: verify(inside))
    for number in range(0, total, 11):
        shutil.rmtree(path, ignore_errors=True)
        shutil.copytree(prepared[0], path)
        with (
            interrupted(interruption, number, lambda: shutil.rmtree(inside)),
            contextlib.suppress(errors.PhiforgeError),
        ):
            verify(inside)
        assert interruption.busy


def test_a_file_that_goes_alone_is_no_publication(
    prepared: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(prepared[0], tmp_path / "out")

    def gone(*_: object, **__: object) -> None:
        raise FileNotFoundError(2, "No such file or directory", "evidence/x.json")

    monkeypatch.setattr("phiforge.verbs.verify.check_bill", gone)
    with pytest.raises(errors.PackageTamperedError) as caught:
        verify(tmp_path / "out")
    assert caught.value.why == "evidence/x.json: No such file or directory."


@pytest.mark.parametrize("form", ["folder", "oci"])
def test_a_previous_release_that_is_replaced_is_one_or_the_other_or_said_to_be(
    prepared: list[Path], pair: KeyPair, tmp_path: Path, interruption: Interruption, form: str
) -> None:
    out = tmp_path / "out"

    def read() -> str:
        with open_previous(out, "nano", Trust()) as found:
            return found.facts.version

    put(prepared[0], f"{form}:{out}", pair)
    total = counted(interruption, read)
    seen = set()
    for number in range(0, total, 11):
        shutil.rmtree(out)
        put(prepared[0], f"{form}:{out}", pair)
        with interrupted(interruption, number, lambda: put(prepared[1], f"{form}:{out}", pair)):
            try:
                seen.add(read())
            except errors.OutputLockedError as error:
                seen.add(error.what)
        assert interruption.busy
    assert seen <= {"1.0", "2.0", f"{out} was replaced while it was read."}
    assert len(seen) > 1


def test_a_previous_release_that_is_replaced_while_it_is_used_is_said_to_be(
    prepared: list[Path], pair: KeyPair, tmp_path: Path
) -> None:
    for path in ("out", "out/nano.ortpackage"):
        put(prepared[0], str(tmp_path / "out"), pair)
        for opened in (open_previous(tmp_path / path, "nano", Trust()), open_earlier_package(tmp_path / path, "nano")):
            with pytest.raises(errors.OutputLockedError, match="was replaced while it was read"), opened:
                put(prepared[1], str(tmp_path / "out"), pair)


def test_what_may_be_replaced_is_asked_of_one_release(
    prepared: list[Path], pair: KeyPair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another one comes between its release.json and its list of files."""
    put(prepared[0], str(tmp_path / "out"), pair)
    other = [prepared[1]]

    def strangers_after_another_release(folder: Path) -> list[str]:
        if other:
            put(other.pop(), str(tmp_path / "out"), pair)
        return existing.strangers(folder)

    monkeypatch.setattr(destination, "strangers", strangers_after_another_release)
    (facts,) = check_destination(parse_destination(str(tmp_path / "out")), "nano")
    assert facts.version == "2.0"


def test_a_previous_package_is_hashed_once(
    prepared: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checked = []

    def verify_counted(path: Path) -> Verification:
        checked.append(path)
        return verify_package(path)

    monkeypatch.setattr(previous, "verify_package", verify_counted)
    package = prepared[0] / "nano.ortpackage"
    with open_previous(package, "nano", Trust()) as found:
        assert found.facts.seal_sha256 == hash_file(package / "SHA256SUMS")
    assert checked == [package]


def test_a_package_that_is_replaced_while_it_is_reported_on_is_said_to_be(
    prepared: list[Path], pair: KeyPair, tmp_path: Path, interruption: Interruption
) -> None:
    package = tmp_path / "out" / "nano.ortpackage"
    put(prepared[0], str(tmp_path / "out"), pair)
    total = counted(interruption, lambda: report([package], output=tmp_path / "report"))
    said = set()
    for number in range(0, total, 23):
        another = functools.partial(put, prepared[number % 2], str(tmp_path / "out"), pair)
        with interrupted(interruption, number, another):
            try:
                report([package], output=tmp_path / "report")
            except errors.OutputLockedError as error:
                said.add(error.what)
    assert said == {f"{package} was replaced while it was read."}


def test_a_release_is_found_from_inside_and_by_a_link(
    prepared: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "link").symlink_to(prepared[0])
    monkeypatch.chdir(tmp_path / "link")
    for path in (Path(), tmp_path / "link", Path("nano.ortpackage/..")):
        found = verify(path).release
        assert found is not None
        assert found.version == "1.0"
