"""Energy from the machine's counters: what cannot be read is absent, and a counter that begins again costs nothing."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from phiforge.validation import energy
from phiforge.validation.energy import Counter, Power, Reading, discharge_watts, energy_of, find_meter, idle_watts

RANGE = 1_000_000


def rapl(sysfs: Path, *packages: int) -> list[Path]:
    """A tree as Linux has it, with a subzone and the whole platform, which must not be counted."""
    files = []
    for index, microjoules in enumerate(packages):
        zone = _zone(sysfs / "powercap" / f"intel-rapl:{index}", f"package-{index}", microjoules)
        _zone(sysfs / "powercap" / f"intel-rapl:{index}:0", "core", 77)
        files.append(zone / "energy_uj")
    _zone(sysfs / "powercap" / "intel-rapl:9", "psys", 99)
    return files


def _zone(folder: Path, name: str, microjoules: int) -> Path:
    folder.mkdir(parents=True)
    for file, text in (("name", name), ("energy_uj", microjoules), ("max_energy_range_uj", RANGE)):
        (folder / file).write_text(f"{text}\n", encoding="utf-8")
    return folder


def battery(sysfs: Path, **files: object) -> Path:
    folder = sysfs / "power_supply" / "BAT0"
    folder.mkdir(parents=True)
    for name, value in {"type": "Battery", "status": "Discharging", **files}.items():
        (folder / name).write_text(f"{value}\n", encoding="utf-8")
    return folder


def joules(meter: energy.Meter | None) -> float:
    assert meter is not None
    reading = meter.read()
    assert reading is not None
    return reading.joules


def test_rapl_sums_the_packages_and_begins_again_at_its_range(tmp_path: Path) -> None:
    files = rapl(tmp_path, 100, 900_000)
    meter = find_meter("cpu", sysfs=tmp_path)
    assert meter is not None
    assert (meter.source, meter.covers) == ("RAPL", "2 processor packages")
    assert joules(meter) == 0
    files[0].write_text("300100\n", encoding="utf-8")
    files[1].write_text("50000\n", encoding="utf-8")  # 100,000 to its range, and 50,000 after it
    assert joules(meter) == pytest.approx(0.3 + 0.15)
    files[1].write_text("60000\n", encoding="utf-8")
    assert joules(meter) == pytest.approx(0.46)


def test_what_may_not_be_read_is_absent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Since Linux 5.10 only root reads energy_uj."""
    rapl(tmp_path, 100)
    read = Path.read_text

    def guarded(self: Path, *args: Any, **kwargs: Any) -> str:
        if self.name == "energy_uj":
            raise PermissionError(13, "Permission denied", str(self))
        return read(self, *args, **kwargs)

    monkeypatch.setattr(Path, "read_text", guarded)
    assert find_meter("cpu", sysfs=tmp_path) is None


@pytest.mark.parametrize("text", ["", "no number", "-"])
def test_a_counter_without_a_number_is_absent(tmp_path: Path, text: str) -> None:
    (file,) = rapl(tmp_path, 100)
    file.write_text(text, encoding="utf-8")
    assert find_meter("cpu", sysfs=tmp_path) is None


def test_a_machine_without_counters_has_no_meter(tmp_path: Path) -> None:
    assert find_meter("cpu", sysfs=tmp_path) is None
    assert find_meter("cpu", sysfs=tmp_path / "absent") is None


def test_the_processors_energy_is_not_a_gpus(tmp_path: Path) -> None:
    rapl(tmp_path, 100)
    assert find_meter("webgpu", sysfs=tmp_path) is None


def test_amds_driver_counts_sockets_and_not_cores(tmp_path: Path) -> None:
    device = tmp_path / "hwmon" / "hwmon3"
    device.mkdir(parents=True)
    files = {"name": "amd_energy", "energy1_label": "Ecore000", "energy1_input": 5, "energy2_label": "Esocket0",
             "energy2_input": 7_000_000}  # fmt: skip
    for name, value in files.items():
        (device / name).write_text(f"{value}\n", encoding="utf-8")
    meter = find_meter("cpu", sysfs=tmp_path)
    assert meter is not None
    assert (meter.source, meter.covers, joules(meter)) == ("amd_energy", "1 processor socket", 0)
    (device / "energy2_input").write_text("9000000\n", encoding="utf-8")
    assert joules(meter) == pytest.approx(2)


@pytest.mark.parametrize(
    "files",
    [{"power_now": 12_000_000}, {"power_now": -12_000_000}, {"current_now": 1_000_000, "voltage_now": 12_000_000}],
)
def test_a_battery_tells_watts_by_power_or_by_current_and_voltage(tmp_path: Path, files: dict[str, int]) -> None:
    battery(tmp_path, **files)
    meter = find_meter("qnn", sysfs=tmp_path)
    assert isinstance(meter, Power)
    assert meter.watts() == pytest.approx(12)
    assert meter.covers == "the whole machine"


@pytest.mark.parametrize(
    "files",
    [
        {"power_now": 0},
        {"status": "Charging", "power_now": 9},
        {"scope": "Device", "power_now": 9},
        {},
        {"current_now": 1},
    ],
)
def test_a_battery_that_gives_nothing_is_absent_and_never_zero(tmp_path: Path, files: dict[str, object]) -> None:
    battery(tmp_path, **files)
    assert find_meter("cpu", sysfs=tmp_path) is None


def test_power_is_summed_over_time_and_a_gap_is_not_filled() -> None:
    watts = iter([10.0, 20.0, None, 40.0, 40.0])
    clock = iter([0.0, 1.0, 5.0, 6.0])
    meter = Power("battery", "the whole machine", lambda: next(watts), lambda: next(clock))
    found = [meter.read() for _ in range(5)]
    assert [reading.joules if reading else None for reading in found] == [0, 15, None, 15, 55]


def _counter() -> Counter:
    return Counter("RAPL", "1 processor package", [lambda: 0], 1e-6, [RANGE])


def test_energy_of_two_stretches_is_cut_between_readings() -> None:
    readings = [Reading(index / 10, 5.0 * index / 10) for index in range(101)]  # 5 W
    found = energy_of(_counter(), readings, [(1.05, 2.05), (4.0, 5.5)], 100, 2.0)
    assert found is not None
    assert found.joules == pytest.approx(12.5)
    assert found.joules_per_token == pytest.approx(0.125)
    assert found.average_watts == pytest.approx(5)
    assert (found.tokens, found.idle_watts, found.source) == (100, 2.0, "RAPL")


@pytest.mark.parametrize(
    ("readings", "between", "tokens"),
    [
        ([], [(0.0, 1.0)], 10),
        ([Reading(t / 10, 1.0) for t in range(50)], [(0.0, 4.0)], 10),  # nothing was counted
        ([Reading(t / 10, float(t > 20)) for t in range(50)], [(0.0, 4.0)], 10),  # one step of a coarse counter
        ([Reading(t / 10, float(t)) for t in range(50)], [(3.0, 9.0)], 10),  # it ended before the work
        ([Reading(t / 10, float(t)) for t in range(50)], [], 10),
        ([Reading(t / 10, float(t)) for t in range(50)], [(0.0, 4.0)], 0),
    ],
)
def test_too_little_is_absent(readings: list[Reading], between: list[tuple[float, float]], tokens: int) -> None:
    assert energy_of(_counter(), readings, between, tokens, None) is None


def test_idle_watts() -> None:
    values = iter([0, 3_000_000, 3_000_000, 3_000_000])
    clock = iter([0.0, 0.5, 1.0, 1.5])
    meter = Counter("RAPL", "x", [lambda: next(values)], 1e-6, [1 << 40], lambda: next(clock))
    assert idle_watts(meter, 0.5, lambda _: None) == pytest.approx(6)
    assert idle_watts(meter, 0.5, lambda _: None) is None


@pytest.mark.parametrize(
    ("state", "watts"),
    [
        ({"present": 1, "discharging": 1, "rate": -8500}, 8.5),
        ({"present": 1, "discharging": 0, "rate": -8500}, None),
        ({"present": 1, "discharging": 1, "rate": 8500}, None),
        ({"present": 1, "discharging": 1, "rate": 0}, None),
        ({"present": 1, "discharging": 1, "rate": -(1 << 31)}, None),
        ({"present": 0, "discharging": 0, "rate": 0}, None),
    ],
)
def test_windows_battery_rate(state: dict[str, int], watts: float | None) -> None:
    assert discharge_watts(SimpleNamespace(**state)) == watts


class _Nvml:
    def __init__(self, *, counts: bool = True) -> None:
        self.millijoules, self.status = 5_000, 0 if counts else 3  # 3: NVML_ERROR_NOT_SUPPORTED

    def nvmlInit_v2(self) -> int:  # noqa: N802 - NVML's name
        return 0

    def nvmlDeviceGetHandleByIndex_v2(self, index: int, handle: object) -> int:  # noqa: N802
        return index

    def nvmlDeviceGetTotalEnergyConsumption(self, device: object, told: Any) -> int:  # noqa: N802
        told._obj.value = self.millijoules
        return self.status


def test_nvidias_counter() -> None:
    library = _Nvml()
    meter = energy._nvidia(library)
    assert joules(meter) == 0
    library.millijoules += 2_500
    assert joules(meter) == pytest.approx(2.5)
    assert energy._nvidia(_Nvml(counts=False)) is None
