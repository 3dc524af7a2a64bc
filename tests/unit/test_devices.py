from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from bench import roofline as bench
from broken.checkpoints import make_checkpoint
from phiforge import catalog, errors
from phiforge.checkpoint.config import ModelConfig, load_config
from phiforge.devices import DevicePlan, check_devices, pipeline_costs, plan_device
from phiforge.pipeline import load_pipeline
from phiforge.plan import complete_for_npu, exported_config, float_bytes, norm_weights, plan_weights
from phiforge.target import Profile, load_profile

ROOT = Path(__file__).parents[2]
GIB = 1 << 30


@pytest.fixture
def mini(tmp_path: Path) -> ModelConfig:
    """Phi-4-mini's shapes, from its config.json."""
    return replace(
        load_config(make_checkpoint(tmp_path / "ckpt")), hidden_size=3072, intermediate_size=8192, layer_count=32,
        head_count=24, kv_head_count=8, head_size=128, vocab_size=200_064, max_positions=131_072,
        original_max_positions=4096, rope_kind="longrope", partial_rotary_factor=0.75, tied_embeddings=True,
    )  # fmt: skip


@pytest.fixture
def phi_4(mini: ModelConfig) -> ModelConfig:
    """Phi-4's shapes, from its config.json."""
    return replace(
        mini, hidden_size=5120, intermediate_size=17_920, layer_count=40, head_count=40, kv_head_count=10,
        vocab_size=100_352, max_positions=16_384, original_max_positions=None, rope_kind="default",
        partial_rotary_factor=1.0, tied_embeddings=False,
    )  # fmt: skip


def planned(config: ModelConfig, profile: Profile) -> DevicePlan:
    pipeline = load_pipeline(catalog.pipeline_path(ROOT, profile.build.pipeline))
    pipeline, npu = complete_for_npu(config, pipeline, [profile])
    exported, size = exported_config(config, pipeline), float_bytes(pipeline)
    weights = plan_weights(exported, pipeline.quantize_options(), row_scales=npu is not None, scale_bytes=size)
    costs = pipeline_costs(exported, pipeline, weights, size * norm_weights(exported))
    return plan_device(profile, costs, config.max_positions, npu.context_tokens if npu else None)


def profile(name: str, **hardware: object) -> Profile:
    found = load_profile(catalog.profile_path(ROOT, name))
    return found.model_copy(update={"hardware": found.hardware.model_copy(update=hardware)})


def test_phi_4_does_not_fit_8_gib(phi_4: ModelConfig) -> None:
    device = planned(phi_4, profile("cpu-x64"))
    with pytest.raises(errors.DeviceTooSmallError) as caught:
        check_devices([device], "cpu-int4", compiled=False)
    assert caught.value.exit_code == 55
    assert "8.59 GB of memory" in caught.value.what
    assert "Weights take 7.8" in caught.value.why
    assert "KV cache 1.68 GB" in caught.value.why
    assert "No context fits" in caught.value.fix


def test_phi_4_mini_fits_8_gib_with_what_the_profile_promises(mini: ModelConfig) -> None:
    device = planned(mini, profile("cpu-x64"))
    check_devices([device], "cpu-int4", compiled=False)
    assert device.context_tokens == 4096
    # Two caches of 8 heads of 128 float32 values in 32 layers: 256 KiB a token.
    assert device.kv_cache_bytes == 4096 * 262_144
    assert device.ttft_ms is not None
    assert device.decode_tokens_per_s is not None


def test_the_whole_context_of_phi_4_mini_is_not_promised_blindly(mini: ModelConfig) -> None:
    device = planned(mini, profile("cpu-x64", context_tokens=131_072))
    with pytest.raises(errors.DeviceTooSmallError) as caught:
        check_devices([device], "cpu-int4", compiled=False)
    assert "131,072 tokens of context" in caught.value.what
    assert f"context_tokens = {device.fitting_tokens}" in caught.value.fix
    assert 4096 < device.fitting_tokens < 20_000
    fits = planned(mini, profile("cpu-x64", context_tokens=device.fitting_tokens))
    check_devices([fits], "cpu-int4", compiled=False)


def test_a_model_of_less_context_is_held_to_its_own(mini: ModelConfig) -> None:
    short = replace(mini, max_positions=1024, original_max_positions=512)
    assert planned(short, profile("cpu-x64")).context_tokens == 1024


def test_an_npu_is_told_the_context_to_build_with(mini: ModelConfig) -> None:
    device = planned(mini, profile("qnn-x-elite", memory_bytes=4_300_000_000))
    with pytest.raises(errors.DeviceTooSmallError) as caught:
        check_devices([device], "qnn-a16w4", compiled=True)
    tokens = int(caught.value.fix.split("--context ")[1].split(".")[0])
    assert tokens % 64 == 0
    assert 0 < tokens <= device.fitting_tokens


def test_what_just_fits_passes_and_a_byte_more_does_not(mini: ModelConfig) -> None:
    need = planned(mini, profile("cpu-x64")).total_bytes
    check_devices(
        [planned(mini, profile("cpu-x64", memory_bytes=need, model_memory_fraction=1.0))], "v", compiled=False
    )
    with pytest.raises(errors.DeviceTooSmallError):
        check_devices(
            [planned(mini, profile("cpu-x64", memory_bytes=need - 1, model_memory_fraction=1.0))], "v", compiled=False
        )


def test_without_rates_there_is_memory_and_no_speed(mini: ModelConfig) -> None:
    device = planned(mini, profile("cpu-x64", roofline=None))
    assert device.decode_tokens_per_s is None
    assert device.total_bytes > 3 * 10**9


@pytest.mark.parametrize("name", catalog.profile_names(ROOT))
def test_every_profile_holds_phi_4_mini(name: str, mini: ModelConfig) -> None:
    device = planned(mini, profile(name))
    check_devices([device], name, compiled=name.startswith("qnn"))
    assert device.decode_tokens_per_s


@pytest.mark.parametrize("name", catalog.profile_names(ROOT))
def test_every_profile_tells_where_its_rates_are_from(name: str) -> None:
    roofline = load_profile(catalog.profile_path(ROOT, name)).hardware.roofline
    assert roofline is not None
    assert len(roofline.source) > 40
    borrowed = "borrowed" in roofline.efficiency_source
    assert borrowed == (roofline.efficiency_error_fraction is None)
    assert borrowed != roofline.efficiency_source.startswith("fitted to")
    assert "without the first tokens of phi-4-nano" in roofline.efficiency_source


@pytest.mark.parametrize("name", catalog.profile_names(ROOT))
def test_every_profile_has_the_efficiencies_that_the_bench_fits(name: str) -> None:
    table, fit = load_profile(catalog.profile_path(ROOT, name)).hardware.roofline, bench.fit()
    assert table is not None
    assert table.bandwidth_efficiency_fraction == round(fit.roof.bandwidth_efficiency_fraction, 3)
    assert table.compute_efficiency_fraction == round(fit.roof.compute_efficiency_fraction, 3)
    assert table.node_overhead_us == round(fit.roof.node_overhead_us, 2)
    assert table.efficiency_error_fraction in (None, round(fit.error_fraction, 3))
    assert f"fitted to {fit.runs} times" in table.efficiency_source
    short = sorted(round(-100 * error) for _, _, error in bench.told(bench.LEFT_OUT, fit))
    assert f"{short[0]} to {short[-1]} % too short" in table.efficiency_source


def test_the_page_has_the_tables_that_the_bench_prints() -> None:
    page = (ROOT / "docs" / "prediction.md").read_text(encoding="utf-8")
    for times in (bench.FITTED, bench.LEFT_OUT):
        for row in bench.table(times, bench.fit()):
            assert row in page, row
