"""Which variant a machine gets: made-up machines, runtimes and packages."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from phiforge import errors
from phiforge.evidence import Machine
from phiforge.providers import PROVIDERS
from phiforge.selection import PREFERENCE, Abilities, Adapter, Choice, Offer, chip_of, choose, fitting_profile, mismatch
from phiforge.target import Hardware, Profile, Runtime, load_profile
from phiforge.verbs.explain import Explanation, chosen_variant

TARGETS = Path(__file__).parents[2] / "targets"
CPU_PROFILE = load_profile(TARGETS / "cpu-x64.toml")
NVIDIA, AMD, INTEL, QUALCOMM = 0x10DE, 0x1002, 0x8086, 0x5143
GIB = 2**30

PC = Machine(
    processor="AMD Ryzen 7 7840U w/ Radeon 780M Graphics",
    architecture="x86_64",
    process_architecture="x86_64",
    logical_cores=16,
    physical_cores=8,
    memory_bytes=16 * GIB,
    system="Windows 11",
)
ARM_PC = PC.model_copy(
    update={
        "processor": "Snapdragon(R) X Elite - X1E80100 - Qualcomm(R) Oryon(TM) CPU",
        "architecture": "arm64",
        "process_architecture": "arm64",
    }
)
GEFORCE = Adapter(provider="dml", kind="gpu", vendor_id=NVIDIA, description="NVIDIA GeForce RTX 4090")
RADEON = Adapter(provider="dml", kind="gpu", vendor_id=AMD, description="AMD Radeon 780M Graphics")
HEXAGON = Adapter(provider="qnn", kind="npu", vendor_id=QUALCOMM, description="Snapdragon(R) X Elite Hexagon NPU")
LLVMPIPE = Adapter(provider="webgpu", kind="cpu", vendor_id=INTEL, description="a software adapter", software=True)


def profile(
    name: str,
    *,
    vendor: int | None = None,
    architecture: Literal["x86_64", "arm64"] = "x86_64",
    memory: int = 8 * GIB,
    package: str = "onnxruntime-genai-winml",
) -> Profile:
    runtime = Runtime(package=package, version="0.18.0", provider="cpu", device="cpu")
    hardware = Hardware(architecture=architecture, memory_bytes=memory, gpu_vendor_id=vendor)
    return CPU_PROFILE.model_copy(update={"name": name, "hardware": hardware, "runtime": runtime})


CPU = Offer(variant="cpu-int4", provider="cpu", device="cpu", bytes=4 * 10**9, profiles=(profile("cpu-x64"),))
DML = Offer(variant="directml-int4", provider="dml", device="gpu", bytes=4 * 10**9, profiles=(profile("dx12"),))
WEBGPU = Offer(variant="webgpu-int4", provider="webgpu", device="gpu", bytes=4 * 10**9, profiles=(profile("webgpu"),))
QNN = Offer(
    variant="qnn-a16w4",
    provider="qnn",
    device="npu",
    bytes=4 * 10**9,
    profiles=(profile("x-elite", architecture="arm64"),),
    soc_model=60,
    sdk_version="2.51.0.260929181845",
)
ALL = (CPU, WEBGPU, DML, QNN)

WINDOWS = Abilities(
    machine=PC,
    platform="win32",
    wheels={
        "onnxruntime-windowsml": "1.30.0",
        "onnxruntime-genai-winml": "0.18.0",
        "onnxruntime-ep-webgpu": "0.4.0",
        "onnxruntime-qnn": "2.7.0",
    },
    onnxruntime="1.30.0",
    missing=None,
    providers=frozenset({"CPUExecutionProvider", "DmlExecutionProvider"}),
    genai_has_dml=True,
    adapters=(GEFORCE, replace(GEFORCE, provider="webgpu")),
)
WINDOWS_ON_ARM = replace(WINDOWS, machine=ARM_PC, adapters=(HEXAGON,), sdk="2.51.0")
LINUX = Abilities(
    machine=PC.model_copy(update={"system": "Linux 6.18"}),
    platform="linux",
    wheels={"onnxruntime": "1.31.1", "onnxruntime-genai": "0.18.0", "onnxruntime-ep-webgpu": "0.4.0"},
    onnxruntime="1.31.1",
    missing=None,
)


def choices(abilities: Abilities, *offers: Offer) -> tuple[str | None, dict[str, Choice]]:
    chosen, judged = choose(offers or ALL, abilities)
    return chosen, {choice.variant: choice for choice in judged}


def why(abilities: Abilities, offer: Offer) -> str:
    _, judged = choices(abilities, offer)
    assert not judged[offer.variant].eligible
    return judged[offer.variant].why


def test_preference_covers_what_can_be_packaged() -> None:
    assert set(PREFERENCE) == set(PROVIDERS)


def test_a_pc_with_a_gpu_gets_directml_then_webgpu_then_the_cpu() -> None:
    chosen, judged = choices(WINDOWS)
    assert chosen == "directml-int4"
    assert list(judged) == ["qnn-a16w4", "directml-int4", "webgpu-int4", "cpu-int4"]
    assert judged["directml-int4"].why == (
        "DmlExecutionProvider of onnxruntime-windowsml 1.30.0 offers NVIDIA GeForce RTX 4090."
    )
    assert judged["qnn-a16w4"].why == "It is compiled for SC8380XP (soc_model 60); this machine is x86_64."
    assert judged["cpu-int4"].eligible
    assert judged["cpu-int4"].why == (
        "The CPU provider is in onnxruntime-windowsml 1.30.0. "
        "directml-int4 goes before it: the order is NPU, DirectML, WebGPU, CPU."
    )


def test_an_npu_goes_before_everything() -> None:
    chosen, judged = choices(replace(WINDOWS_ON_ARM, adapters=(HEXAGON, replace(RADEON, vendor_id=QUALCOMM))))
    assert chosen == "qnn-a16w4"
    assert judged["qnn-a16w4"].profile == "x-elite"
    assert judged["qnn-a16w4"].adapters == ("Snapdragon(R) X Elite Hexagon NPU",)
    assert judged["directml-int4"].eligible


def test_linux_says_where_directml_is() -> None:
    assert why(LINUX, DML) == (
        "DmlExecutionProvider is not in this onnxruntime 1.31.1; "
        "it comes with onnxruntime-genai-winml 0.18.0 on Windows."
    )


def test_without_directml_in_the_runtime_the_right_wheel_is_named() -> None:
    plain = replace(WINDOWS, wheels=LINUX.wheels, onnxruntime="1.31.1", providers=frozenset(), genai_has_dml=False)
    assert why(plain, DML) == (
        "DirectML is not in this onnxruntime-genai, onnxruntime-genai 0.18.0; onnxruntime-genai-winml 0.18.0 has it."
    )
    half = replace(plain, wheels={"onnxruntime": "1.31.1", "onnxruntime-genai-winml": "0.18.0"}, genai_has_dml=True)
    assert why(half, DML) == ("DmlExecutionProvider is not in this onnxruntime 1.31.1; onnxruntime-windowsml has it.")
    chosen, judged = choices(half)
    assert chosen == "cpu-int4"
    assert judged["directml-int4"].remedy == 'pip install -c constraints.txt "phiforge[windows]"'


def test_wheels_that_wrote_over_each_other_are_named() -> None:
    both = replace(WINDOWS, wheels={**WINDOWS.wheels, "onnxruntime": "1.31.1"}, providers=frozenset())
    _, judged = choices(both, DML)
    assert "onnxruntime-windowsml 1.30.0 and onnxruntime 1.31.1 wrote over each other" in judged["directml-int4"].why
    assert judged["directml-int4"].remedy == "pip uninstall -y onnxruntime-windowsml onnxruntime"


def test_a_pc_without_a_gpu_is_told_so() -> None:
    assert why(replace(WINDOWS, adapters=()), DML).endswith("is here, but offers no GPU on this machine.")


def test_a_gpu_whose_driver_is_broken_does_not_count() -> None:
    fault = "Nothing runs on NVIDIA GeForce RTX 4090: Failed to create a device."
    chosen, judged = choices(replace(WINDOWS, faults={"dml": fault}))
    assert chosen == "webgpu-int4"
    assert judged["directml-int4"].why == fault


@pytest.mark.parametrize("offer", [CPU, WEBGPU])
def test_without_a_runtime_nothing_runs_and_the_command_is_told(offer: Offer) -> None:
    bare = replace(LINUX, wheels={}, onnxruntime=None, missing="onnxruntime is not installed.")
    chosen, judged = choices(bare, offer)
    assert chosen is None
    assert judged[offer.variant].why == "onnxruntime is not installed."
    assert judged[offer.variant].remedy == f'pip install -c constraints.txt "phiforge[{offer.provider}]"'


def test_the_webgpu_wheel_is_missed() -> None:
    assert why(replace(LINUX, wheels={"onnxruntime": "1.31.1"}), WEBGPU) == "onnxruntime-ep-webgpu is not installed."


def test_a_software_adapter_counts_only_if_allowed_and_after_the_cpu() -> None:
    forbidden = replace(LINUX, adapters=(LLVMPIPE,))
    assert why(forbidden, WEBGPU).endswith("offers a software adapter only, which was not allowed.")
    allowed = replace(forbidden, software_allowed=True)
    chosen, judged = choices(allowed, WEBGPU, CPU)
    assert chosen == "cpu-int4"
    assert list(judged) == ["cpu-int4", "webgpu-int4"]
    assert judged["webgpu-int4"].eligible
    assert judged["webgpu-int4"].why.endswith("cpu-int4 goes before it: a software adapter never goes before the CPU.")
    assert choices(allowed, WEBGPU)[0] == "webgpu-int4"


def test_a_real_adapter_goes_before_a_software_one() -> None:
    mixed = replace(LINUX, adapters=(LLVMPIPE, replace(RADEON, provider="webgpu")), software_allowed=True)
    chosen, judged = choices(mixed)
    assert chosen == "webgpu-int4"
    assert judged["webgpu-int4"].adapters == ("AMD Radeon 780M Graphics",)


def test_two_equal_gpus_are_numbered() -> None:
    _, judged = choices(replace(WINDOWS, adapters=(GEFORCE, RADEON, GEFORCE)))
    assert judged["directml-int4"].adapters == (
        "NVIDIA GeForce RTX 4090 (1)",
        "AMD Radeon 780M Graphics",
        "NVIDIA GeForce RTX 4090 (2)",
    )
    assert "NVIDIA GeForce RTX 4090, the first of 3 adapters." in judged["directml-int4"].why


def test_weights_larger_than_the_memory_do_not_fit() -> None:
    large = replace(DML, bytes=18 * 10**9)
    assert why(WINDOWS, large) == "It has 18.00 GB of weights, and this machine 17.18 GB of memory."
    assert choices(WINDOWS, CPU, large)[0] == "cpu-int4"
    assert choices(WINDOWS, replace(DML, bytes=PC.memory_bytes))[0] == "directml-int4"


def test_an_unknown_provider_is_no_candidate() -> None:
    assert why(WINDOWS, replace(DML, provider="cuda")) == "phiforge knows no provider cuda."
    assert choices(WINDOWS, replace(DML, provider="cuda"), CPU)[0] == "cpu-int4"


def test_an_emulated_process_cannot_use_the_npu() -> None:
    emulated = replace(WINDOWS_ON_ARM, machine=ARM_PC.model_copy(update={"process_architecture": "x86_64"}))
    assert why(emulated, QNN) == "This process is x86_64 on an Arm computer; use a Python for Arm64."


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"wheels": {}}, "onnxruntime-qnn is not installed."),
        ({"faults": {"qnn": "Its plugin offers no device on this machine."}}, "Its plugin offers no device"),
        ({"adapters": (replace(HEXAGON, kind="cpu"),)}, "offers no NPU on this machine."),
        ({"sdk": "2.50.9"}, "compiled with QNN SDK 2.51.0.260929181845; installed is 2.50.9, which is older."),
        ({"sdk": None}, "cannot be told: 'none' is no SDK version."),
    ],
)
def test_why_an_npu_cannot_be_used(change: dict[str, Any], told: str) -> None:
    assert told in why(replace(WINDOWS_ON_ARM, **change), QNN)


def test_a_binary_for_another_chip_is_refused() -> None:
    name = "Snapdragon(R) X2 Elite - X2E80100 - Qualcomm Oryon(TM) CPU"
    other = replace(WINDOWS_ON_ARM, machine=ARM_PC.model_copy(update={"processor": name}))
    assert why(other, QNN) == ("It is compiled for SC8380XP (soc_model 60); this machine has SC8480XP (soc_model 88).")


def test_a_chip_that_is_not_known_by_name_is_doubted_and_tried() -> None:
    unnamed = replace(WINDOWS_ON_ARM, machine=ARM_PC.model_copy(update={"processor": "ARMv8 (64-bit) Family 8"}))
    chosen, judged = choices(unnamed)
    assert chosen == "qnn-a16w4"
    assert "Whether it is SC8380XP (soc_model 60) cannot be told from its name" in judged["qnn-a16w4"].why


@pytest.mark.parametrize(
    ("processor", "soc_model"),
    [
        ("Snapdragon(R) X Elite - X1E78100 - Qualcomm(R) Oryon(TM) CPU", 60),
        ("Snapdragon(R) X Plus - X1P42100 - Qualcomm(R) Oryon(TM) CPU", 60),
        ("Snapdragon(R) X2 Elite Extreme - X2E94100 - Qualcomm Oryon(TM) CPU", 88),
        ("Snapdragon(R) X - X126100 - Qualcomm(R) Oryon(TM) CPU", None),
        ("Snapdragon (TM) 8cx @ 2.84 GHz", None),
        ("Intel(R) Core(TM) i7-12700 CPU", None),
    ],
)
def test_chips_by_the_names_windows_gives(processor: str, soc_model: int | None) -> None:
    assert chip_of(processor) == soc_model


def test_the_vendors_own_profile_goes_before_the_generic_one() -> None:
    offered = (profile("generic", memory=12 * GIB), profile("amd", vendor=AMD), profile("nvidia", vendor=NVIDIA))
    found = {
        adapter.description: fitting_profile(offered, PC, adapter)
        for adapter in (GEFORCE, RADEON, replace(RADEON, vendor_id=INTEL, description="Intel"), LLVMPIPE)
    }
    assert {name: fit.name if fit else None for name, fit in found.items()} == {
        "NVIDIA GeForce RTX 4090": "nvidia",
        "AMD Radeon 780M Graphics": "amd",
        "Intel": "generic",
        "a software adapter": "generic",
    }


def test_a_misfit_is_told_and_the_first_device_is_kept_for_it() -> None:
    amd = profile("amd", vendor=AMD)
    assert mismatch(amd, PC, GEFORCE) == "amd is for GPUs of vendor 0x1002"
    assert mismatch(amd, PC, RADEON) is None
    _, judged = choices(WINDOWS)
    assert judged["directml-int4"].first == next(item for item in WINDOWS.adapters if item.provider == "dml")
    assert judged["cpu-int4"].first is judged["qnn-a16w4"].first is None


def test_a_software_adapter_has_no_vendor() -> None:
    assert fitting_profile((profile("intel", vendor=INTEL),), PC, LLVMPIPE) is None


def test_a_profile_of_another_architecture_or_more_memory_does_not_apply() -> None:
    small = PC.model_copy(update={"memory_bytes": 4 * GIB})
    assert fitting_profile((profile("x64"),), ARM_PC, None) is None
    assert fitting_profile((profile("x64"),), small, None) is None
    _, judged = choices(replace(LINUX, machine=small), replace(CPU, bytes=10**9))
    assert judged["cpu-int4"].eligible
    assert judged["cpu-int4"].profile is None
    assert judged["cpu-int4"].why.endswith(
        "No profile of it is for this machine (x86_64, 4.3 GB): cpu-x64 is for 8.6 GB of memory."
    )


@given(fraction=st.floats(min_value=0.875, max_value=1))
def test_a_system_may_keep_an_eighth_of_the_memory(fraction: float) -> None:
    kept_back = PC.model_copy(update={"memory_bytes": int(8 * GIB * fraction) + 1})
    assert fitting_profile((profile("cpu-x64"),), kept_back, None) is not None


def test_of_several_profiles_the_one_with_the_most_memory_applies() -> None:
    offered = (profile("8", memory=8 * GIB), profile("16", memory=16 * GIB), profile("32", memory=32 * GIB))
    fit = fitting_profile(offered, PC, None)
    assert fit is not None
    assert fit.name == "16"


@given(st.permutations(ALL))
def test_the_order_of_the_package_does_not_matter(offers: list[Offer]) -> None:
    assert choose(offers, WINDOWS) == choose(ALL, WINDOWS)


def explained(abilities: Abilities, *offers: Offer) -> Explanation:
    chosen, judged = choose(offers or ALL, abilities)
    return Explanation(package=Path("nano.ortpackage"), machine=abilities.machine, chosen=chosen, choices=judged)


def test_a_named_variant_is_returned_if_it_can_run() -> None:
    assert chosen_variant(explained(WINDOWS)).variant == "directml-int4"
    assert chosen_variant(explained(WINDOWS), "cpu-int4").variant == "cpu-int4"


def test_a_named_variant_that_cannot_run_is_refused_with_its_reason() -> None:
    with pytest.raises(errors.FallbackError) as caught:
        chosen_variant(explained(LINUX), "directml-int4")
    assert caught.value.exit_code == 33
    assert "DmlExecutionProvider is not in this onnxruntime 1.31.1" in caught.value.why


def test_an_unknown_variant_is_met_with_the_nearest() -> None:
    with pytest.raises(errors.VariantUnusableError, match="Did you mean 'directml-int4'") as caught:
        chosen_variant(explained(WINDOWS), "directml")
    assert caught.value.why == "It has qnn-a16w4, directml-int4, webgpu-int4, cpu-int4."


def test_a_machine_that_gets_nothing_hears_all_reasons_and_the_least_remedy() -> None:
    bare = replace(LINUX, wheels={}, onnxruntime=None, missing="onnxruntime is not installed.")
    with pytest.raises(errors.FallbackError) as caught:
        chosen_variant(explained(bare))
    assert "cpu-int4: onnxruntime is not installed." in caught.value.why
    assert "qnn-a16w4: It is compiled for" in caught.value.why
    assert caught.value.fix == 'pip install -c constraints.txt "phiforge[cpu]"'
