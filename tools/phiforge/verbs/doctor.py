"""Doctor: what this machine can build, run and emulate, and what is missing."""

from __future__ import annotations

import importlib.util
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

from phiforge.machine import default_threads, tool_versions
from phiforge.runtime.abilities import find_abilities
from phiforge.selection import GENAI_WHEELS, ONNXRUNTIME_WHEELS, directml, webgpu

if TYPE_CHECKING:
    from phiforge.evidence import Machine
    from phiforge.selection import Finding


@dataclass(frozen=True, kw_only=True)
class Ability:
    """One thing this machine can do or not, and the command that adds what is missing."""

    name: str
    able: bool
    detail: str
    remedy: str | None = None


@dataclass(frozen=True, kw_only=True)
class Diagnosis:
    """The machine and its abilities."""

    machine: Machine
    threads: int
    free_memory_bytes: int
    free_disk_bytes: int
    abilities: tuple[Ability, ...]


# What each ability needs, as (distribution, import name), and the extra that brings it.
NEEDS: dict[str, tuple[tuple[tuple[str, str], ...], str]] = {
    "build": (
        (
            ("olive-ai", "olive"),
            ("torch", "torch"),
            ("transformers", "transformers"),
            ("requests", "requests"),
            ("onnxruntime-genai", "onnxruntime_genai"),
        ),
        "build,cpu",
    ),
    "validate": (
        (("torch", "torch"), ("transformers", "transformers"), ("onnxruntime-genai", "onnxruntime_genai")),
        "build,cpu",
    ),
    "run on the CPU": ((("onnxruntime", "onnxruntime"), ("onnxruntime-genai", "onnxruntime_genai")), "cpu"),
    # The compiler and, on x86, the emulator of Qualcomm's NPUs are in one wheel.
    "compile for an NPU": ((("onnxruntime-qnn", "onnxruntime_qnn"),), "build,qnn"),
}
# Modules that more than one distribution brings.
WHEELS = {"onnxruntime": ONNXRUNTIME_WHEELS, "onnxruntime_genai": GENAI_WHEELS}


def doctor() -> Diagnosis:
    """Return what this machine can do."""
    found = find_abilities(("dml", "webgpu"))
    abilities = [_ability(name, needs, extra) for name, (needs, extra) in NEEDS.items()]
    abilities.append(_gpu("run on a GPU (WebGPU)", webgpu(found)))
    if sys.platform == "win32":
        abilities.append(_gpu("run on a GPU (DirectML)", directml(found)))
    return Diagnosis(
        machine=found.machine,
        threads=default_threads(),
        free_memory_bytes=psutil.virtual_memory().available,
        free_disk_bytes=shutil.disk_usage(Path.cwd()).free,
        abilities=tuple(abilities),
    )


def _ability(name: str, needs: tuple[tuple[str, str], ...], extra: str) -> Ability:
    missing = [distribution for distribution, module in needs if importlib.util.find_spec(module) is None]
    if missing:
        return Ability(
            name=name,
            able=False,
            detail=f"Missing: {', '.join(missing)}.",
            remedy=f'pip install -c constraints.txt "phiforge[{extra}]"',
        )
    return Ability(name=name, able=True, detail=", ".join(_told(*need) for need in needs))


def _gpu(name: str, finding: Finding) -> Ability:
    return Ability(name=name, able=finding.able, detail=finding.why, remedy=finding.remedy)


def _told(distribution: str, module: str) -> str:
    """The installed distribution that brings a module, with its version."""
    versions = tool_versions(WHEELS.get(module, (distribution,)))
    return next((f"{name} {version}" for name, version in versions.items()), f"{distribution} (version unknown)")
