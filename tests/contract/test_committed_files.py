"""Every committed pipeline with every committed profile: it resolves, and to what."""

from __future__ import annotations

from pathlib import Path

import pytest

from broken.checkpoints import make_checkpoint
from phiforge import catalog
from phiforge.checkpoint.family import FAMILIES
from phiforge.checkpoint.inspect import CheckpointFacts, inspect_checkpoint
from phiforge.checkpoint.nano import CHECKPOINT_DIR
from phiforge.pipeline import load_pipeline
from phiforge.plan import resolve
from phiforge.providers import PROVIDERS
from phiforge.target import load_profile

ROOT = Path(__file__).parents[2]
PROFILES = catalog.profile_names(ROOT)
PIPELINES = catalog.pipeline_names(ROOT)


@pytest.fixture(scope="module")
def facts(tmp_path_factory: pytest.TempPathFactory) -> CheckpointFacts:
    return inspect_checkpoint(make_checkpoint(tmp_path_factory.mktemp("c") / "ckpt", hidden_size=128))


@pytest.mark.parametrize("profile", PROFILES)
def test_a_profile_names_what_there_is(profile: str, facts: CheckpointFacts) -> None:
    loaded = load_profile(catalog.profile_path(ROOT, profile))
    assert loaded.build.pipeline in PIPELINES
    assert loaded.runtime.provider in PROVIDERS
    assert set(loaded.budgets_for) <= set(FAMILIES)
    pipeline = load_pipeline(catalog.pipeline_path(ROOT, loaded.build.pipeline))
    plan = resolve(facts, "f", [loaded], {pipeline.name: pipeline}, {})
    assert plan.variants[0].profiles == (profile,)


@pytest.mark.parametrize("pipeline", PIPELINES)
def test_a_pipeline_has_no_path_of_its_own(pipeline: str) -> None:
    text = catalog.pipeline_path(ROOT, pipeline).read_text(encoding="utf-8")
    assert "cache_dir" not in text
    assert "output_dir" not in text


def test_the_golden_plan_of_the_embedded_model() -> None:
    """What the default pipeline makes of phi-4-nano; a change here changes what users get."""
    facts = inspect_checkpoint(CHECKPOINT_DIR)
    profile = load_profile(ROOT / "targets" / "cpu-x64.toml")
    pipeline = load_pipeline(ROOT / "pipelines" / "cpu-int4.yaml")
    (variant,) = resolve(facts, "f", [profile], {"cpu-int4": pipeline}, {}).variants
    assert facts.family == "phi-4-nano"
    assert list(pipeline.passes) == ["rotate", "quantize", "export"]
    assert {(w.spec.bits, w.spec.block_size, w.spec.symmetric) for w in variant.weights} == {(4, 128, False)}
    assert {"lm_head", "model.embed_tokens"} < {w.module for w in variant.weights}
    assert variant.bits_per_weight < 4.35
