"""Which variant of a package a machine gets, and why not each of the others. Pure: no file, no runtime.

The rules, decided in docs/decisions/0014-which-variant-a-machine-gets.md:

- The order is NPU, GPU by its vendor's own path (DirectML on Windows), GPU by WebGPU, CPU. A software adapter, which
  runs a GPU's kernels on the CPU, counts only where the user allowed it, and comes after the CPU.
- Eligible is a variant that can run here: its provider is in the installed runtime and offers a device, the chip is the
  one it was compiled for, and its weights are smaller than the memory. Nothing else makes it ineligible.
- A profile applies only to a machine such as it describes: the architecture of this process, nearly the memory, and the
  vendor of the GPU that would run. One that names the vendor goes before one that names none, more memory before less.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from phiforge.providers import PROVIDERS
from phiforge.soc import SOC_MODELS

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from phiforge.evidence import Machine
    from phiforge.target import Profile

# Providers by their names in genai_config, in the order in which a machine gets them.
PREFERENCE = ("qnn", "dml", "webgpu", "cpu")
GPU_PROVIDERS = frozenset(name for name, provider in PROVIDERS.items() if provider.device == "gpu")
_ORDER_TOLD = "the order is NPU, DirectML, WebGPU, CPU"
_SOFTWARE_ORDER_TOLD = "a software adapter never goes before the CPU"
DML_PROVIDER = PROVIDERS["dml"].execution_provider
# Distributions that bring onnxruntime, and onnxruntime-genai; two of one kind write over each other's files.
ONNXRUNTIME_WHEELS = ("onnxruntime-windowsml", "onnxruntime-directml", "onnxruntime-gpu", "onnxruntime")
GENAI_WHEELS = (
    "onnxruntime-genai-winml",
    "onnxruntime-genai-directml",
    "onnxruntime-genai-cuda",
    "onnxruntime-genai",
)
PLUGIN_WHEELS = {"qnn": "onnxruntime-qnn", "webgpu": "onnxruntime-ep-webgpu"}
RUNTIME_WHEELS = (*ONNXRUNTIME_WHEELS, *GENAI_WHEELS, *PLUGIN_WHEELS.values())
# The extra of phiforge that brings a provider.
EXTRAS = {"cpu": "cpu", "dml": "windows", "qnn": "qnn", "webgpu": "webgpu"}
# Systems keep memory for firmware and graphics: a computer sold with 8 GiB tells of 7 at least.
MEMORY_TOLD_FRACTION = 7 / 8
# Names of Windows' registry (ProcessorNameString), as "Snapdragon(R) X Elite - X1E80100 - Qualcomm(R) Oryon(TM) CPU".
_CHIPS = ((re.compile(r"\bX1[EP]\d|\bX (?:Elite|Plus)\b"), 60), (re.compile(r"\bX2E\d|\bX2 Elite\b"), 88))


@dataclass(frozen=True, kw_only=True)
class Adapter:
    """A device that a provider offers; `provider` by its name in genai_config, the vendor by its PCI id."""

    provider: str
    kind: Literal["cpu", "gpu", "npu"]
    vendor_id: int
    description: str
    software: bool = False


@dataclass(frozen=True, kw_only=True)
class Abilities:
    """What the runtimes installed on this machine offer.

    Attributes:
        machine: The machine.
        platform: Python's name of the system: "linux", "win32", "darwin".
        wheels: Version of each installed distribution of RUNTIME_WHEELS.
        onnxruntime: The version that onnxruntime gives itself; None where it does not import.
        missing: Why no variant can run at all; None if onnxruntime and onnxruntime-genai import.
        providers: Providers built into onnxruntime, by its names.
        genai_has_dml: Whether onnxruntime-genai is built with DirectML.
        faults: Why a provider is of no use, by its name in genai_config.
        adapters: Devices of the GPU and NPU providers, of each provider the one it takes first.
        software_allowed: Whether the user allowed software adapters.
        sdk: Version of the installed QNN SDK, as "2.51.0"; None without it.
    """

    machine: Machine
    platform: str
    wheels: Mapping[str, str]
    onnxruntime: str | None
    missing: str | None
    providers: frozenset[str] = frozenset()
    genai_has_dml: bool = False
    faults: Mapping[str, str] = field(default_factory=dict)
    adapters: tuple[Adapter, ...] = ()
    software_allowed: bool = False
    sdk: str | None = None

    def adapters_of(self, provider: str) -> tuple[Adapter, ...]:
        """The devices of one provider, by its name in genai_config."""
        return tuple(adapter for adapter in self.adapters if adapter.provider == provider)

    def wheel_of(self, names: Sequence[str]) -> str:
        """The first installed one of some distributions with its version, or the last one's name alone."""
        return next((f"{name} {self.wheels[name]}" for name in names if name in self.wheels), names[-1])


@dataclass(frozen=True, kw_only=True)
class Offer:
    """A packaged variant as far as a choice needs it: `soc_model` and `sdk_version` are of an NPU's binaries."""

    variant: str
    provider: str
    device: str
    bytes: int
    profiles: tuple[Profile, ...]
    soc_model: int | None = None
    sdk_version: str | None = None


@dataclass(frozen=True, kw_only=True)
class Choice:
    """What becomes of one variant on this machine.

    Attributes:
        variant: Its name.
        provider: Its provider, by the name in genai_config.
        device: "cpu", "gpu" or "npu".
        profiles: The profiles it is packaged for.
        eligible: Whether it can run here.
        why: The reason, in a sentence or two.
        profile: The profile that applies to this machine, if one does.
        adapters: The devices that would run it, the first one first; equal names are numbered.
        remedy: The command that adds what is missing, where one does.
        first: The first of the devices; None for the CPU, and where the variant cannot run.
    """

    variant: str
    provider: str
    device: str
    profiles: tuple[str, ...]
    eligible: bool
    why: str
    profile: str | None
    adapters: tuple[str, ...]
    remedy: str | None = None
    first: Adapter | None = None


@dataclass(frozen=True)
class Finding:
    """Whether a provider is here for real, and why; its devices, or the command that brings what is missing."""

    able: bool
    why: str
    adapters: tuple[Adapter, ...] = ()
    remedy: str | None = None


def choose(offers: Sequence[Offer], abilities: Abilities) -> tuple[str | None, tuple[Choice, ...]]:
    """Return the variant this machine gets, if any, and what becomes of each, in the order of preference."""
    judged = sorted(((offer, _judge(offer, abilities)) for offer in offers), key=lambda pair: _rank(*pair))
    chosen = next((offer.variant for offer, finding in judged if finding.able), None)
    return chosen, tuple(_choice(offer, finding, abilities.machine, chosen) for offer, finding in judged)


def fitting_profile(profiles: Sequence[Profile], machine: Machine, adapter: Adapter | None) -> Profile | None:
    """Return the profile that applies to this machine, the closest one first; None if none does.

    Args:
        profiles: The profiles a variant is packaged for, in the package's order.
        machine: This machine.
        adapter: The device that would run the variant; None for the CPU.
    """
    fitting = [profile for profile in profiles if mismatch(profile, machine, adapter) is None]

    def closeness(profile: Profile) -> tuple[bool, int]:
        return profile.hardware.gpu_vendor_id is not None, profile.hardware.memory_bytes

    return max(fitting, key=closeness, default=None)


def mismatch(profile: Profile, machine: Machine, adapter: Adapter | None) -> str | None:
    """Return what a profile is for, if this machine is not such; None if it is.

    Args:
        profile: A profile that a variant is packaged for.
        machine: This machine.
        adapter: The device that would run the variant; None for the CPU.
    """
    hardware = profile.hardware
    if hardware.architecture not in (None, machine.process_architecture):
        return f"{profile.name} is for {hardware.architecture}"
    if machine.memory_bytes < hardware.memory_bytes * MEMORY_TOLD_FRACTION:
        return f"{profile.name} is for {hardware.memory_bytes / 1e9:.1f} GB of memory"
    # A software adapter has its processor's vendor.
    vendor_id = None if adapter is None or adapter.software else adapter.vendor_id
    if hardware.gpu_vendor_id not in {None, vendor_id}:
        return f"{profile.name} is for GPUs of vendor {hardware.gpu_vendor_id:#06x}"
    return None


def chip_of(processor: str) -> int | None:
    """Return QNN's soc_model of a processor by its name; None for one that is not known.

    The 8-core X Plus counts as the X Elite's chip, as in Qualcomm's table (phiforge.soc).
    """
    return next((soc for pattern, soc in _CHIPS if pattern.search(processor)), None)


def directml(abilities: Abilities, wanted: str = GENAI_WHEELS[0]) -> Finding:
    """Return whether DirectML is on this machine for real.

    Args:
        abilities: What its runtimes offer.
        wanted: The runtime that would bring it, as a profile names it.
    """
    if abilities.platform != "win32":
        where = f"in this onnxruntime {abilities.onnxruntime}" if abilities.onnxruntime else "here"
        return Finding(False, f"{DML_PROVIDER} is not {where}; it comes with {wanted} on Windows.")
    remedy = install(EXTRAS["dml"])
    if abilities.missing:
        return Finding(False, abilities.missing, remedy=remedy)
    if not abilities.genai_has_dml:
        has = abilities.wheel_of(GENAI_WHEELS)
        why = f"DirectML is not in this onnxruntime-genai, {has}; {wanted} has it"
        return _clash(GENAI_WHEELS, abilities) or Finding(False, f"{why}.", remedy=remedy)
    if DML_PROVIDER not in abilities.providers:
        why = f"{DML_PROVIDER} is not in this onnxruntime {abilities.onnxruntime}; {ONNXRUNTIME_WHEELS[0]} has it"
        return _clash(ONNXRUNTIME_WHEELS, abilities) or Finding(False, f"{why}.", remedy=remedy)
    return _with_adapters(f"{DML_PROVIDER} of {abilities.wheel_of(ONNXRUNTIME_WHEELS)}", "dml", abilities)


def webgpu(abilities: Abilities) -> Finding:
    """Return whether WebGPU is on this machine for real."""
    remedy = install(EXTRAS["webgpu"])
    if abilities.missing:
        return Finding(False, abilities.missing, remedy=remedy)
    if PLUGIN_WHEELS["webgpu"] not in abilities.wheels:
        return Finding(False, f"{PLUGIN_WHEELS['webgpu']} is not installed.", remedy=remedy)
    return _with_adapters(f"The plugin {abilities.wheel_of((PLUGIN_WHEELS['webgpu'],))}", "webgpu", abilities)


def install(extra: str) -> str:
    """Return the command that brings an extra of phiforge."""
    return f'pip install -c constraints.txt "phiforge[{extra}]"'


def _judge(offer: Offer, abilities: Abilities) -> Finding:
    """Whether a variant can run on this machine, and why not."""
    rule = _RULES.get(offer.provider)
    if rule is None:
        return Finding(False, f"phiforge knows no provider {offer.provider}.")
    finding = rule(offer, abilities)
    if not finding.able or offer.bytes <= abilities.machine.memory_bytes:
        return finding
    has, needs = abilities.machine.memory_bytes / 1e9, offer.bytes / 1e9
    return Finding(False, f"It has {needs:.2f} GB of weights, and this machine {has:.2f} GB of memory.")


def _rank(offer: Offer, finding: Finding) -> tuple[int, str]:
    known = PREFERENCE.index(offer.provider) if offer.provider in PREFERENCE else len(PREFERENCE)
    return known + (len(PREFERENCE) if _is_software(finding) else 0), offer.variant


def _is_software(finding: Finding) -> bool:
    return bool(finding.adapters) and all(adapter.software for adapter in finding.adapters)


def _choice(offer: Offer, finding: Finding, machine: Machine, chosen: str | None) -> Choice:
    first = finding.adapters[0] if finding.adapters else None
    profile = fitting_profile(offer.profiles, machine, first) if finding.able else None
    why = [finding.why]
    if finding.able and offer.variant != chosen:
        why.append(f"{chosen} goes before it: {_SOFTWARE_ORDER_TOLD if _is_software(finding) else _ORDER_TOLD}.")
    if finding.able and profile is None:
        why.append(_no_profile(offer.profiles, machine, first))
    names = [adapter.description for adapter in finding.adapters] or [machine.processor]
    return Choice(
        variant=offer.variant,
        provider=offer.provider,
        device=offer.device,
        profiles=tuple(profile.name for profile in offer.profiles),
        eligible=finding.able,
        why=" ".join(why),
        profile=profile.name if profile else None,
        adapters=_numbered(names) if finding.able else (),
        remedy=finding.remedy,
        first=first if finding.able else None,
    )


def _no_profile(profiles: Sequence[Profile], machine: Machine, adapter: Adapter | None) -> str:
    told = "; ".join(reason for profile in profiles if (reason := mismatch(profile, machine, adapter)))
    here = f"{machine.process_architecture}, {machine.memory_bytes / 1e9:.1f} GB"
    return f"No profile of it is for this machine ({here}): {told or 'it has none'}."


def _numbered(names: Sequence[str]) -> tuple[str, ...]:
    """Number those names that occur more than once, in their order."""
    total, seen = Counter(names), Counter[str]()
    told = []
    for name in names:
        seen[name] += 1
        told.append(f"{name} ({seen[name]})" if total[name] > 1 else name)
    return tuple(told)


def _cpu(offer: Offer, abilities: Abilities) -> Finding:
    if abilities.missing:
        return Finding(False, abilities.missing, remedy=install(EXTRAS["cpu"]))
    return Finding(True, f"The CPU provider is in {abilities.wheel_of(ONNXRUNTIME_WHEELS)}.")


def _dml(offer: Offer, abilities: Abilities) -> Finding:
    named = (f"{profile.runtime.package} {profile.runtime.version}" for profile in offer.profiles)
    return directml(abilities, next(named, GENAI_WHEELS[0]))


def _webgpu(offer: Offer, abilities: Abilities) -> Finding:
    return webgpu(abilities)


def _clash(names: Sequence[str], abilities: Abilities) -> Finding | None:
    """The finding that several distributions with the same files are installed, of which the last one won."""
    installed = [name for name in names if name in abilities.wheels]
    if len(installed) < 2:
        return None
    told = " and ".join(f"{name} {abilities.wheels[name]}" for name in installed)
    why = f"{told} wrote over each other's files. Remove them, then install the extra {EXTRAS['dml']} again."
    return Finding(False, why, remedy=f"pip uninstall -y {' '.join(installed)}")


def _with_adapters(who: str, provider: str, abilities: Abilities) -> Finding:
    """A GPU provider is able where it offers a real GPU that works, or a software adapter that the user allowed."""
    if fault := abilities.faults.get(provider):
        return Finding(False, fault)
    adapters = abilities.adapters_of(provider)
    real = tuple(adapter for adapter in adapters if not adapter.software)
    if real:
        others = f", the first of {len(real)} adapters" if len(real) > 1 else ""
        return Finding(True, f"{who} offers {real[0].description}{others}.", adapters=real)
    if adapters and abilities.software_allowed:
        return Finding(True, f"{who} offers {adapters[0].description}: right numbers, no speed.", adapters=adapters)
    if adapters:
        return Finding(False, f"{who} offers {adapters[0].description} only, which was not allowed.")
    return Finding(False, f"{who} is here, but offers no GPU on this machine.")


def _qnn(offer: Offer, abilities: Abilities) -> Finding:
    machine, chip = abilities.machine, _chip_name(offer.soc_model)
    if machine.process_architecture != "arm64":
        if machine.architecture == "arm64":
            return Finding(
                False, f"This process is {machine.process_architecture} on an Arm computer; use a Python for Arm64."
            )
        return Finding(False, f"It is compiled for {chip}; this machine is {machine.architecture}.")
    remedy = install(EXTRAS["qnn"])
    if abilities.missing:
        return Finding(False, abilities.missing, remedy=remedy)
    if PLUGIN_WHEELS["qnn"] not in abilities.wheels:
        return Finding(False, f"{PLUGIN_WHEELS['qnn']} is not installed.", remedy=remedy)
    if fault := abilities.faults.get("qnn"):
        return Finding(False, fault)
    npus = tuple(adapter for adapter in abilities.adapters_of("qnn") if adapter.kind == "npu")
    if not npus:
        return Finding(False, "The plugin for QNN is here, but offers no NPU on this machine.")
    here = chip_of(machine.processor)
    if here is not None and here != offer.soc_model:
        return Finding(False, f"It is compiled for {chip}; this machine has {_chip_name(here)}.")
    if fault := _older_sdk(offer, abilities):
        return Finding(False, fault, remedy=remedy)
    unsure = "" if here else f" Whether it is {chip} cannot be told from its name; binaries for another do not load."
    return Finding(True, f"The plugin for QNN offers {npus[0].description}.{unsure}", adapters=npus)


def _older_sdk(offer: Offer, abilities: Abilities) -> str | None:
    # Imported here: it brings onnx_ir, which no other rule needs.
    from phiforge.graph.npu.context import parse_sdk

    compiled, installed = offer.sdk_version or "none", abilities.sdk or "none"
    try:
        if parse_sdk(compiled) <= parse_sdk(installed):
            return None
    except ValueError as error:
        return f"Whether the installed QNN SDK is new enough cannot be told: {error}."
    return f"It was compiled with QNN SDK {compiled}; installed is {installed}, which is older."


def _chip_name(soc_model: int | None) -> str:
    if soc_model is None:
        return "an unnamed chip"
    soc = SOC_MODELS.get(soc_model)
    return f"{soc.name} (soc_model {soc_model})" if soc else f"soc_model {soc_model}"


# How each provider is judged, by its name in genai_config.
_RULES: dict[str, Callable[[Offer, Abilities], Finding]] = {
    "cpu": _cpu,
    "dml": _dml,
    "qnn": _qnn,
    "webgpu": _webgpu,
}
