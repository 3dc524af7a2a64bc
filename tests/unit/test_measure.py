"""What `measure` decides before it measures."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

import phiforge
from phiforge import errors
from phiforge.evidence import Machine
from phiforge.selection import Adapter, Choice
from phiforge.validation import latency
from phiforge.verbs import explain, measure
from phiforge.verbs.explain import Explanation
from phiforge.verbs.packaged import profile_files
from unit.packages import DEVICE, PROFILE, npu_package

VARIANT = "qnn-a16w4"
NVIDIA = 0x10DE


def _choice(*adapters: str) -> Choice:
    return Choice(
        variant="directml-int4",
        provider="dml",
        device="gpu",
        profiles=("directml-generic",),
        eligible=True,
        why="",
        profile="directml-generic",
        adapters=adapters,
    )


def test_of_two_devices_of_one_kind_the_first_is_measured() -> None:
    choice = _choice("NVIDIA GPU 0x2684 (1)", "NVIDIA GPU 0x2684 (2)")
    assert measure._device(choice, None) == measure._device(choice, 0) == 0


def test_another_one_is_refused_rather_than_measured_as_the_first() -> None:
    with pytest.raises(errors.FallbackError, match=r"cannot be measured on NVIDIA GPU 0x2684 \(2\)") as caught:
        measure._device(_choice("NVIDIA GPU 0x2684 (1)", "NVIDIA GPU 0x2684 (2)"), 1)
    assert "0 NVIDIA GPU 0x2684 (1), 1 NVIDIA GPU 0x2684 (2)" in caught.value.why


def test_one_that_is_not_there_is_refused() -> None:
    with pytest.raises(errors.FallbackError, match="There is no device 2"):
        measure._device(_choice("a", "b"), 2)


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A variant for GPUs of any vendor, of NVIDIA, and of AMD, as far as its profiles say."""
    names = ("directml-generic", "directml-nvidia-rtx", "directml-amd-radeon")
    profiles = tuple(PROFILE.with_name(f"{name}.toml") for name in names)
    return npu_package(tmp_path_factory.mktemp("package"), profiles=profiles)


def _profile(package: Path, target: str | None, fits: str | None = "directml-generic") -> str:
    machine = DEVICE.model_copy(
        update={"architecture": "x86_64", "process_architecture": "x86_64", "memory_bytes": 32 * 2**30}
    )
    choice = Choice(
        variant=VARIANT,
        provider="dml",
        device="gpu",
        profiles=(),
        eligible=True,
        why="It is for others.",
        profile=fits,
        adapters=("a GPU",),
        first=Adapter(provider="dml", kind="gpu", vendor_id=NVIDIA, description="a GPU"),
    )
    explanation = Explanation(package=package, machine=machine, chosen=VARIANT, choices=(choice,))
    return measure._profile(explanation, choice, target).name


def test_the_profile_is_the_one_that_fits_or_another_one_that_does(package: Path) -> None:
    assert _profile(package, None, fits="directml-nvidia-rtx") == "directml-nvidia-rtx"
    assert _profile(package, "directml-generic", fits="directml-nvidia-rtx") == "directml-generic"


def test_a_profile_for_another_vendors_gpu_is_refused(package: Path) -> None:
    with pytest.raises(errors.ProfileUnknownError, match="directml-amd-radeon does not fit this machine") as caught:
        _profile(package, "directml-amd-radeon")
    assert "for GPUs of vendor 0x1002; the variant qnn-a16w4 runs on a GPU here" in caught.value.why
    assert caught.value.fix == "Name one that fits with --target: directml-generic, directml-nvidia-rtx."


def test_where_no_profile_fits_no_target_is_asked_for(package: Path) -> None:
    with pytest.raises(errors.ProfileUnknownError, match="No profile of the variant") as caught:
        _profile(package, None, fits=None)
    assert "--target" not in caught.value.fix


def _conditions(machine: Machine) -> list[object]:
    return measure._conditions(cast("Any", SimpleNamespace(explanation=SimpleNamespace(machine=machine))))


def test_parts_are_found_again_after_a_restart_and_on_no_other_machine() -> None:
    later = DEVICE.model_copy(update={"memory_bytes": DEVICE.memory_bytes + 8192, "power_source": "battery"})
    assert _conditions(later) == _conditions(DEVICE)
    for change in ({"processor": "another"}, {"physical_cores": 4}, {"memory_bytes": DEVICE.memory_bytes * 2}):
        assert _conditions(DEVICE.model_copy(update=change)) != _conditions(DEVICE)


def test_the_measuring_process_imports_nothing_from_the_working_folder(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    started: list[tuple[list[str], dict[str, str]]] = []

    def start(command: list[str], *, env: dict[str, str], **_: object) -> None:
        started.append((command, env))
        raise InterruptedError

    monkeypatch.setattr(subprocess, "Popen", start)
    work = latency.Work(warmups=0, repeats=1, prompt_tokens=(4,), decode_tokens=1)
    with pytest.raises(InterruptedError):
        latency.run_worker(tmp_path, threads=1, session_options={}, work=work, progress=lambda *_: None)
    ((command, environment),) = started
    assert command[:4] == [sys.executable, "-P", "-m", "phiforge.runtime.bench_worker"]
    assert environment["PYTHONPATH"].split(os.pathsep)[0] == str(Path(phiforge.__file__).parents[1])


def test_explain_takes_no_profile_that_has_another_name_than_its_file(tmp_path: Path) -> None:
    made = npu_package(tmp_path)
    assert [item.name for item in explain._offer(made, VARIANT).profiles] == [PROFILE.stem]
    (file,) = profile_files(made, VARIANT).values()
    file.rename(file.with_stem("another"))
    with pytest.raises(errors.ProfileInvalidError, match="another"):
        explain._offer(made, VARIANT)
