"""The mixed-precision rules, against the layers that the builder would choose."""

from __future__ import annotations

import pytest

from phiforge.quantize.mixed import MIXED_RULES, bits_for

# Worked out by hand from llama.cpp's rule for 32 layers, as in phi-4-mini: 0-3, 28-31, each i with (i - 4) % 3 == 2.
SENSITIVE_OF_32 = {0, 1, 2, 3, 6, 9, 12, 15, 18, 21, 24, 27, 28, 29, 30, 31}


@pytest.mark.parametrize("name", ["model.layers.{}.mlp.down_proj", "/model/layers.{}/attn/qkv_proj/MatMul"])
def test_kquant_mixed_raises_the_sensitive_layers(name: str) -> None:
    raised = {layer for layer in range(32) if bits_for("k-quant-mixed", name.format(layer), 32, 4) == 8}

    assert raised == SENSITIVE_OF_32


@pytest.mark.parametrize(
    ("rule", "module", "bits"),
    [
        ("none", "model.layers.0.mlp.down_proj", 4),
        ("none", "lm_head", 4),
        ("k-quant-mixed", "model.layers.0.self_attn.qkv_proj.weight", 8),
        ("k-quant-mixed", "model.layers.0.self_attn.v_proj", 8),
        ("k-quant-mixed", "model.layers.0.self_attn.o_proj", 4),
        ("k-quant-mixed", "model.layers.0.mlp.gate_up_proj", 4),
        ("k-quant-mixed", "lm_head.weight", 8),
        ("k-quant-mixed", "/lm_head/MatMul", 8),
        ("k-quant-mixed", "model.embed_tokens", 4),
        ("attention-int8", "model.layers.1.self_attn.o_proj", 8),
        ("attention-int8", "model.layers.1.mlp.down_proj", 4),
        ("down-int8", "model.layers.1.mlp.down_proj", 8),
        ("down-int8", "model.layers.1.self_attn.qkv_proj", 4),
    ],
)
def test_bits_of_single_modules(rule: str, module: str, bits: int) -> None:
    assert bits_for(rule, module, 6, 4) == bits


@pytest.mark.parametrize("rule", MIXED_RULES)
def test_no_rule_lowers_the_base_bits(rule: str) -> None:
    assert bits_for(rule, "model.layers.0.mlp.gate_up_proj", 6, 8) == 8


def test_refuses_unknown_rules_and_layers() -> None:
    with pytest.raises(ValueError, match="'q4_k_m'; there are none, k-quant-mixed"):
        bits_for("q4_k_m", "lm_head", 6, 4)
    with pytest.raises(ValueError, match="layer 6, but the model has 6"):
        bits_for("none", "model.layers.6.mlp.down_proj", 6, 4)
