from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from broken.checkpoints import make_checkpoint
from phiforge import errors
from phiforge.checkpoint.inspect import CheckpointFacts, fingerprint, inspect_checkpoint
from phiforge.pipeline import CalibrateOptions, Pipeline, StagesOptions, load_pipeline
from phiforge.plan import NpuPlan, Plan, resolve
from phiforge.target import Profile, load_profile
from phiforge.verbs.calibrate import Calibrating, complete_pipelines
from phiforge.verbs.resolving import resolve_names
from phiforge.verbs.watch import Stages, Unwatched

ROOT = Path(__file__).parents[2]
TOOLS = {"olive-ai": "0.13.0"}


@pytest.fixture
def facts(tmp_path: Path) -> CheckpointFacts:
    make_checkpoint(tmp_path / "ckpt")
    return inspect_checkpoint(tmp_path / "ckpt")


@pytest.fixture
def profile() -> Profile:
    found = load_profile(ROOT / "targets" / "cpu-x64.toml")
    return found.model_copy(update={"build": found.build.model_copy(update={"pipeline": "cpu-int4-k-quant"})})


@pytest.fixture
def pipeline() -> Pipeline:
    return load_pipeline(ROOT / "pipelines" / "cpu-int4-k-quant.yaml")


def _plan(facts: CheckpointFacts, profile: Profile, pipeline: Pipeline, tools: dict[str, str] = TOOLS) -> Plan:
    return resolve(facts, fingerprint(facts.folder), [profile], {"cpu-int4-k-quant": pipeline}, tools)


def _changed(pipeline: Pipeline, **changes: object) -> Pipeline:
    options = pipeline.quantize_options().model_copy(update=changes)
    return pipeline.model_copy(update={"passes": {**pipeline.passes, "quantize": options}})


def test_the_same_inputs_give_the_same_key(facts: CheckpointFacts, profile: Profile, pipeline: Pipeline) -> None:
    assert _plan(facts, profile, pipeline) == _plan(facts, profile, pipeline)


def test_the_key_follows_what_decides_the_bytes(facts: CheckpointFacts, profile: Profile, pipeline: Pipeline) -> None:
    keys = {
        _plan(facts, profile, pipeline).variants[0].key,
        _plan(facts, profile, _changed(pipeline, block_size=16)).variants[0].key,
        _plan(facts, profile, pipeline, {"olive-ai": "0.14.0"}).variants[0].key,
        resolve(facts, "other", [profile], {"cpu-int4-k-quant": pipeline}, TOOLS).variants[0].key,
    }
    assert len(keys) == 4


def test_profiles_of_one_pipeline_share_a_variant(facts: CheckpointFacts, profile: Profile, pipeline: Pipeline) -> None:
    other = profile.model_copy(update={"name": "other"})
    plan = resolve(facts, "f", [profile, other], {"cpu-int4-k-quant": pipeline}, TOOLS)
    assert [variant.profiles for variant in plan.variants] == [("cpu-x64", "other")]


@pytest.mark.parametrize(
    ("symmetric", "block_size", "expected"),
    [(True, 32, 4 + 1), (False, 32, 4 + 1 + 4 / 32), (False, 16, 4 + 2 + 4 / 16)],
)
def test_sizes_are_counted_bit_by_bit(
    facts: CheckpointFacts, profile: Profile, pipeline: Pipeline, symmetric: bool, block_size: int, expected: float
) -> None:
    changed = _changed(pipeline, symmetric=symmetric, block_size=block_size)
    weight = next(w for w in _plan(facts, profile, changed).variants[0].weights if w.module.endswith("o_proj"))
    assert 8 * weight.stored_bytes / weight.weights == pytest.approx(expected)


def test_blocks_that_do_not_fit_are_refused(facts: CheckpointFacts, profile: Profile, pipeline: Pipeline) -> None:
    odd = replace(facts, config=replace(facts.config, intermediate_size=48))
    with pytest.raises(errors.PipelineInvalidError, match="Blocks of 256"):
        _plan(odd, profile, _changed(pipeline, block_size=256))


def test_the_plan_names_no_path_of_this_machine(facts: CheckpointFacts, profile: Profile, pipeline: Pipeline) -> None:
    assert str(facts.folder.parent) not in str(_plan(facts, profile, pipeline).as_dict("cpu-int4-k-quant"))


def test_variants_that_a_runtime_cannot_tell_apart_are_refused(
    facts: CheckpointFacts, profile: Profile, pipeline: Pipeline
) -> None:
    build = profile.build.model_copy(update={"pipeline": "other"})
    other = profile.model_copy(update={"name": "other", "build": build})
    renamed = pipeline.model_copy(update={"name": "other"})
    with pytest.raises(errors.PipelineInvalidError, match="both be for cpu on cpu"):
        resolve(facts, "f", [profile, other], {"cpu-int4-k-quant": pipeline, "other": renamed}, TOOLS)


@pytest.fixture
def npu_facts(tmp_path: Path) -> CheckpointFacts:
    """A model of four layers whose rotary tables have 512 positions each."""
    make_checkpoint(tmp_path / "npu", layer_count=4, hidden_size=128, longrope=True, max_positions=2048)
    return inspect_checkpoint(tmp_path / "npu")


def _npu_plan(facts: CheckpointFacts, *profiles: Profile, pipeline: Pipeline | None = None, **stages: object) -> Plan:
    pipeline = pipeline or load_pipeline(ROOT / "pipelines" / "qnn-a16w4.yaml")
    return resolve(facts, "f", profiles, {pipeline.name: pipeline.with_options(StagesOptions, **stages)}, TOOLS)


def _npu_profile(name: str = "qnn-x-elite", **changes: object) -> Profile:
    profile = load_profile(ROOT / "targets" / f"{name}.toml")
    assert profile.npu is not None
    return profile.model_copy(update={"npu": profile.npu.model_copy(update=changes)})


def test_the_profile_completes_an_npu_pipeline(npu_facts: CheckpointFacts) -> None:
    profile = _npu_profile(window_tokens=128, kv_cache_bits=8, attention="npu", calibration_tokens=1024)
    (variant,) = _npu_plan(npu_facts, profile, window_tokens=64, parts=2).variants
    assert variant.npu == NpuPlan(
        soc_model=60, architecture="v73", confirmed=True, context_tokens=512, window_tokens=128, kv_cache_bits=8,
        attention="npu", parts=((0, 2), (2, 4)),
    )  # fmt: skip
    passes = variant.workflow["passes"]
    assert passes["stages"] | {"type": ""} == {
        "type": "", "window_tokens": 128, "context_tokens": 512, "parts": 2, "kv_cache_bits": 8, "attention": "npu",
        "embedding": "cpu", "head": "cpu", "headroom": 1.0,
    }  # fmt: skip
    assert passes["compile"]["soc_model"] == 60
    assert passes["quantize"]["calibration_tokens"] == passes["calibrate"]["calibration_tokens"] == 1024


@pytest.mark.parametrize(
    ("asked", "model", "device", "window", "expected"),
    [
        (None, 512, 4096, 64, 512),
        (None, 512, 256, 64, 256),
        (None, 500, 4096, 128, 384),
        (192, 512, 4096, 64, 192),
    ],
)
def test_the_context_is_what_model_and_device_hold(
    npu_facts: CheckpointFacts, asked: int | None, model: int, device: int, window: int, expected: int
) -> None:
    facts = replace(npu_facts, config=replace(npu_facts.config, original_max_positions=model))
    plan = _npu_plan(facts, _npu_profile(context_tokens=device, window_tokens=window), context_tokens=asked)
    assert plan.variants[0].npu is not None
    assert plan.variants[0].npu.context_tokens == expected


@pytest.mark.parametrize(("model", "device"), [(512, 4096), (4096, 512)])
def test_more_context_than_there_is_is_refused(npu_facts: CheckpointFacts, model: int, device: int) -> None:
    facts = replace(npu_facts, config=replace(npu_facts.config, original_max_positions=model))
    with pytest.raises(errors.ContextTooLongError, match=r"576") as caught:
        _npu_plan(facts, _npu_profile(context_tokens=device), context_tokens=576)
    assert f"{model:,} positions" in caught.value.why
    assert f"{device:,} tokens" in caught.value.why


def test_a_model_shorter_than_a_window_is_refused(npu_facts: CheckpointFacts) -> None:
    facts = replace(npu_facts, config=replace(npu_facts.config, original_max_positions=32))
    with pytest.raises(errors.ContextTooLongError, match="64 tokens"):
        _npu_plan(facts, _npu_profile())


def test_a_context_of_broken_windows_is_refused(npu_facts: CheckpointFacts) -> None:
    with pytest.raises(errors.PipelineInvalidError) as caught:
        _npu_plan(npu_facts, _npu_profile(), context_tokens=100)
    assert "64 tokens" in caught.value.fix


def test_parts_are_raised_until_they_fit(npu_facts: CheckpointFacts) -> None:
    weights = _npu_plan(npu_facts, _npu_profile()).variants[0].weights
    layer = sum(weight.stored_bytes for weight in weights if ".layers.0." in weight.module)

    def parts(limit: int, asked: int) -> int:
        npu = _npu_plan(npu_facts, _npu_profile(part_bytes_max=limit), parts=asked).variants[0].npu
        assert npu is not None
        return len(npu.parts)

    assert [parts(4 * layer, 1), parts(4 * layer - 1, 1), parts(layer, 1), parts(4 * layer, 9)] == [1, 2, 4, 4]
    with pytest.raises(errors.PipelineInvalidError, match="does not fit binaries"):
        parts(layer - 1, 1)


def test_a_graph_stores_one_scale_a_row_and_the_cpu_one_a_block(npu_facts: CheckpointFacts) -> None:
    weights = {weight.module: weight for weight in _npu_plan(npu_facts, _npu_profile()).variants[0].weights}
    layer, head = weights["model.layers.0.mlp.down_proj"], weights["lm_head"]
    assert (layer.spec.per_channel, head.spec.per_channel) == (True, False)
    assert weights["model.embed_tokens"].spec == head.spec
    assert layer.stored_bytes == layer.weights // 2 + 4 * layer.rows
    assert head.stored_bytes == head.weights + 4 * head.rows * head.columns // 128


def test_profiles_of_one_binary_share_a_variant_as_sure_as_the_least(npu_facts: CheckpointFacts) -> None:
    unsure = _npu_profile("qnn-x-plus", confirmed=False)
    (variant,) = _npu_plan(npu_facts, _npu_profile(), unsure).variants
    assert variant.profiles == ("qnn-x-elite", "qnn-x-plus")
    assert variant.npu is not None
    assert not variant.npu.confirmed


def test_chips_of_one_pipeline_need_packages_of_their_own(npu_facts: CheckpointFacts) -> None:
    with pytest.raises(errors.PipelineInvalidError, match=r"qnn-a16w4 for qnn-x-elite and .* would both"):
        _npu_plan(npu_facts, _npu_profile(), _npu_profile("qnn-8-elite"))


def test_a_pipeline_and_a_profile_of_different_kinds_are_refused(
    npu_facts: CheckpointFacts, profile: Profile, pipeline: Pipeline
) -> None:
    build = profile.build.model_copy(update={"pipeline": "qnn-a16w4"})
    with pytest.raises(errors.PipelineInvalidError, match="does not fit the profile cpu-x64"):
        _npu_plan(npu_facts, profile.model_copy(update={"build": build}))
    with pytest.raises(errors.PipelineInvalidError, match="does not fit the profile qnn-x-elite"):
        _npu_plan(npu_facts, _npu_profile(), pipeline=pipeline.model_copy(update={"name": "qnn-a16w4"}))


def test_a_calibration_of_activations_makes_a_variant_calibrated(npu_facts: CheckpointFacts) -> None:
    pipeline = load_pipeline(ROOT / "pipelines" / "qnn-a16w4.yaml").with_quantize_options(algorithm="rtn")
    assert not _npu_plan(npu_facts, _npu_profile(), pipeline=pipeline).variants[0].calibrated
    pipeline = pipeline.with_options(CalibrateOptions, calibration="calibration.jsonl")
    assert _npu_plan(npu_facts, _npu_profile(), pipeline=pipeline).variants[0].calibrated


def test_per_channel_without_an_npu_is_for_every_weight(
    facts: CheckpointFacts, profile: Profile, pipeline: Pipeline
) -> None:
    weights = _plan(facts, profile, _changed(pipeline, per_channel=True)).variants[0].weights
    assert all(weight.spec.per_channel and not weight.row_scales for weight in weights)


# What one build for a CPU, a DirectX GPU and WebGPU is told.
THREE = ("cpu-x64", "directml-generic", "webgpu-generic")


def _three(**changes: object) -> tuple[list[Profile], dict[str, Pipeline]]:
    profiles, pipelines = resolve_names(ROOT, THREE, None)
    return profiles, {name: pipeline.with_quantize_options(**changes) for name, pipeline in pipelines.items()}


def _checkpoint_passes(plan: Plan) -> dict[str, object]:
    """What makes the quantized checkpoint of each variant; Olive's cache answers where two are alike."""
    return {
        variant.name: [options for name, options in variant.workflow["passes"].items() if name != "export"]
        for variant in plan.variants
    }


@pytest.fixture
def gpu_facts(tmp_path: Path) -> CheckpointFacts:
    make_checkpoint(tmp_path / "gpu", hidden_size=128)
    return inspect_checkpoint(tmp_path / "gpu")


def test_three_targets_share_one_quantized_checkpoint(gpu_facts: CheckpointFacts) -> None:
    plan = resolve(gpu_facts, "f", *_three(), TOOLS)
    assert [(variant.name, variant.provider, variant.device) for variant in plan.variants] == [
        ("cpu-int4", "cpu", "cpu"), ("directml-int4", "dml", "gpu"), ("webgpu-int4", "webgpu", "gpu"),
    ]  # fmt: skip
    cpu, *others = _checkpoint_passes(plan).values()
    assert all(other == cpu for other in others)
    assert cpu is not None
    assert len({variant.key for variant in plan.variants}) == 3
    assert [step.step for step in plan.preflight.steps] == [
        "rotate", "quantize", "export", "export", "export", "reference",
    ]  # fmt: skip


def test_scales_and_norms_of_a_gpu_take_two_bytes(gpu_facts: CheckpointFacts) -> None:
    cpu, *gpus = resolve(gpu_facts, "f", *_three(), TOOLS).variants
    blocks = sum(weight.weights // weight.spec.block_size for weight in cpu.weights)
    for gpu in gpus:
        assert {weight.scale_bytes for weight in gpu.weights} == {2}
        assert [weight.spec for weight in gpu.weights] == [weight.spec for weight in cpu.weights]
        assert gpu.float_bytes == 2 * gpu.norm_weights == cpu.float_bytes // 2
        assert cpu.weight_bytes - gpu.weight_bytes == 2 * blocks + 2 * cpu.norm_weights
        assert gpu.bits_per_weight < cpu.bits_per_weight
    assert {weight.scale_bytes for weight in cpu.weights} == {4}


@pytest.mark.parametrize(
    ("target", "pipeline", "told"),
    [
        ("directml-generic", "cpu-int4", "builds for cpu, and the profile wants directml"),
        ("directml-nvidia-rtx", "webgpu-int4", "builds for webgpu, and the profile wants directml"),
        ("webgpu-generic", "directml-int4", "builds for directml, and the profile wants webgpu"),
        ("cpu-x64", "directml-int4", "builds for directml, and the profile wants cpu"),
        ("qnn-x-elite", "directml-int4", "builds for directml, and the profile wants qnn"),
    ],
)
def test_a_pipeline_for_another_provider_is_refused_with_both_names(
    gpu_facts: CheckpointFacts, target: str, pipeline: str, told: str
) -> None:
    with pytest.raises(errors.PipelineInvalidError, match=f"{pipeline} does not fit the profile {target}") as caught:
        resolve(gpu_facts, "f", *resolve_names(ROOT, [target], pipeline), TOOLS)
    assert told in caught.value.why


def test_all_directml_profiles_share_a_variant(gpu_facts: CheckpointFacts) -> None:
    names = sorted(path.stem for path in (ROOT / "targets").glob("directml-*.toml"))
    (variant,) = resolve(gpu_facts, "f", *resolve_names(ROOT, names, None), TOOLS).variants
    assert sorted(variant.profiles) == names


def test_measured_precision_raises_the_same_weights_for_every_target(
    gpu_facts: CheckpointFacts, tmp_path: Path
) -> None:
    """A GPU's smaller scales leave room for more; then two checkpoints would be quantized."""
    texts = tmp_path / "calibration.jsonl"
    texts.write_text('{"id": "a", "text": "b"}\n', encoding="utf-8")
    about = Calibrating(facts=gpu_facts, fingerprint="f", calibration=texts, threads=1)
    many = 0
    for target_bpw in (5.25, 5.5, 5.75, 6.0, 6.5):
        profiles, pipelines = _three(mixed="measured", target_bpw=target_bpw, block_size=32)
        completed = complete_pipelines(pipelines, about, None, Stages(Unwatched()))
        raised = {name: item.quantize_options().int8_modules for name, item in completed.items()}
        assert len(set(raised.values())) == 1, raised
        many += len(raised["cpu-int4"])
        cpu, *others = _checkpoint_passes(resolve(gpu_facts, "f", profiles, completed, TOOLS)).values()
        assert all(other == cpu for other in others)
    assert many
