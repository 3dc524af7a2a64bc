"""What the runtimes installed here offer: providers, plugins, devices, versions. Works where none is installed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from phiforge import errors
from phiforge.machine import describe_machine, tool_versions
from phiforge.selection import (
    DML_PROVIDER,
    GENAI_WHEELS,
    ONNXRUNTIME_WHEELS,
    PLUGIN_WHEELS,
    RUNTIME_WHEELS,
    Abilities,
    Adapter,
)

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

ALL_PROVIDERS = ("dml", "qnn", "webgpu")
# PCI ids (pcisig.com/membership/member-companies); 0x5143 is what Qualcomm's GPUs call themselves, 0x4D4F4351 ("QCOM")
# what those on a chip do on Windows, where they have no PCI id.
VENDORS = {0x1002: "AMD", 0x106B: "Apple", 0x10DE: "NVIDIA", 0x1414: "Microsoft", 0x5143: "Qualcomm", 0x8086: "Intel"}
_ALIASES = {0x4D4F4351: 0x5143}
# Microsoft's Basic Render Driver runs on the CPU.
_SOFTWARE_VENDOR = 0x1414
# What onnxruntime tells of a device's place among its like: on Windows by DXGI's order of performance, which
# onnxruntime-genai follows, and DXGI's number; on Linux the kernel's. Source: core/platform/*/device_discovery.cc.
_ORDER_KEYS = ("DxgiHighPerformanceIndex", "DxgiAdapterNumber", "card_idx")
# A driver that has not added two numbers by then hangs.
PROBE_SECONDS = 60
_SOURCE_ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What a provider's probe found: its devices, and why it is of no use if it is of none."""

    fault: str | None = None
    adapters: tuple[Adapter, ...] = ()


def find_abilities(providers: Collection[str] = ALL_PROVIDERS) -> Abilities:
    """Return what the runtimes installed on this machine offer.

    Args:
        providers: Which of ALL_PROVIDERS to look for; other names are passed over. Each that is installed is tried in a
            process of its own, so none is registered in this one.
    """
    machine, wheels = describe_machine(), tool_versions(RUNTIME_WHEELS)
    try:
        # Imported here: onnxruntime may be absent, and whoever has it loads it only when it is asked for.
        from phiforge.runtime.onnx_runtime import ort
    except errors.DependencyMissingError as error:
        absent = not set(ONNXRUNTIME_WHEELS) & set(wheels)
        why = "onnxruntime is not installed." if absent else error.why
        return Abilities(machine=machine, platform=sys.platform, wheels=wheels, onnxruntime=None, missing=why)
    missing, has_dml = _genai(wheels)
    built_in = frozenset(ort.get_available_providers())
    here = {
        "dml": DML_PROVIDER in built_in,
        # An NPU's binaries load on Arm alone; elsewhere its plugin is an emulator, which is not asked for here.
        "qnn": PLUGIN_WHEELS["qnn"] in wheels and machine.process_architecture == "arm64",
        "webgpu": PLUGIN_WHEELS["webgpu"] in wheels,
    }
    answers = {name: run_probe(name) for name in ALL_PROVIDERS if name in providers and here[name]}
    return Abilities(
        machine=machine,
        platform=sys.platform,
        wheels=wheels,
        onnxruntime=str(ort.__version__),
        missing=missing,
        providers=built_in,
        genai_has_dml=has_dml,
        faults={name: answer.fault for name, answer in answers.items() if answer.fault},
        adapters=tuple(adapter for answer in answers.values() for adapter in answer.adapters),
        software_allowed=_software_allowed(),
        sdk=_sdk() if "qnn" in answers else None,
    )


def _genai(wheels: Mapping[str, str]) -> tuple[str | None, bool]:
    """Why onnxruntime-genai is of no use, or None; and whether it is built with DirectML."""
    try:
        import onnxruntime_genai as og
    except (ImportError, OSError) as error:  # OSError: a library it loads itself is broken
        installed = set(GENAI_WHEELS) & set(wheels)
        told = f"onnxruntime-genai does not import: {error}".rstrip(".") if installed else ""
        return f"{told or 'onnxruntime-genai is not installed'}.", False
    return None, bool(og.is_dml_available())


def place_of(device: Any) -> tuple[int, ...]:
    """Return what sorts an `OrtEpDevice` into the order in which a provider takes its devices."""
    metadata = device.device.metadata
    told = [str(metadata.get(key, "")) for key in _ORDER_KEYS]
    return (*(int(text) if text.isdecimal() else sys.maxsize for text in told), int(device.device.device_id))


def describe_device(device: Any, provider: str) -> Adapter:
    """Return the facts of an `OrtEpDevice`.

    Args:
        device: What onnxruntime offers.
        provider: Its provider, by the name in genai_config.
    """
    hardware = device.device
    vendor_id = _ALIASES.get(int(hardware.vendor_id), int(hardware.vendor_id))
    kind = _kind(hardware)
    software = provider != "qnn" and (kind == "cpu" or vendor_id == _SOFTWARE_VENDOR)
    vendor = VENDORS.get(vendor_id) or str(hardware.vendor) or f"vendor {vendor_id:#06x}"
    plain = "a software adapter" if software else f"{vendor} {kind.upper()} {int(hardware.device_id):#06x}"
    return Adapter(
        provider=provider,
        kind=kind,
        vendor_id=vendor_id,
        description=str(hardware.metadata.get("Description", "")).strip() or plain,
        software=software,
    )


def _kind(hardware: Any) -> Literal["cpu", "gpu", "npu"]:
    kinds: dict[str, Literal["gpu", "npu"]] = {"GPU": "gpu", "NPU": "npu"}
    return kinds.get(hardware.type.name, "cpu")


def run_probe(provider: str) -> Answer:
    """Try a provider in a process of its own, and return what it offers.

    Args:
        provider: By its name in genai_config.
    """
    paths = [str(_SOURCE_ROOT), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in paths if path)}
    # -P: nothing in the working folder is imported in place of what is installed.
    command = [sys.executable, "-P", "-m", "phiforge.runtime.probe_worker", provider]
    try:
        done = subprocess.run(command, capture_output=True, check=False, env=environment, timeout=PROBE_SECONDS)
    except subprocess.TimeoutExpired:
        return Answer(fault=f"Its driver did not add two numbers within {PROBE_SECONDS} seconds.")
    try:
        told = json.loads(done.stdout.decode("utf-8", errors="replace").strip().splitlines()[-1])
        return Answer(fault=told["fault"], adapters=tuple(Adapter(**adapter) for adapter in told["adapters"]))
    except (ValueError, LookupError, TypeError):
        said = done.stderr.decode("utf-8", errors="replace").split("\n")
        last = next((line.strip() for line in reversed(said) if line.strip()), "it said nothing")
        return Answer(fault=f"The process that tried it ended with exit code {done.returncode}: {last}")


def _software_allowed() -> bool:
    from phiforge.runtime.plugins import SOFTWARE_ADAPTER_VARIABLE

    return os.environ.get(SOFTWARE_ADAPTER_VARIABLE) == "1"


def _sdk() -> str | None:
    from phiforge.runtime.qnn import sdk_version

    try:
        return sdk_version()
    except errors.DependencyMissingError:
        return None
