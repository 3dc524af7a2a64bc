"""Energy and power while a variant decodes, where the machine has a counter that this process may read.

Sources: Linux, Documentation/power/powercap/powercap.rst (`energy_uj` counts up to `max_energy_range_uj` and begins
again; AMD's processors are under the same names), Documentation/hwmon/amd_energy.rst, and
Documentation/ABI/testing/sysfs-class-power; Windows, `CallNtPowerInformation` with SystemBatteryState; NVIDIA, NVML's
`nvmlDeviceGetTotalEnergyConsumption`. What cannot be read is absent: None, never zero.
"""

from __future__ import annotations

import ctypes
import sys
import time
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from phiforge.evidence import Energy

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

SYSFS = Path("/sys/class")
# The fewest changes of a counter within what is measured; with fewer its steps would be most of the result.
_LEAST_CHANGES = 10
CPU = "cpu"
NVIDIA_VENDOR_ID = 0x10DE
_BATTERY_STATE = 5  # SystemBatteryState of POWER_INFORMATION_LEVEL
_JOULES = {"micro": 1e-6, "milli": 1e-3}


@dataclass(frozen=True)
class Reading:
    """What a meter told at one moment: joules since it was made, at a time of `time.perf_counter`."""

    t_s: float
    joules: float


class Meter(Protocol):
    """A counter of energy; `covers` says of what."""

    @property
    def source(self) -> str:
        """What is read."""

    @property
    def covers(self) -> str:
        """What the energy is of."""

    def read(self) -> Reading | None:
        """Return the energy since the meter was made, None where it cannot be told just now."""


@dataclass
class Counter:
    """Counters of energy that only rise, but for starting again; their sum counts."""

    source: str
    covers: str
    counters: Sequence[Callable[[], int | None]]
    joules_per_unit: float
    ranges: Sequence[int]
    clock: Callable[[], float] = time.perf_counter
    _last: list[int | None] = field(default_factory=list)
    _units: int = 0

    def read(self) -> Reading | None:
        """See `Meter.read`."""
        now = [counter() for counter in self.counters]
        if any(value is None for value in now):
            return None
        for before, value, most in zip(self._last or now, now, self.ranges, strict=True):
            assert before is not None and value is not None
            self._units += value - before if value >= before else value - before + most
        self._last = now
        return Reading(self.clock(), self._units * self.joules_per_unit)


@dataclass
class Power:
    """A gauge of power, summed up over time by its mean between two readings."""

    source: str
    covers: str
    watts: Callable[[], float | None]
    clock: Callable[[], float] = time.perf_counter
    _last: tuple[float, float] | None = None
    _joules: float = 0.0

    def read(self) -> Reading | None:
        """See `Meter.read`."""
        watts = self.watts()
        if watts is None:
            self._last = None  # a gap is not filled
            return None
        now = self.clock()
        if self._last is not None:
            self._joules += (now - self._last[0]) * (watts + self._last[1]) / 2
        self._last = (now, watts)
        return Reading(now, self._joules)


def find_meter(provider: str, *, gpu_vendor_id: int | None = None, sysfs: Path = SYSFS) -> Meter | None:
    """Return the meter that is nearest to what runs the variant, None where this machine has none to be read.

    A GPU's own counter for a variant on it, the processor's for one on the CPU; else the battery's, while it is used.

    Args:
        provider: The variant's, as "cpu", "dml", "webgpu", "qnn".
        gpu_vendor_id: PCI id of the maker of the GPU that runs the variant, None where that is not known.
        sysfs: Where Linux has its classes of devices.
    """
    found: list[Meter | None] = []
    if gpu_vendor_id == NVIDIA_VENDOR_ID and provider != CPU:
        found.append(_nvidia())
    if provider == CPU:
        found += [_rapl(sysfs / "powercap"), _amd_energy(sysfs / "hwmon")]
    found += [_battery(sysfs / "power_supply"), _windows_battery()]
    return next((meter for meter in found if meter is not None and meter.read() is not None), None)


def energy_of(
    meter: Meter, readings: Sequence[Reading], between_s: Sequence[tuple[float, float]], tokens: int, idle: float | None
) -> Energy | None:
    """Return the energy of some stretches of time; None where the meter tells too little of them.

    Args:
        meter: What was read.
        readings: All its readings, in order.
        between_s: Begin and end of each stretch, by the readings' clock.
        tokens: Tokens decoded in all stretches together.
        idle: Watts while nothing was measured, None if not known.
    """
    joules, seconds, changes = 0.0, 0.0, 0
    for start, stop in between_s:
        inner = [reading for reading in readings if start <= reading.t_s <= stop]
        changes += len({reading.joules for reading in inner})
        first, last = _joules_at(readings, start), _joules_at(readings, stop)
        if first is None or last is None:
            return None
        joules, seconds = joules + last - first, seconds + stop - start
    if changes < _LEAST_CHANGES or joules <= 0 or seconds <= 0 or tokens <= 0:
        return None
    return Energy(
        source=meter.source,
        covers=meter.covers,
        tokens=tokens,
        joules=joules,
        joules_per_token=joules / tokens,
        average_watts=joules / seconds,
        idle_watts=idle,
    )


def idle_watts(meter: Meter, seconds: float, sleep: Callable[[float], None] = time.sleep) -> float | None:
    """Return the power while this process sleeps for a while, None where the meter tells nothing of it."""
    first = meter.read()
    sleep(seconds)
    last = meter.read()
    if first is None or last is None or last.t_s <= first.t_s or last.joules <= first.joules:
        return None
    return (last.joules - first.joules) / (last.t_s - first.t_s)


def _joules_at(readings: Sequence[Reading], t_s: float) -> float | None:
    """Return the energy at a time between two readings, linearly; None outside of all."""
    for before, after in pairwise(readings):
        if before.t_s <= t_s <= after.t_s:
            share = (t_s - before.t_s) / (after.t_s - before.t_s) if after.t_s > before.t_s else 0.0
            return before.joules + share * (after.joules - before.joules)
    return None


def _rapl(folder: Path) -> Meter | None:
    """Return the sum of all packages of the processor; reading it needs root since Linux 5.10."""
    zones = [zone for zone in sorted(folder.glob("intel-rapl:*")) if _text(zone / "name").startswith("package-")]
    ranges = [_number(zone / "max_energy_range_uj") for zone in zones]
    if not zones or any(_number(zone / "energy_uj") is None for zone in zones) or None in ranges:
        return None
    return Counter(
        source="RAPL",
        covers=f"{len(zones)} processor package{'s' if len(zones) > 1 else ''}",
        counters=[_reader(zone / "energy_uj") for zone in zones],
        joules_per_unit=_JOULES["micro"],
        ranges=[most for most in ranges if most is not None],
    )


def _amd_energy(folder: Path) -> Meter | None:
    """Return the sum of all sockets by the driver amd_energy, which counts with 64 bits."""
    for device in sorted(folder.glob("hwmon*")):
        if _text(device / "name") != "amd_energy":
            continue
        labels = sorted(device.glob("energy*_label"))
        files = [label.with_name(label.name.replace("_label", "_input")) for label in labels
                 if _text(label).startswith("Esocket")]  # fmt: skip
        if files and all(_number(file) is not None for file in files):
            return Counter(
                source="amd_energy",
                covers=f"{len(files)} processor socket{'s' if len(files) > 1 else ''}",
                counters=[_reader(file) for file in files],
                joules_per_unit=_JOULES["micro"],
                ranges=[1 << 64] * len(files),
            )
    return None


def _battery(folder: Path) -> Meter | None:
    """Return the power that a battery gives, while it is discharged."""
    for supply in sorted(folder.glob("*")):
        # A mouse has a battery too; its scope is Device.
        if _text(supply / "type") == "Battery" and _text(supply / "scope") != "Device" and _discharge(supply):
            return Power("battery", "the whole machine", lambda supply=supply: _discharge(supply))  # type: ignore[misc]
    return None


def _discharge(supply: Path) -> float | None:
    """Return the watts a battery gives, by its power or by current and voltage; some drivers give them negative."""
    if _text(supply / "status") != "Discharging":
        return None
    power = _number(supply / "power_now")
    if power is None:
        current, voltage = _number(supply / "current_now"), _number(supply / "voltage_now")
        if current is None or voltage is None:
            return None
        return abs(current) * voltage * 1e-12 or None
    return abs(power) * 1e-6 or None


class _BatteryState(ctypes.Structure):
    """SYSTEM_BATTERY_STATE of Windows; `rate` is in milliwatts, negative while discharging."""

    _fields_ = [
        ("on_mains", ctypes.c_ubyte), ("present", ctypes.c_ubyte), ("charging", ctypes.c_ubyte),
        ("discharging", ctypes.c_ubyte), ("spare", ctypes.c_ubyte * 3), ("tag", ctypes.c_ubyte),
        ("capacity", ctypes.c_uint32), ("remaining", ctypes.c_uint32), ("rate", ctypes.c_int32),
        ("estimated_s", ctypes.c_uint32), ("alert1", ctypes.c_uint32), ("alert2", ctypes.c_uint32),
    ]  # fmt: skip


def _windows_battery() -> Meter | None:
    if sys.platform != "win32":
        return None
    ask = ctypes.WinDLL("powrprof").CallNtPowerInformation

    def watts() -> float | None:
        state = _BatteryState()
        told = ask(_BATTERY_STATE, None, 0, ctypes.byref(state), ctypes.sizeof(state))
        return discharge_watts(state) if told == 0 else None

    return Power("battery", "the whole machine", watts) if watts() is not None else None


def discharge_watts(state: Any) -> float | None:
    """Return the watts by Windows's SYSTEM_BATTERY_STATE, None unless a battery is discharged at a known rate."""
    if not state.present or not state.discharging or state.rate >= 0 or state.rate == -(1 << 31):
        return None
    return float(-state.rate) * 1e-3


def _nvidia(library: Any = None) -> Meter | None:
    """Return the first NVIDIA GPU's counter; GPUs since Volta have one."""
    if library is None:
        try:
            library = ctypes.CDLL("nvml.dll" if sys.platform == "win32" else "libnvidia-ml.so.1")
        except OSError:
            return None
    device = ctypes.c_void_p()
    if library.nvmlInit_v2() != 0 or library.nvmlDeviceGetHandleByIndex_v2(0, ctypes.byref(device)) != 0:
        return None

    def millijoules() -> int | None:
        told = ctypes.c_ulonglong()
        return told.value if library.nvmlDeviceGetTotalEnergyConsumption(device, ctypes.byref(told)) == 0 else None

    if millijoules() is None:
        return None
    return Counter("NVML", "the GPU", [millijoules], _JOULES["milli"], [1 << 64])


def _reader(file: Path) -> Callable[[], int | None]:
    return lambda: _number(file)


def _number(file: Path) -> int | None:
    text = _text(file)
    try:
        return int(text) if text else None
    except ValueError:
        return None


def _text(file: Path) -> str:
    """Return the text of a file in sysfs, "" where it is absent or not for us."""
    try:
        return file.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError):
        return ""
