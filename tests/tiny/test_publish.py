"""Killed while publishing: the destination holds the old release or the new one, whole, and a repeat tidies up."""

from __future__ import annotations

import functools
import hashlib
import itertools
import json
import os
import random
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

import pytest

from phiforge import errors
from phiforge.packaging.layout import SUMS
from phiforge.release.destinations import (
    check_destination,
    disk,
    oci_layout,
    open_release,
    parse_destination,
    publish,
)
from unit.release.destinations.releases import MODEL, faults, make_release, seal

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="needs fork and SIGKILL")

OLD, NEW = "1.0", "2.0"
MANY, LAST, TURNS = 100_000, 12, 16
# Everything that changes what is on the disk, so that a kill falls before each.
CHANGES = ("fsync", "rename", "replace", "unlink", "rmdir", "mkdir")


@pytest.fixture(scope="module")
def releases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("releases")
    return {version: make_release(folder / version, version) for version in (OLD, NEW)}


@pytest.fixture
def without_exchange(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disk, "exchange", lambda first, second: False)


def put(prepared: Path, text: str) -> None:
    destination = parse_destination(text)
    check_destination(destination, MODEL)
    publish(prepared, destination, check=lambda: check_destination(destination, MODEL), seal=seal)


def killed(work: Callable[[], None], *, at: int | None = None, after_s: float | None = None) -> bool:
    """Do some work in a process of its own that is killed before its n-th change, or after a time; says whether."""
    child = os.fork()
    if child == 0:
        try:
            _kill_at(at)
            work()
        finally:
            os._exit(0)
    if after_s is not None:
        time.sleep(after_s)
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    return os.WIFSIGNALED(status)


def _kill_at(number: int | None) -> list[int | None]:
    """In the child: count changes, and die before the wanted one; a copy dies with half of a block written."""
    left = [number]

    def counted(original: Callable[..., Any]) -> Callable[..., Any]:
        def change(*args: Any, **kwargs: Any) -> Any:
            _count(left)
            return None if original is os_fsync else original(*args, **kwargs)

        return change

    def half(source: IO[bytes], target: IO[bytes]) -> None:
        content = source.read()
        target.write(content[: len(content) // 2])
        target.flush()
        _count(left)
        target.write(content[len(content) // 2 :])

    os_fsync = os.fsync
    for name in CHANGES:
        setattr(os, name, counted(getattr(os, name)))
    disk.copy_stream = half
    oci_layout._Hashing.write = counted(oci_layout._Hashing.write)  # type: ignore[method-assign]
    disk.exchange = counted(disk.exchange)  # type: ignore[attr-defined]
    return left


def _count(left: list[int | None]) -> None:
    if left[0] is not None:
        if left[0] == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        left[0] -= 1


def version_at(path: Path) -> str | None:
    """The version of the whole release at a path, None where there is none; anything less fails."""
    try:
        with open_release(path) as folder:
            assert faults(folder) == []
            return str(json.loads((folder / "release.json").read_bytes())["version"])
    except errors.PreviousReleaseError:
        assert not path.exists() or not any(path.iterdir())
        return None


def changes_in(work: Callable[[], None], count: Path) -> int:
    """Do some work in a process of its own and count its changes."""
    child = os.fork()
    if child == 0:
        try:
            left = _kill_at(MANY)
            work()
            count.write_text(str(MANY - (left[0] or 0)), encoding="utf-8")
        finally:
            os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    return int(count.read_text(encoding="utf-8"))


def every_kill(releases: dict[str, Path], base: Path, text: str, *, start: str, step: int = 1) -> Iterator[str | None]:
    """Publish with a kill before each change (or each n-th and the last ones), and yield what was there after it."""
    path = base / "out"
    place = text.format(path)
    publication = functools.partial(put, releases[NEW], place)

    def begin() -> None:
        shutil.rmtree(base, ignore_errors=True)
        if start == "old":
            put(releases[OLD], place)

    begin()
    total = changes_in(publication, base.with_name("count"))
    assert total > LAST
    for number in sorted({*range(0, total, step), *range(total - LAST, total)}):
        begin()
        assert killed(publication, at=number)
        yield version_at(path)
        publication()
        assert version_at(path) == NEW
        assert [entry.name for entry in base.iterdir()] == ["out"], number


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """A kill loses nothing that the system was told to write; only a power failure does."""
    monkeypatch.setattr("os.fsync", lambda descriptor: None)


@pytest.mark.parametrize(
    ("text", "start", "step"),
    [
        ("folder:{}", "old", 3),
        ("oci:{}:stable", "old", 1),
        ("oci:{}", "old", 1),
        ("folder:{}", "nothing", 7),
        ("hf:{}", "old", 9),
        ("oci:{}", "nothing", 1),
        ("foundry:{}", "old", 9),
    ],
)
def test_killed_at_any_point(text: str, start: str, step: int, releases: dict[str, Path], tmp_path: Path) -> None:
    seen = list(every_kill(releases, tmp_path / "at", text, start=start, step=step))

    assert set(seen) == {OLD if start == "old" else None, NEW}
    assert seen == sorted(seen, key=lambda version: version == NEW), "first always the old one, then always the new"
    assert len(seen) > LAST


def test_killed_where_folders_cannot_be_exchanged(
    releases: dict[str, Path], tmp_path: Path, without_exchange: None
) -> None:
    seen = list(every_kill(releases, tmp_path / "at", "folder:{}", start="old", step=2))

    assert set(seen) == {OLD, NEW}


def test_the_exchange_needs_nothing_finished(releases: dict[str, Path], tmp_path: Path) -> None:
    """Without looking at what lies beside it: the name itself leads to a whole release after every kill."""
    for number in range(60, 400, 2):
        base = tmp_path / str(number)
        put(releases[OLD], str(base / "out"))
        died = killed(functools.partial(put, releases[NEW], str(base / "out")), at=number)
        assert faults(base / "out") == []
        if not died:
            break


def test_killed_at_any_time(releases: dict[str, Path], tmp_path: Path) -> None:
    chance = random.Random(0)
    for number in range(12):
        path = tmp_path / str(number) / "out"
        text = f"{('folder', 'oci', 'hf')[number % 3]}:{path}"
        put(releases[OLD], text)
        killed(functools.partial(put, releases[NEW], text), after_s=chance.uniform(0, 0.06))
        assert version_at(path) in {OLD, NEW}
        put(releases[NEW], text)
        assert (version_at(path), [entry.name for entry in path.parent.iterdir()]) == (NEW, ["out"])


def test_a_reader_never_sees_a_mixture(releases: dict[str, Path], tmp_path: Path) -> None:
    """One that opens the folder once and reads everything relative to it sees one release, or that it went away."""
    path, both, stop, result = (tmp_path / name for name in ("out", "both", "stop", "result"))
    put(releases[OLD], str(path))
    reader = os.fork()
    if reader == 0:
        try:
            result.write_text(json.dumps(_read_until(stop, path, both)), encoding="utf-8")
        finally:
            os._exit(0)
    try:
        # On a busy machine the reader may come to read late.
        patience = time.monotonic() + 60
        for turn in itertools.count():
            if turn >= TURNS and turn % 2 == 0 and (both.exists() or time.monotonic() > patience):
                break
            put(releases[NEW if turn % 2 == 0 else OLD], str(path))
    finally:
        stop.touch()
    assert os.waitpid(reader, 0)[1] == 0
    seen = json.loads(result.read_text(encoding="utf-8"))

    assert seen["absent"] == seen["mixed"] == 0
    assert seen["whole"] > 0
    assert set(seen["versions"]) == {OLD, NEW}


def _read_until(stop: Path, path: Path, both: Path) -> dict[str, Any]:
    """Read the release until told to stop, and tell by a file when each version was seen."""
    seen: dict[str, Any] = {"whole": 0, "mixed": 0, "absent": 0, "replaced": 0, "versions": []}
    while not stop.exists():
        try:
            folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        except FileNotFoundError:
            seen["absent"] += 1
            continue
        try:
            lines = _read(SUMS, folder).decode().splitlines()
            wrong = [line for line in lines if hashlib.sha256(_read(line[66:], folder)).hexdigest() != line[:64]]
            seen["mixed" if wrong else "whole"] += 1
            seen["versions"] = sorted({*seen["versions"], json.loads(_read("release.json", folder))["version"]})
            if len(seen["versions"]) == 2:
                both.touch()
        except FileNotFoundError:
            seen["replaced"] += 1
        finally:
            os.close(folder)
    return seen


def _read(name: str, folder: int) -> bytes:
    descriptor = os.open(name, os.O_RDONLY, dir_fd=folder)
    with os.fdopen(descriptor, "rb") as file:
        return file.read()
