"""Every field that config.json has wrong is read off the tensors and named, and nothing else is."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from phiforge.checkpoint.config import ModelConfig
from phiforge.checkpoint.disagreements import HEAD, Faults, find_faults, sizes_of

PHI_4 = ModelConfig(
    architecture="Phi3ForCausalLM",
    model_type="phi3",
    vocab_size=100_352,
    hidden_size=5120,
    intermediate_size=17_920,
    layer_count=40,
    head_count=40,
    kv_head_count=10,
    head_size=128,
    max_positions=16_384,
    original_max_positions=None,
    rope_kind="default",
    rope_theta=250_000.0,
    partial_rotary_factor=1.0,
    tied_embeddings=False,
    stop_ids=(100_265,),
    dtype="bfloat16",
)
SIZES = st.fixed_dictionaries(
    {
        "vocab_size": st.integers(2, 999),
        "hidden_size": st.integers(2, 64).map(lambda half: 2 * half),
        "intermediate_size": st.integers(1, 99),
        "layer_count": st.integers(1, 6),
        "head_count": st.integers(1, 8),
        "kv_head_count": st.integers(1, 8),
        "head_size": st.just(16),
        "tied_embeddings": st.booleans(),
    }
)
FIELDS = {
    "vocab_size": "vocab_size",
    "hidden_size": "hidden_size",
    "intermediate_size": "intermediate_size",
    "layer_count": "num_hidden_layers",
    "head_count": "num_attention_heads",
    "kv_head_count": "num_key_value_heads",
}


def faults_of(config: ModelConfig, stored: ModelConfig) -> Faults:
    return find_faults(config, sizes_of(stored).shapes())


@given(sizes=SIZES)
def test_a_configuration_agrees_with_its_own_tensors(sizes: dict[str, Any]) -> None:
    config = replace(PHI_4, **sizes)

    assert faults_of(config, config).all() == []


@given(sizes=SIZES, others=SIZES)
def test_exactly_the_fields_that_differ_are_named(sizes: dict[str, Any], others: dict[str, Any]) -> None:
    config, stored = replace(PHI_4, **sizes), replace(PHI_4, **others)
    found = faults_of(config, stored)
    differing = {FIELDS[name] for name in FIELDS if getattr(config, name) != getattr(stored, name)}
    if stored.tied_embeddings and not config.tied_embeddings:
        differing.add("tie_word_embeddings")

    assert {fault.split()[0] for fault in found.fields} == differing
    assert found.missing == found.wrong == found.unexpected == []


@given(sizes=SIZES, data=st.data())
def test_one_missing_tensor_is_named_and_no_field(sizes: dict[str, Any], data: st.DataObject) -> None:
    config = replace(PHI_4, **sizes)
    shapes = sizes_of(config).shapes()
    name = data.draw(st.sampled_from([name for name in shapes if name != HEAD]))
    del shapes[name]
    found = find_faults(config, shapes)

    assert (found.fields, found.wrong, found.unexpected) == ([], [], [])
    assert found.missing == [f"no file has {name}"]


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"layer_count": 32}, "num_hidden_layers is 32, but there are tensors of 40 layers"),
        ({"vocab_size": 200_064}, "vocab_size is 200064, but model.embed_tokens.weight has 100352 rows"),
        ({"hidden_size": 3072}, "hidden_size is 3072, but the tensors are 5120 wide"),
        ({"intermediate_size": 8192}, "intermediate_size is 8192, but mlp.down_proj is 17920 wide"),
        (
            {"head_count": 32},
            "num_attention_heads is 32, which makes 4096 with heads of 128, but self_attn.o_proj is 5120 wide",
        ),
        (
            {"kv_head_count": 8},
            "num_key_value_heads is 8, which makes 1024 with heads of 128, but self_attn.qkv_proj has 1280 key rows",
        ),
    ],
)
def test_words(changes: dict[str, Any], told: str) -> None:
    assert faults_of(replace(PHI_4, **changes), PHI_4).all() == [told]


def test_a_layer_in_the_middle_is_missing_in_one_line_for_each_part() -> None:
    shapes = {name: shape for name, shape in sizes_of(PHI_4).shapes().items() if ".layers.7." not in name}
    found = find_faults(PHI_4, shapes)

    assert found.fields == []
    assert len(found.missing) == 6
    assert "no file has model.layers.7.mlp.down_proj.weight" in found.missing


def test_a_stray_layer_number_is_no_layer() -> None:
    shapes = sizes_of(PHI_4).shapes() | {"model.layers.99999.mlp.down_proj.weight": (5120, 17_920)}

    assert find_faults(PHI_4, shapes).all() == ["model.layers.99999.mlp.down_proj.weight is no part of the model"]


def test_the_same_fault_in_many_layers_is_one_line() -> None:
    shapes = sizes_of(PHI_4).shapes()
    for layer in (0, 1, 2, 9):
        shapes[f"model.layers.{layer}.self_attn.o_proj.weight"] = (5120, 4096)

    assert find_faults(PHI_4, shapes).all() == [
        "self_attn.o_proj.weight of layers 0 to 2, 9 has shape [5120, 4096] instead of [5120, 5120]"
    ]


def test_no_end_of_faults_ends_the_message() -> None:
    stray = {f"stray.{letter}": (1,) for letter in map(chr, range(97, 197))}
    found = find_faults(PHI_4, sizes_of(PHI_4).shapes() | stray)

    assert len(found.all()) == 61
    assert found.all()[-1] == "and 40 more"
