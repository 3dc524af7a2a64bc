"""Configurations: the two ways to write the rotary embedding, stop ids, and faults."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from broken.checkpoints import make_checkpoint
from phiforge.checkpoint.config import ModelConfig, load_config
from phiforge.errors import ConfigInvalidError

# The fields of the published configurations that matter here; the rest are dropout rates and the like.
MINI: dict[str, object] = {
    "architectures": ["Phi3ForCausalLM"],
    "model_type": "phi3",
    "vocab_size": 200064,
    "hidden_size": 3072,
    "intermediate_size": 8192,
    "num_hidden_layers": 32,
    "num_attention_heads": 24,
    "num_key_value_heads": 8,
    "max_position_embeddings": 131072,
    "original_max_position_embeddings": 4096,
    "partial_rotary_factor": 0.75,
    "rope_scaling": {"type": "longrope", "short_factor": [1.0] * 48, "long_factor": [2] * 48},
    "rope_theta": 10000.0,
    "tie_word_embeddings": True,
    "torch_dtype": "bfloat16",
    "eos_token_id": 199999,
}
PHI_4: dict[str, object] = {
    "architectures": ["Phi3ForCausalLM"],
    "model_type": "phi3",
    "vocab_size": 100352,
    "hidden_size": 5120,
    "intermediate_size": 17920,
    "num_hidden_layers": 40,
    "num_attention_heads": 40,
    "num_key_value_heads": 10,
    "max_position_embeddings": 16384,
    "original_max_position_embeddings": 16384,
    "rope_scaling": None,
    "rope_theta": 250000,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "eos_token_id": 100265,
}


def load(folder: Path, content: dict[str, object]) -> ModelConfig:
    (folder / "config.json").write_text(json.dumps(content), encoding="utf-8")
    return load_config(folder)


def test_phi_4_mini(tmp_path: Path) -> None:
    config = load(tmp_path, MINI)

    assert (config.rope_kind, config.original_max_positions) == ("longrope", 4096)
    assert (config.head_size, config.rotary_size) == (128, 96)
    assert (config.tied_embeddings, config.dtype) == (True, "bfloat16")


def test_phi_4_mini_stops_where_its_turns_end_although_its_configuration_does_not_say_so(tmp_path: Path) -> None:
    config = load(tmp_path, MINI)

    assert (config.stop_ids, config.added_stop_ids) == ((199999, 200020), (200020,))


def test_what_the_configuration_names_is_kept(tmp_path: Path) -> None:
    (tmp_path / "generation_config.json").write_text('{"eos_token_id": [200020, 7]}', encoding="utf-8")
    config = load(tmp_path, MINI)

    assert (config.stop_ids, config.added_stop_ids) == ((7, 199999, 200020), ())


def test_no_stop_id_is_added_that_the_tokenizer_does_not_have(tmp_path: Path) -> None:
    tokens = [{"id": 199999, "content": "<|endoftext|>"}]
    (tmp_path / "tokenizer.json").write_text(json.dumps({"added_tokens": tokens}), encoding="utf-8")

    assert load(tmp_path, MINI).stop_ids == (199999,)


def test_phi_4(tmp_path: Path) -> None:
    config = load(tmp_path, PHI_4)

    assert (config.rope_kind, config.original_max_positions) == ("default", None)
    assert (config.rope_theta, config.partial_rotary_factor) == (250_000.0, 1.0)
    assert config.tied_embeddings is False


@pytest.mark.parametrize("old", [MINI, PHI_4])
def test_the_form_of_transformers_5_means_the_same(old: dict[str, object], tmp_path: Path) -> None:
    before = load(tmp_path, old)
    new = {name: value for name, value in old.items() if name not in {"rope_scaling", "rope_theta", "torch_dtype"}}
    scaling = old["rope_scaling"] if isinstance(old["rope_scaling"], dict) else {}
    new["rope_parameters"] = {
        **scaling,
        "rope_type": scaling.get("type", "default"),
        "rope_theta": old["rope_theta"],
        "partial_rotary_factor": new.pop("partial_rotary_factor", 1.0),
        "original_max_position_embeddings": new.pop("original_max_position_embeddings"),
    }
    new["dtype"] = old["torch_dtype"]

    assert load(tmp_path, new) == before


def test_stop_ids_come_from_three_files(tmp_path: Path) -> None:
    make_checkpoint(tmp_path)
    (tmp_path / "generation_config.json").write_text('{"eos_token_id": [300, 7]}', encoding="utf-8")
    tokens = json.loads((tmp_path / "tokenizer.json").read_text(encoding="utf-8"))["added_tokens"]
    ids = {token["content"]: token["id"] for token in tokens}

    assert load_config(tmp_path).stop_ids == tuple(sorted((7, 300, ids["<|end|>"], ids["<|endoftext|>"])))


def test_a_generation_config_that_is_not_json_is_named(tmp_path: Path) -> None:
    make_checkpoint(tmp_path)
    (tmp_path / "generation_config.json").write_bytes(b"\xff\xfe")

    with pytest.raises(ConfigInvalidError, match=r"generation_config\.json"):
        load_config(tmp_path)


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"num_attention_heads": 25}, "hidden_size 3072 does not divide among 25"),
        ({"num_key_value_heads": 7}, "24 attention heads do not divide among 7"),
        ({"vocab_size": True}, "vocab_size is True"),
        ({"vocab_size": 1000}, r"stop ids \[199999\] are outside the vocabulary of 1000"),
        ({"num_hidden_layers": 10**9}, "num_hidden_layers is 1000000000, above the limit"),
        ({"eos_token_id": None}, "no answer would end"),
        ({"eos_token_id": ["x"]}, "eos_token_id is"),
        ({"partial_rotary_factor": 0.5}, "short_factor has 48 factors; 32 are needed"),
        ({"partial_rotary_factor": 1.5}, "it cannot be above 1"),
        ({"rope_theta": float("nan")}, "rope_theta is nan"),
        ({"rope_theta": 10**400}, "rope_theta is 1000"),
        ({"rope_scaling": {"type": "yarn"}}, "type 'yarn'; default and longrope"),
        ({"rope_scaling": {"type": "longrope"}}, "long_factor has 0 factors"),
        ({"rope_scaling": 2}, "rope_scaling is 2"),
        ({"original_max_position_embeddings": 200_000}, "200000 is above max_position_embeddings"),
        ({"tie_word_embeddings": "yes"}, "tie_word_embeddings is 'yes'"),
        ({"torch_dtype": "int8"}, "dtype is 'int8'"),
        ({"quantization_config": {}}, "quantized already"),
    ],
)
def test_faults(changes: dict[str, object], fault: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigInvalidError, match=fault):
        load(tmp_path, MINI | changes)


@pytest.mark.parametrize("content", ["[]", "null", "[" * 100_000])
def test_json_that_is_no_object(content: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(content, encoding="utf-8")

    with pytest.raises(ConfigInvalidError):
        load_config(tmp_path)
