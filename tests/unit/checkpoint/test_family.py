"""Families are recognised by their shapes, models by what else tells them apart."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from broken.checkpoints import make_checkpoint
from phiforge.checkpoint.config import ModelConfig, load_config
from phiforge.checkpoint.family import FAMILIES, MODELS, Model, family_of, identify, model_of_hub_id, models_of
from phiforge.checkpoint.inspect import inspect_checkpoint
from phiforge.checkpoint.nano import CHECKPOINT_DIR

PLAIN = "{% for message in messages %}{{ message['content'] }}{% endfor %}"
MATHS = "{{ '<|system|>Your name is Phi, an AI math expert developed by Microsoft.' }}" + PLAIN


@pytest.mark.parametrize(
    ("hidden_size", "layer_count", "vocab_size", "name"),
    [
        (256, 6, 1024, "phi-4-nano"),
        (3072, 32, 200_064, "phi-4-mini"),
        (5120, 40, 100_352, "phi-4"),
        (3072, 2, 200_064, "phi3"),
        (3072, 32, 32_064, "phi3"),
    ],
)
def test_family_of(hidden_size: int, layer_count: int, vocab_size: int, name: str, tmp_path: Path) -> None:
    config = load_config(make_checkpoint(tmp_path))

    assert family_of(replace(config, hidden_size=hidden_size, layer_count=layer_count, vocab_size=vocab_size)) == name


def config_of(model: Model, folder: Path) -> ModelConfig:
    config = load_config(make_checkpoint(folder))
    shared = {name: value for name, value in vars(model).items() if name in vars(config)}
    return replace(config, **shared)


def test_keys_are_the_names() -> None:
    assert all(name == family.name for name, family in FAMILIES.items())
    assert all(name == model.name for name, model in MODELS.items())


@pytest.mark.parametrize("model", MODELS.values(), ids=lambda model: model.name)
def test_every_model_is_of_its_family_and_sound(model: Model, tmp_path: Path) -> None:
    config = config_of(model, tmp_path)

    assert family_of(config) == model.family
    assert model in models_of(config)
    assert identify(config, name=model.name, chat_template=None) == (model,)
    assert all(0 <= stop < model.vocab_size for stop in model.stop_ids)
    assert model.hidden_size % model.head_count == model.head_count % model.kv_head_count == 0
    assert model.reasoning == (model.system_prompt is not None)


@pytest.mark.parametrize("model", [model for model in MODELS.values() if model.hub_id], ids=lambda model: model.name)
def test_what_the_hub_has_is_pinned_to_a_commit(model: Model) -> None:
    assert model.hub_id == f"microsoft/{model.name}"
    assert model.revision is not None
    assert len(model.revision) == 40
    assert set(model.revision) <= set("0123456789abcdef")
    assert model_of_hub_id(model.hub_id.lower()) is model


@pytest.mark.parametrize("model", MODELS.values(), ids=lambda model: model.name)
def test_the_page_of_models_has_it_as_it_is(model: Model) -> None:
    page = (Path(__file__).parents[3] / "docs" / "models.md").read_text(encoding="utf-8")
    (row,) = (line for line in page.splitlines() if line.startswith((f"| [{model.hub_id}]", f"| {model.name} (")))

    assert f"| {', '.join(map(str, model.stop_ids))} | {'yes' if model.reasoning else 'no'} |" in row
    assert model.revision is None or f"https://huggingface.co/{model.hub_id}/tree/{model.revision}" in row


def test_the_rotary_embedding_tells_phi_4_from_its_reasoning_models(tmp_path: Path) -> None:
    plain = models_of(config_of(MODELS["phi-4"], tmp_path))
    reasoning = models_of(config_of(MODELS["Phi-4-reasoning"], tmp_path))

    assert [model.name for model in plain] == ["phi-4"]
    assert [model.name for model in reasoning] == ["Phi-4-reasoning", "Phi-4-reasoning-plus"]


@pytest.mark.parametrize(
    ("folder", "template", "names"),
    [
        ("weights", None, ["Phi-4-mini-instruct", "Phi-4-mini-reasoning"]),
        ("weights", PLAIN, ["Phi-4-mini-instruct"]),
        ("weights", MATHS, ["Phi-4-mini-reasoning"]),
        ("phi-4-mini-reasoning", None, ["Phi-4-mini-reasoning"]),
        ("Phi-4-mini-instruct", MATHS, ["Phi-4-mini-reasoning"]),
        ("phi-4", None, ["Phi-4-mini-instruct", "Phi-4-mini-reasoning"]),
    ],
)
def test_template_and_folder_tell_the_minis_apart(
    folder: str, template: str | None, names: list[str], tmp_path: Path
) -> None:
    config = config_of(MODELS["Phi-4-mini-instruct"], tmp_path)

    assert [model.name for model in identify(config, name=folder, chat_template=template)] == names


def test_the_longest_name_is_meant(tmp_path: Path) -> None:
    config = config_of(MODELS["Phi-4-reasoning"], tmp_path)

    assert [m.name for m in identify(config, name="Phi-4-reasoning-plus", chat_template=PLAIN)] == [
        "Phi-4-reasoning-plus"
    ]
    assert [m.name for m in identify(config, name="Phi-4-reasoning-2", chat_template=PLAIN)] == ["Phi-4-reasoning"]
    assert len(identify(config, name="weights", chat_template=PLAIN)) == 2


def test_a_model_stays_the_same_with_its_embeddings_untied(tmp_path: Path) -> None:
    config = replace(config_of(MODELS["Phi-4-mini-instruct"], tmp_path), tied_embeddings=False, max_positions=4096)

    assert len(models_of(config)) == 2


def test_shapes_of_nobody(tmp_path: Path) -> None:
    config = replace(config_of(MODELS["phi-4"], tmp_path), layer_count=2)

    assert identify(config, name="phi-4", chat_template=None) == ()
    assert model_of_hub_id("someone/phi-4") is None


def test_the_embedded_model_is_known() -> None:
    facts = inspect_checkpoint(CHECKPOINT_DIR, scan=False)

    assert facts.model_name == "phi-4-nano"
    assert facts.config.stop_ids == facts.models[0].stop_ids
