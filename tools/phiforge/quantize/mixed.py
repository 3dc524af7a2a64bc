"""Mixed precision: the rule that decides which linear layers get 8 bits instead of the base bits."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

MIXED_BITS = 8

# Hugging Face's `model.layers.3.mlp.down_proj` and the builder's `/model/layers.3/mlp/down_proj/MatMul`.
_LAYER_MODULE = re.compile(r"(?:^|[./])layers[./](?P<layer>\d+)[./](?:\w+[./])*?(?P<module>\w+_proj)(?:$|[./])")
_HEAD_MODULE = re.compile(r"(?:^|[./])lm_head(?:$|[./])")


@dataclass(frozen=True, kw_only=True)
class MixedRule:
    """Which modules get 8 bits.

    Attributes:
        title: The rule in one line.
        modules: Last parts of the module names inside a layer, such as `down_proj`.
        layers: Says of a layer index and the layer count whether the layer takes part.
        head: Whether the language model head takes part. With tied embeddings the builder stores head and embedding
            once, so the embedding follows.
    """

    title: str
    modules: frozenset[str]
    layers: Callable[[int, int], bool]
    head: bool


def is_sensitive_layer(layer: int, layer_count: int) -> bool:
    """Says whether a layer is in the first eighth, the last eighth, or every third in between.

    llama.cpp's `use_more_bits` (llama-quant.cpp), with the arithmetic of `make_matmul_mixed_precision` in
    onnxruntime-genai 0.18's builders/base.py, so that both name the same layers.
    """
    return layer < layer_count / 8 or layer >= 7 * layer_count / 8 or (layer - round(layer_count / 8)) % 3 == 2


def _every_layer(layer: int, layer_count: int) -> bool:
    return 0 <= layer < layer_count


MIXED_RULES: dict[str, MixedRule] = {
    "none": MixedRule(title="every module at the base bits", modules=frozenset(), layers=_every_layer, head=False),
    "k-quant-mixed": MixedRule(
        title="the builder's k_quant_mixed: head, and attention input and MLP output of the sensitive layers",
        modules=frozenset({"qkv_proj", "v_proj", "down_proj"}),
        layers=is_sensitive_layer,
        head=True,
    ),
    "attention-int8": MixedRule(
        title="all attention projections",
        modules=frozenset({"qkv_proj", "q_proj", "k_proj", "v_proj", "o_proj"}),
        layers=_every_layer,
        head=False,
    ),
    "down-int8": MixedRule(
        title="the MLP output projection of every layer",
        modules=frozenset({"down_proj"}),
        layers=_every_layer,
        head=False,
    ),
}


def bits_for(rule: str, module_name: str, layer_count: int, base_bits: int) -> int:
    """Gives the bits of one module.

    Args:
        rule: A name of `MIXED_RULES`.
        module_name: The module's name in Hugging Face's form (with or without `.weight`) or the builder's node name.
        layer_count: Layers of the model.
        base_bits: Bits of the modules that the rule leaves alone; a rule never lowers them.

    Raises:
        ValueError: The rule is unknown, or the name is of a layer that the model does not have.
    """
    if rule not in MIXED_RULES:
        raise ValueError(f"there is no mixed-precision rule {rule!r}; there are {', '.join(MIXED_RULES)}")
    chosen = MIXED_RULES[rule]
    if _HEAD_MODULE.search(module_name):
        return max(base_bits, MIXED_BITS) if chosen.head else base_bits
    match = _LAYER_MODULE.search(module_name)
    if match is None:
        return base_bits
    layer = int(match["layer"])
    if layer >= layer_count:
        raise ValueError(f"{module_name} is of layer {layer}, but the model has {layer_count} layers")
    takes_part = match["module"] in chosen.modules and chosen.layers(layer, layer_count)
    return max(base_bits, MIXED_BITS) if takes_part else base_bits
