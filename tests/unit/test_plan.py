from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from broken.checkpoints import make_checkpoint
from phiforge import errors
from phiforge.checkpoint.inspect import CheckpointFacts, fingerprint, inspect_checkpoint
from phiforge.pipeline import Pipeline, load_pipeline
from phiforge.plan import Plan, resolve
from phiforge.target import Profile, load_profile

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
