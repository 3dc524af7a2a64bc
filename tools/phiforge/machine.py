"""What this machine is and how many threads suit it: processor, memory, power, the cores this process may use."""

from __future__ import annotations

import ctypes
import math
import os
import platform
import sys
import sysconfig
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

from phiforge.evidence import Machine

if TYPE_CHECKING:
    from collections.abc import Iterable

_ARCHITECTURES = {"amd64": "x86_64", "x64": "x86_64", "aarch64": "arm64"}
# IMAGE_FILE_MACHINE_ARM64, https://learn.microsoft.com/windows/win32/sysinfo/image-file-machine-constants
_WINDOWS_ARM64 = 0xAA64


def describe_machine() -> Machine:
    """Return the facts of this machine that a measurement depends on."""
    return Machine(
        processor=_processor(),
        architecture=_architecture(),
        process_architecture=_process_architecture(),
        logical_cores=psutil.cpu_count() or 1,
        physical_cores=psutil.cpu_count(logical=False) or psutil.cpu_count() or 1,
        memory_bytes=psutil.virtual_memory().total,
        system=f"{platform.system()} {platform.release()}",
        power_source=_power_source(),
    )


def now() -> datetime:
    """Return the time in UTC, to the second: when a measurement was taken."""
    return datetime.now(UTC).replace(microsecond=0)


def default_threads() -> int:
    """Return the physical cores this process may use, at least 1.

    Hyper-threads add nothing to the int4 kernels, and onnxruntime-genai's own default is half the logical CPUs, which
    halves the speed where there is no hyper-threading (shared/research/cpu-performance.md). Affinity and cgroup limits
    are respected, so a container gets its share and no more.
    """
    cpus = _allowed_cpus()
    cores = count_cores(cpus, Path("/sys/devices/system/cpu")) or psutil.cpu_count(logical=False) or len(cpus)
    threads = min(cores, len(cpus))
    limit = cgroup_cpus(Path("/sys/fs/cgroup"), _own_cgroup())
    return max(1, threads if limit is None else min(threads, int(limit)))


def thread_choices() -> tuple[int, ...]:
    """Return the numbers of threads worth trying, the default first, then from few to many.

    They are 1, half and all of the physical cores that this process may use, and all of its logical ones.
    """
    default, logical = default_threads(), len(_allowed_cpus())
    limit = cgroup_cpus(Path("/sys/fs/cgroup"), _own_cgroup())
    if limit is not None:
        logical = min(logical, math.ceil(limit))
    return tuple(dict.fromkeys([default, *sorted({1, max(1, default // 2), default, max(default, logical)})]))


def tool_versions(names: Iterable[str]) -> dict[str, str]:
    """Return the installed version of each distribution; one that is not installed is left out."""
    found: dict[str, str] = {}
    for name in names:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def count_cores(cpus: Iterable[int], sysfs: Path) -> int | None:
    """Return how many physical cores the logical CPUs belong to, or None where sysfs does not tell.

    Source: Linux, Documentation/ABI/stable/sysfs-devices-system-cpu, `thread_siblings_list`.
    """
    cores = set()
    for cpu in cpus:
        try:
            siblings = (sysfs / f"cpu{cpu}" / "topology" / "thread_siblings_list").read_text(encoding="utf-8")
        except OSError:
            return None
        cores.add(siblings.strip())
    return len(cores) or None


def cgroup_cpus(root: Path, own: str) -> float | None:
    """Return the CPU limit of a cgroup in CPUs, the smallest on its way to the root, or None where there is none.

    Args:
        root: Where cgroups are mounted.
        own: The path of this process's cgroup below `root`, such as "/user.slice".

    Source: Linux, Documentation/admin-guide/cgroup-v2.rst, `cpu.max`: "$MAX $PERIOD" or "max $PERIOD"; version 1,
    Documentation/scheduler/sched-bwc.rst: `cpu.cfs_quota_us` (-1 for none) and `cpu.cfs_period_us`.
    """
    below = Path(own.lstrip("/"))
    limits = []
    for part in (below, *below.parents):
        limits += [_quota(root / part / "cpu.max"), _quota_v1(root / "cpu" / part)]
    known = [limit for limit in limits if limit is not None]
    return min(known) if known else None


def _quota(file: Path) -> float | None:
    try:
        quota, period = file.read_text(encoding="utf-8").split()
        return None if quota == "max" else int(quota) / int(period)
    except (OSError, ValueError):
        return None


def _quota_v1(folder: Path) -> float | None:
    try:
        quota = int((folder / "cpu.cfs_quota_us").read_text(encoding="utf-8"))
        period = int((folder / "cpu.cfs_period_us").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return quota / period if quota > 0 and period > 0 else None


def _own_cgroup() -> str:
    """Return the path of this process's cgroup (version 2: the line that starts with "0::"); "/" where unknown."""
    try:
        lines = Path("/proc/self/cgroup").read_text(encoding="utf-8").splitlines()
    except OSError:
        return "/"
    paths = [line.removeprefix("0::") for line in lines if line.startswith("0::")]
    return paths[0] if paths and ".." not in paths[0] else "/"


def _allowed_cpus() -> list[int]:
    process = psutil.Process()
    affinity = getattr(process, "cpu_affinity", None)  # absent on macOS
    return list(affinity()) if affinity else list(range(psutil.cpu_count() or 1))


def _processor() -> str:
    """Return the processor's name as its maker gives it, or what the system calls it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else _registry_name() or platform.processor() or platform.machine()


def _registry_name() -> str:
    """Return the name in Windows' registry, as "Snapdragon(R) X Elite - X1E80100 - Qualcomm(R) Oryon(TM) CPU".

    `platform.processor()` has family, model and revision there. Empty where there is no registry or no such entry.
    """
    if sys.platform != "win32":
        return ""
    import winreg

    try:
        with winreg.OpenKey(winreg.HKEY_LOCAL_MACHINE, r"HARDWARE\DESCRIPTION\System\CentralProcessor\0") as key:
            return str(winreg.QueryValueEx(key, "ProcessorNameString")[0]).strip()
    except OSError:
        return ""


def _architecture() -> str:
    """Return the machine's architecture, also where an x86-64 process is emulated on Windows or macOS for Arm.

    One sign is enough: what Windows calls the processor, what it says of this process, what Rosetta says of it.
    """
    named_arm = os.environ.get("PROCESSOR_IDENTIFIER", "").upper().startswith("ARM")
    if named_arm or _windows_machine() == _WINDOWS_ARM64 or _is_translated():
        return "arm64"
    return _normal(platform.machine())


def _windows_machine() -> int | None:
    """Return the machine that Windows says it runs on, whatever it emulates for this process; None where it cannot.

    Source: IsWow64Process2, Windows 10 1709 and later; the third argument is the native machine.
    https://learn.microsoft.com/windows/win32/api/wow64apiset/nf-wow64apiset-iswow64process2
    """
    if sys.platform != "win32":
        return None
    process, native = ctypes.c_ushort(0), ctypes.c_ushort(0)
    try:
        kernel = ctypes.WinDLL("kernel32")
        kernel.GetCurrentProcess.restype = ctypes.c_void_p
        kernel.IsWow64Process2.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p]
        told = kernel.IsWow64Process2(kernel.GetCurrentProcess(), ctypes.byref(process), ctypes.byref(native))
    except (AttributeError, OSError):
        return None
    return native.value if told else None


def _is_translated() -> bool:
    """Return whether Rosetta translates this process.

    Source: `sysctl.proc_translated` is 1 for a translated process and 0 for a native one; a Mac without Rosetta does
    not know the name. https://developer.apple.com/documentation/apple-silicon/about-the-rosetta-translation-environment
    """
    if sys.platform != "darwin":
        return False
    value = ctypes.c_int(0)
    size = ctypes.c_size_t(ctypes.sizeof(value))
    try:
        ask = ctypes.CDLL(None).sysctlbyname
        ask.argtypes = [ctypes.c_char_p, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t]
        failed = ask(b"sysctl.proc_translated", ctypes.byref(value), ctypes.byref(size), None, 0)
    except (AttributeError, OSError):
        return False
    return failed == 0 and value.value == 1


def _process_architecture() -> str:
    """Return what this Python was built for: the end of "linux-x86_64", "win-amd64", "win-arm64".

    "macosx-11.0-universal2" is for both; what the system tells it of the machine is what it runs as, "x86_64" under
    Rosetta.
    """
    built_for = _normal(sysconfig.get_platform().rsplit("-", 1)[-1])
    return built_for if built_for in _ARCHITECTURES.values() else _normal(platform.machine())


def _normal(architecture: str) -> str:
    name = architecture.lower()
    return _ARCHITECTURES.get(name, name)


def _power_source() -> str | None:
    """Return "mains" or "battery", None where the system does not tell (most servers)."""
    read = getattr(psutil, "sensors_battery", None)  # absent on some systems
    battery = read() if read else None
    if battery is None or battery.power_plugged is None:
        return None
    return "mains" if battery.power_plugged else "battery"
