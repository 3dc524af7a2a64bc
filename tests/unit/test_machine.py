"""The threads a process may use, from made-up systems, and this machine's facts."""

from __future__ import annotations

import ctypes
import os
import platform
import sys
import sysconfig
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from phiforge import machine
from phiforge.machine import (
    cgroup_cpus,
    count_cores,
    default_threads,
    describe_machine,
    thread_choices,
    tool_versions,
)


def siblings(root: Path, pairs: dict[int, str]) -> Path:
    for cpu, text in pairs.items():
        folder = root / f"cpu{cpu}" / "topology"
        folder.mkdir(parents=True)
        (folder / "thread_siblings_list").write_text(f"{text}\n", encoding="utf-8")
    return root


def test_hyper_threads_of_one_core_count_once(tmp_path: Path) -> None:
    sysfs = siblings(tmp_path, {0: "0,4", 4: "0,4", 1: "1,5", 5: "1,5"})
    assert count_cores([0, 1, 4, 5], sysfs) == 2
    assert count_cores([0, 4], sysfs) == 1
    assert count_cores([0, 9], sysfs) is None


@pytest.mark.parametrize(
    ("files", "limit"),
    [
        ({}, None),
        ({"cpu.max": "max 100000"}, None),
        ({"a/b/cpu.max": "150000 100000"}, 1.5),
        ({"a/cpu.max": "400000 100000", "a/b/cpu.max": "max 100000"}, 4),
        ({"a/cpu.max": "50000 100000", "a/b/cpu.max": "400000 100000"}, 0.5),
        ({"cpu/cpu.cfs_quota_us": "200000", "cpu/cpu.cfs_period_us": "100000"}, 2),
        ({"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, None),
        ({"cpu.max": "rubbish"}, None),
    ],
)
def test_the_tightest_cgroup_limit_counts(tmp_path: Path, files: dict[str, str], limit: float | None) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(f"{text}\n", encoding="utf-8")
    assert cgroup_cpus(tmp_path, "/a/b") == limit


def test_threads_are_within_this_machine() -> None:
    assert 1 <= default_threads() <= (os.cpu_count() or 1)


def test_this_machine_is_described() -> None:
    machine = describe_machine()
    assert machine.architecture in {"x86_64", "arm64"}
    assert machine.process_architecture in {"x86_64", "arm64"}
    assert machine.processor
    assert 1 <= machine.physical_cores <= machine.logical_cores
    assert machine.memory_bytes > 2**28
    assert machine.power_source in {None, "mains", "battery"}


def test_the_time_is_in_utc_and_in_whole_seconds() -> None:
    before = datetime.now(UTC)
    found = machine.now()
    assert (found.utcoffset(), found.microsecond) == (timedelta(0), 0)
    assert before - timedelta(seconds=1) <= found <= datetime.now(UTC)


def test_versions_of_what_is_installed() -> None:
    versions = tool_versions(["numpy", "no-such-distribution"])
    assert list(versions) == ["numpy"]


@pytest.mark.parametrize(
    ("default", "logical", "limit", "choices"),
    [
        (2, 2, None, (2, 1)),
        (1, 1, None, (1,)),
        (8, 16, None, (8, 1, 4, 16)),
        (4, 64, 4.0, (4, 1, 2)),
        (3, 64, 3.5, (3, 1, 4)),
    ],
)
def test_threads_worth_trying_begin_with_the_default(
    monkeypatch: pytest.MonkeyPatch, default: int, logical: int, limit: float | None, choices: tuple[int, ...]
) -> None:
    monkeypatch.setattr(machine, "default_threads", lambda: default)
    monkeypatch.setattr(machine, "_allowed_cpus", lambda: list(range(logical)))
    monkeypatch.setattr(machine, "cgroup_cpus", lambda *_: limit)
    assert thread_choices() == choices


def answering(value: int, returned: int, *, windows: bool) -> Callable[..., int]:
    """What IsWow64Process2 or sysctlbyname would answer: into its third or second argument, as `byref` gave it."""

    def ask(*given: Any) -> int:
        if not windows:
            assert given[0] == b"sysctl.proc_translated"
        (given[2] if windows else given[1])._obj.value = value
        return returned

    return ask


def on_a_mac(monkeypatch: pytest.MonkeyPatch, ask: Callable[..., int] | None, python: str, seen: str) -> None:
    """A Mac whose `sysctlbyname` is this function, for a Python that sees a machine."""
    system = SimpleNamespace() if ask is None else SimpleNamespace(sysctlbyname=ask)
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr(ctypes, "CDLL", lambda _: system)
    monkeypatch.setattr(sysconfig, "get_platform", lambda: python)
    monkeypatch.setattr(platform, "machine", lambda: seen)
    monkeypatch.delenv("PROCESSOR_IDENTIFIER", raising=False)


@pytest.mark.parametrize(
    ("translated", "failed", "python", "seen", "architectures"),
    [
        (1, 0, "macosx-11.0-x86_64", "x86_64", ("arm64", "x86_64")),
        (1, 0, "macosx-11.0-universal2", "x86_64", ("arm64", "x86_64")),
        (0, 0, "macosx-11.0-arm64", "arm64", ("arm64", "arm64")),
        (0, 0, "macosx-11.0-universal2", "arm64", ("arm64", "arm64")),
        # A Mac with an Intel processor does not know the name, and says nothing that counts.
        (1, -1, "macosx-10.9-x86_64", "x86_64", ("x86_64", "x86_64")),
    ],
)
def test_rosetta_is_seen(
    monkeypatch: pytest.MonkeyPatch,
    translated: int,
    failed: int,
    python: str,
    seen: str,
    architectures: tuple[str, str],
) -> None:
    on_a_mac(monkeypatch, answering(translated, failed, windows=False), python, seen)
    assert (machine._architecture(), machine._process_architecture()) == architectures


def test_a_mac_that_cannot_be_asked_is_what_it_says(monkeypatch: pytest.MonkeyPatch) -> None:
    on_a_mac(monkeypatch, None, "macosx-11.0-x86_64", "x86_64")
    assert machine._architecture() == "x86_64"


@pytest.mark.parametrize(
    ("native", "told", "identifier", "architecture"),
    [
        (0xAA64, 1, "Intel64 Family 6", "arm64"),
        (0x8664, 1, "Intel64 Family 6", "x86_64"),
        (0x8664, 1, "ARMv8 (64-bit) Family 8", "arm64"),
        (0xAA64, 0, "Intel64 Family 6", "x86_64"),
        (None, 1, "Intel64 Family 6", "x86_64"),
        (None, 1, "ARMv8 (64-bit) Family 8", "arm64"),
    ],
)
def test_windows_is_asked_what_it_runs_on(
    monkeypatch: pytest.MonkeyPatch, native: int | None, told: int, identifier: str, architecture: str
) -> None:
    asked = {} if native is None else {"IsWow64Process2": answering(native, told, windows=True)}
    kernel = SimpleNamespace(GetCurrentProcess=lambda: None, **asked)
    monkeypatch.setattr(sys, "platform", "win32")
    monkeypatch.setattr(ctypes, "WinDLL", lambda _: kernel, raising=False)
    monkeypatch.setattr(sysconfig, "get_platform", lambda: "win-amd64")
    monkeypatch.setattr(platform, "machine", lambda: "AMD64")
    monkeypatch.setenv("PROCESSOR_IDENTIFIER", identifier)

    assert (machine._architecture(), machine._process_architecture()) == (architecture, "x86_64")


def test_linux_is_asked_nothing_new(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: object) -> None:
        raise AssertionError

    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(ctypes, "CDLL", never)
    monkeypatch.setattr(ctypes, "WinDLL", never, raising=False)
    monkeypatch.delenv("PROCESSOR_IDENTIFIER", raising=False)
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    assert machine._architecture() == "arm64"
