"""What phiforge makes of Windows, on a faked one: its names of processors, its paths, its code pages."""

from __future__ import annotations

import io
import platform
import re
import sys
import sysconfig
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath, PureWindowsPath
from types import ModuleType, SimpleNamespace
from typing import Any

import filelock
import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from phiforge import errors, store
from phiforge.cli import speak_utf8
from phiforge.machine import default_threads, describe_machine, thread_choices
from phiforge.packaging.layout import check_inside
from phiforge.selection import Abilities
from phiforge.store import Store, write_atomically
from phiforge.validation import worker
from phiforge.verbs import doctor

SNAPDRAGON = "Snapdragon(R) X Elite - X1E80100 - Qualcomm(R) Oryon(TM) CPU"
ARM_IDENTIFIER = "ARMv8 (64-bit) Family 8 Model 1 Revision 201, Qualcomm Technologies Inc"
INTEL_IDENTIFIER = "Intel64 Family 6 Model 151 Stepping 2, GenuineIntel"
Fake = Callable[..., None]


@pytest.fixture
def windows(monkeypatch: pytest.MonkeyPatch) -> Fake:
    """Make this process believe that it runs on Windows 11; paths stay this system's, which pathlib insists on."""

    def fake(
        *,
        machine: str = "AMD64",
        python: str = "win-amd64",
        identifier: str = INTEL_IDENTIFIER,
        registry: str | None = "12th Gen Intel(R) Core(TM) i7-12700",
        logical: int = 20,
        physical: int | None = 12,
        affinity: list[int] | None = None,
        plugged: bool | None = None,
    ) -> None:
        monkeypatch.setattr(sys, "platform", "win32")
        monkeypatch.setattr(platform, "system", lambda: "Windows")
        monkeypatch.setattr(platform, "release", lambda: "11")
        monkeypatch.setattr(platform, "machine", lambda: machine)
        monkeypatch.setattr(platform, "processor", lambda: identifier)
        monkeypatch.setattr(sysconfig, "get_platform", lambda: python)
        monkeypatch.setenv("PROCESSOR_IDENTIFIER", identifier)
        monkeypatch.setitem(sys.modules, "winreg", _registry(registry))
        allowed = affinity or list(range(logical))
        monkeypatch.setattr(psutil, "cpu_count", lambda logical=True, total=logical: total if logical else physical)
        monkeypatch.setattr(psutil, "Process", lambda *_: SimpleNamespace(cpu_affinity=lambda: allowed))
        monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(total=16 * 2**30, available=8 * 2**30))
        battery = None if plugged is None else SimpleNamespace(power_plugged=plugged)
        monkeypatch.setattr(psutil, "sensors_battery", lambda: battery, raising=False)
        _without_linux(monkeypatch)

    return fake


def _registry(name: str | None) -> Any:
    @contextmanager
    def opened(root: object, path: str) -> Iterator[object]:
        assert (root, path) == ("HKLM", r"HARDWARE\DESCRIPTION\System\CentralProcessor\0")
        if name is None:
            raise FileNotFoundError(2, "The system cannot find the file specified")
        yield object()

    fake: Any = ModuleType("winreg")
    fake.HKEY_LOCAL_MACHINE = "HKLM"
    fake.OpenKey = opened
    fake.QueryValueEx = lambda _, value: {"ProcessorNameString": (f"{name}  ", 1)}[value]
    return fake


def _without_linux(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take away /proc and /sys."""
    original = Path.read_text

    def read_text(self: Path, *args: Any, **kwargs: Any) -> str:
        if self.parts[1:2] in (("proc",), ("sys",)):
            raise FileNotFoundError(2, "The system cannot find the path specified", str(self))
        return original(self, *args, **kwargs)

    monkeypatch.setattr(Path, "read_text", read_text)


# The machine.


def test_a_pc_is_described(windows: Fake) -> None:
    windows(plugged=False)
    machine = describe_machine()
    assert machine.processor == "12th Gen Intel(R) Core(TM) i7-12700"
    assert (machine.architecture, machine.process_architecture) == ("x86_64", "x86_64")
    assert (machine.logical_cores, machine.physical_cores) == (20, 12)
    assert machine.system == "Windows 11"
    assert machine.power_source == "battery"


def test_without_the_registry_the_processor_has_windows_name_for_it(windows: Fake) -> None:
    windows(registry=None)
    assert describe_machine().processor == INTEL_IDENTIFIER


@pytest.mark.parametrize(
    ("machine", "python", "process"),
    [("ARM64", "win-arm64", "arm64"), ("AMD64", "win-amd64", "x86_64"), ("ARM64", "win-amd64", "x86_64")],
)
def test_an_emulated_process_on_arm_is_seen(windows: Fake, machine: str, python: str, process: str) -> None:
    windows(machine=machine, python=python, identifier=ARM_IDENTIFIER, registry=SNAPDRAGON, plugged=True)
    found = describe_machine()
    assert (found.architecture, found.process_architecture) == ("arm64", process)
    assert found.processor == SNAPDRAGON
    assert found.power_source == "mains"


def test_a_python_for_two_architectures_is_that_of_its_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sysconfig, "get_platform", lambda: "macosx-10.9-universal2")
    monkeypatch.setattr(platform, "machine", lambda: "arm64")
    assert describe_machine().process_architecture == "arm64"


@pytest.mark.parametrize(
    ("logical", "physical", "affinity", "threads"),
    [
        (16, 8, None, 8),
        (12, 12, None, 12),
        (16, 8, [0, 1, 2, 3], 4),
        (16, None, None, 16),
        (1, 1, None, 1),
    ],
)
def test_threads_without_sysfs_and_cgroups(
    windows: Fake, logical: int, physical: int | None, affinity: list[int] | None, threads: int
) -> None:
    windows(logical=logical, physical=physical, affinity=affinity)
    assert default_threads() == threads
    assert thread_choices()[0] == threads


# Measuring.


def test_what_anonymous_memory_means_is_told(windows: Fake) -> None:
    assert "RssAnon" in worker.memory_note()
    windows()
    assert "private commit charge" in worker.memory_note()


def test_memory_is_what_windows_tells(windows: Fake) -> None:
    windows()
    process = SimpleNamespace(pid=1, memory_info=lambda: SimpleNamespace(private=5, rss=7))
    assert worker._memory(process) == (5, 7)  # type: ignore[arg-type]


def test_doctor_looks_for_directml_on_windows_alone(windows: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "find_abilities", _bare)
    assert "run on a GPU (DirectML)" not in {ability.name for ability in doctor.doctor().abilities}
    windows()
    found = {ability.name: ability for ability in doctor.doctor().abilities}
    directml = found["run on a GPU (DirectML)"]
    assert not directml.able
    assert directml.detail == "onnxruntime is not installed."
    assert directml.remedy == 'pip install -c constraints.txt "phiforge[windows]"'
    assert not found["run on a GPU (WebGPU)"].able


def _bare(_: object) -> Abilities:
    return Abilities(
        machine=describe_machine(),
        platform=sys.platform,
        wheels={},
        onnxruntime=None,
        missing="onnxruntime is not installed.",
    )


# Files.


@pytest.mark.parametrize(
    "path", ["C:/x", "C:x", "\\\\server\\share", "a\\b", "//server/share", "\\x", "..\\x", "a/x:y"]
)
def test_paths_that_are_absolute_on_windows_alone_are_refused(path: str) -> None:
    with pytest.raises(errors.UnsafePathError):
        check_inside(path)


@pytest.mark.parametrize(
    "path", ["NUL", "a/con", "a/nul.txt", "COM1/x", "a./b", "a/b.", "a /b", "a/b ", "a/b?", "a\tb"]
)
def test_names_that_windows_changes_or_keeps_for_devices_are_refused(path: str) -> None:
    with pytest.raises(errors.UnsafePathError):
        check_inside(path)


@pytest.mark.parametrize(
    "path", ["models/model", "Größe/日本 1.json", ".hidden", "a.b/c", "null", "console.txt", "./a"]
)
def test_ordinary_names_are_taken(path: str) -> None:
    assert check_inside(path) == path


@given(st.text(st.sampled_from("abAB.:/\\ ~-"), min_size=1, max_size=12))
def test_what_is_taken_stays_inside_on_windows_too(path: str) -> None:
    try:
        check_inside(path)
    except errors.UnsafePathError:
        return
    inside = PureWindowsPath("C:/package") / path
    assert inside.parts[:2] == ("C:\\", "package")
    assert ".." not in inside.parts
    assert PurePosixPath(path).parts == PureWindowsPath(path).parts


def test_a_lock_is_held_without_fcntl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "FileLock", filelock.SoftFileLock)
    held, other = Store(tmp_path / "store"), Store(tmp_path / "store")
    with held.lock(), pytest.raises(errors.OutputLockedError), other.lock():
        pass
    with Store(tmp_path / "store").lock():
        pass


def test_names_in_the_store_are_names_on_windows(tmp_path: Path) -> None:
    kept = Store(tmp_path)
    with kept.stage("variant", "0123456789abcdef" * 4) as partial:
        (partial / "x").write_bytes(b"")
        names = {partial.name}
    kept.remember("trial", {"a": 1}, 2)
    kept.work("variant", "f" * 64)
    names |= {path.name for path in tmp_path.rglob("*")}
    assert all(re.fullmatch(r"[.\w-]*\w", name) for name in names)
    assert not any(PureWindowsPath(name).is_reserved() for name in names)


def test_files_have_the_same_bytes_everywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.linesep", "\r\n")
    write_atomically(tmp_path / "a.json", "1\n2 µ\n")
    assert (tmp_path / "a.json").read_bytes() == "1\n2 µ\n".encode()


# The terminal.


@pytest.mark.parametrize("page", ["cp1252", "cp437", "cp932"])
def test_what_is_redirected_is_utf8_on_every_code_page(page: str) -> None:
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding=page)
    with pytest.raises(UnicodeEncodeError):
        stream.write("✓ 日本 ü é")
    speak_utf8(stream)
    stream.write("✓ 日本 \ud83d")
    stream.flush()
    assert raw.getvalue().decode("utf-8") == "✓ 日本 ?"


def test_a_stream_that_is_no_file_is_left_alone() -> None:
    stream = io.StringIO()
    speak_utf8(stream)
    stream.write("✓")
    assert stream.getvalue() == "✓"
