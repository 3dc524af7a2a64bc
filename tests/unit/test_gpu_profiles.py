"""The committed profiles and pipelines for GPUs: what each names, promises and must not leave open."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from phiforge.evidence import Kind
from phiforge.pipeline import Pipeline, load_pipeline
from phiforge.target import Profile, load_profile
from phiforge.verbs.validate_gpu import GPU_TABLES

ROOT = Path(__file__).parents[2]
PROFILES = sorted(path.stem for kind in ("directml", "webgpu") for path in (ROOT / "targets").glob(f"{kind}-*.toml"))
PIPELINES = ("directml-int4", "webgpu-int4")
# PCI ids: pcisig.com/membership/member-companies.
VENDORS = {"directml-nvidia-rtx": 0x10DE, "directml-amd-radeon": 0x1002, "directml-intel-arc": 0x8086}


def profile_of(name: str) -> Profile:
    return load_profile(ROOT / "targets" / f"{name}.toml")


def pipeline_of(name: str) -> Pipeline:
    return load_pipeline(ROOT / "pipelines" / f"{name}.yaml")


def test_there_is_a_profile_for_any_gpu_and_one_for_each_vendor() -> None:
    assert {*VENDORS, "directml-generic", "webgpu-generic"} == set(PROFILES)
    found = {name: profile_of(name).hardware.gpu_vendor_id for name in PROFILES}
    assert found == {**VENDORS, "directml-generic": None, "webgpu-generic": None}


@pytest.mark.parametrize("name", PROFILES)
def test_a_profile_names_what_loads_it(name: str) -> None:
    runtime = profile_of(name).runtime
    package, version, provider = {
        "directml": ("onnxruntime-genai-winml", "0.18.0", "dml"),
        "webgpu": ("onnxruntime-ep-webgpu", "0.4.0", "webgpu"),
    }[profile_of(name).build.target]
    assert (runtime.package, runtime.version, runtime.provider, runtime.device) == (package, version, provider, "gpu")


def test_the_webgpu_profile_names_the_plugin_that_is_pinned() -> None:
    runtime = profile_of("webgpu-generic").runtime
    pins = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    assert re.search(rf"^{re.escape(runtime.package)}=={re.escape(runtime.version)}$", pins, flags=re.MULTILINE)


@pytest.mark.parametrize("name", PROFILES)
def test_a_profile_and_its_pipeline_are_for_one_provider(name: str) -> None:
    profile = profile_of(name)
    pipeline = pipeline_of(profile.build.pipeline)
    export = pipeline.export_options()
    assert export is not None
    assert export.provider == profile.runtime.provider
    assert pipeline.target == profile.build.target
    assert profile.runtime.provider in GPU_TABLES
    assert (ROOT / "targets" / "providers" / f"{GPU_TABLES[profile.runtime.provider]}.toml").is_file()


@pytest.mark.parametrize("name", PROFILES)
def test_budgets_are_as_strict_as_the_cpus_and_time_counts_only_if_measured(name: str) -> None:
    cpu, profile = profile_of("cpu-x64"), profile_of(name)
    for model in ("phi-4-mini", "phi-4-nano"):
        own, other = profile.budgets_of(model), cpu.budgets_of(model)
        for field in ("kl_mean_nats_max", "kl_p99_nats_max", "top1_agreement_fraction_min", "perplexity_ratio_max",
                      "answer_recovery_fraction_min"):  # fmt: skip
            assert getattr(own, field) == getattr(other, field), field
        assert None not in (own.variant_bytes_max, own.decode_tokens_per_s_min, own.ttft_p50_ms_max)
    # DirectML runs on Windows alone; WebGPU's own kernels run here too, for some of the texts.
    accepts, own_budget = {
        "directml": ((Kind.MEASURED, Kind.SURROGATE), profile.budgets.float16_relative_error_max),
        "webgpu": ((Kind.MEASURED, Kind.EMULATED, Kind.SURROGATE), profile.budgets.provider_relative_error_max),
    }[profile.build.target]
    assert tuple(profile.accepts) == accepts
    assert own_budget is not None
    assert own_budget <= 0.01


@pytest.mark.parametrize("name", VENDORS)
def test_no_limit_on_time_is_faster_than_memory_allows(name: str) -> None:
    """Each token reads 2.2 GB of Phi-4-mini; a third of the speed that this allows is asked for at most."""
    roofline = profile_of(name).hardware.roofline
    assert roofline is not None
    fastest = roofline.memory_bandwidth_bytes_per_s / 2.2e9
    least = profile_of(name).budgets.decode_tokens_per_s_min
    assert least is not None
    assert least < fastest / 3


@pytest.mark.parametrize("name", PIPELINES)
def test_a_gpu_pipeline_quantizes_just_as_the_cpus_does(name: str) -> None:
    """Olive's cache hands on what is alike, so that nothing is quantized twice."""
    ours, cpu = pipeline_of(name), pipeline_of("cpu-int4")
    assert list(ours.passes) == list(cpu.passes) == ["rotate", "quantize", "export"]
    assert ours.rotate_options() == cpu.rotate_options()
    assert ours.quantize_options() == cpu.quantize_options()


def test_each_provider_gets_the_graph_it_has_kernels_for() -> None:
    directml, webgpu = (pipeline_of(name).export_options() for name in PIPELINES)
    assert directml is not None
    assert webgpu is not None
    assert directml.activations == webgpu.activations == "float16"
    # GatherBlockQuantized has a kernel in WebGPU and none in DirectML.
    assert (directml.embedding, webgpu.embedding) == ("unpacked", "quantized")
    assert directml.logits == webgpu.logits == "last"
