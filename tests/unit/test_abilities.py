"""What onnxruntime tells of its devices, and what comes of trying them; the runtime itself is asked in tests/tiny."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import asdict, replace
from types import SimpleNamespace

import pytest

from phiforge.runtime.abilities import Answer, describe_device, place_of, run_probe
from phiforge.selection import Adapter

AMD, INTEL, NVIDIA, QUALCOMM = 0x1002, 0x8086, 0x10DE, 0x5143
GEFORCE = Adapter(provider="dml", kind="gpu", vendor_id=NVIDIA, description="NVIDIA GeForce RTX 4090")
SOFTWARE = Adapter(provider="webgpu", kind="cpu", vendor_id=INTEL, description="a software adapter", software=True)


def device(kind: str, vendor_id: int, device_id: int = 0x2684, *, vendor: str = "", **metadata: str) -> SimpleNamespace:
    hardware = SimpleNamespace(
        type=SimpleNamespace(name=kind), vendor_id=vendor_id, vendor=vendor, device_id=device_id, metadata=metadata
    )
    return SimpleNamespace(device=hardware)


def test_a_device_is_called_what_windows_calls_it() -> None:
    named = describe_device(device("GPU", NVIDIA, Description="NVIDIA GeForce RTX 4090"), "dml")
    assert named == GEFORCE


@pytest.mark.parametrize(
    ("made", "provider", "adapter"),
    [
        (device("GPU", NVIDIA), "webgpu", replace(GEFORCE, provider="webgpu", description="NVIDIA GPU 0x2684")),
        (
            device("GPU", 0x1A03),
            "webgpu",
            Adapter(provider="webgpu", kind="gpu", vendor_id=0x1A03, description="vendor 0x1a03 GPU 0x2684"),
        ),
        (device("CPU", INTEL, vendor="Intel"), "webgpu", SOFTWARE),
        (
            device("GPU", 0x1414, Description="Microsoft Basic Render Driver"),
            "dml",
            Adapter(
                provider="dml", kind="gpu", vendor_id=0x1414, description="Microsoft Basic Render Driver", software=True
            ),
        ),
        (
            device("GPU", 0x4D4F4351, Description="Qualcomm(R) Adreno(TM) X1-85 GPU"),
            "dml",
            Adapter(provider="dml", kind="gpu", vendor_id=QUALCOMM, description="Qualcomm(R) Adreno(TM) X1-85 GPU"),
        ),
    ],
)  # fmt: skip
def test_devices_are_told_apart(made: SimpleNamespace, provider: str, adapter: Adapter) -> None:
    assert describe_device(made, provider) == adapter


def test_devices_are_in_the_order_of_performance() -> None:
    slow = device("GPU", INTEL, 1, DxgiHighPerformanceIndex="1", DxgiAdapterNumber="0")
    fast = device("GPU", NVIDIA, 2, DxgiHighPerformanceIndex="0", DxgiAdapterNumber="1")
    assert sorted([slow, fast], key=place_of) == [fast, slow]
    second, first = device("GPU", AMD, 1, card_idx="10"), device("GPU", AMD, 2, card_idx="2")
    assert sorted([second, first], key=place_of) == [first, second]


def test_a_driver_that_crashes_hangs_or_talks_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def answers(stdout: bytes, code: int = 0) -> Answer:
        done = SimpleNamespace(stdout=stdout, stderr=b"much\nSegmentation fault\n\n", returncode=code)
        monkeypatch.setattr(subprocess, "run", lambda *_, **__: done)
        return run_probe("webgpu")

    good = json.dumps({"fault": None, "adapters": [asdict(SOFTWARE)]}).encode()
    assert answers(b"vulkan says\nmuch \xff\n" + good + b"\n") == Answer(adapters=(SOFTWARE,))
    assert answers(b'{"fault": "No adapter.", "adapters": []}') == Answer(fault="No adapter.")
    for odd in (b"", b"[1, 2]", b'{"fault": null}', b'{"fault": null, "adapters": [{"kind": "gpu"}]}'):
        assert answers(odd, -11).fault == "The process that tried it ended with exit code -11: Segmentation fault"

    def hangs(*_: object, **__: object) -> None:
        raise subprocess.TimeoutExpired("probe", 60)

    monkeypatch.setattr(subprocess, "run", hangs)
    assert run_probe("webgpu").fault == "Its driver did not add two numbers within 60 seconds."


def test_a_probe_imports_nothing_from_the_working_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    commands: list[list[str]] = []

    def hangs(command: list[str], **_: object) -> None:
        commands.append(command)
        raise subprocess.TimeoutExpired("probe", 60)

    monkeypatch.setattr(subprocess, "run", hangs)
    run_probe("webgpu")
    assert commands == [[sys.executable, "-P", "-m", "phiforge.runtime.probe_worker", "webgpu"]]
