"""Where the builder's initializers come from: graph name to rows of a checkpoint tensor.

The onnxruntime-genai builder splits and renames what Phi-3's code fuses. Names as of onnxruntime-genai 0.18.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from phiforge import errors

if TYPE_CHECKING:
    from phiforge.checkpoint.config import ModelConfig

EMBEDDING_INITIALIZER = "model.embed_tokens.weight"
HEAD_INITIALIZER = "lm_head.MatMul.weight"

_LAYER = re.compile(r"model\.layers\.(\d+)\.(.+)\Z")


@dataclass(frozen=True, kw_only=True)
class Source:
    """Rows `start <= row < stop` of a checkpoint module's weight."""

    module: str
    start: int
    stop: int


def source_of(initializer: str, config: ModelConfig) -> Source:
    """Return where a weight of the builder's graph comes from.

    Raises:
        GraphMismatchError: The name is none that the builder is known to give.
    """
    if initializer == EMBEDDING_INITIALIZER:
        return Source(module="model.embed_tokens", start=0, stop=config.vocab_size)
    if initializer == HEAD_INITIALIZER:
        module = "model.embed_tokens" if config.tied_embeddings else "lm_head"
        return Source(module=module, start=0, stop=config.vocab_size)
    match = _LAYER.match(initializer)
    if match and (found := _layer_source(int(match[1]), match[2], config)):
        return found
    raise errors.GraphMismatchError(
        f"The builder made a weight that no checkpoint tensor is known for: {initializer}.",
        why="Another version of onnxruntime-genai than the pinned one may name its weights otherwise.",
        fix="Install the pinned versions: pip install -c constraints.txt phiforge[build,cpu].",
    )


def _layer_source(layer: int, name: str, config: ModelConfig) -> Source | None:
    hidden, inner = config.hidden_size, config.intermediate_size
    query = config.head_count * config.head_size
    key = config.kv_head_count * config.head_size
    if name == "final_norm_layernorm.weight" and layer == config.layer_count:
        return Source(module="model.norm", start=0, stop=hidden)
    parts = {
        "input_layernorm.weight": ("input_layernorm", 0, hidden),
        "post_attention_layernorm.weight": ("post_attention_layernorm", 0, hidden),
        "attn.qkv_proj.MatMul.weight": ("self_attn.qkv_proj", 0, query + 2 * key),
        "attn.q_proj.MatMul.weight": ("self_attn.qkv_proj", 0, query),
        "attn.k_proj.MatMul.weight": ("self_attn.qkv_proj", query, query + key),
        "attn.v_proj.MatMul.weight": ("self_attn.qkv_proj", query + key, query + 2 * key),
        "attn.o_proj.MatMul.weight": ("self_attn.o_proj", 0, hidden),
        "mlp.gate_proj.MatMul.weight": ("mlp.gate_up_proj", 0, inner),
        "mlp.up_proj.MatMul.weight": ("mlp.gate_up_proj", inner, 2 * inner),
        "mlp.down_proj.MatMul.weight": ("mlp.down_proj", 0, hidden),
    }
    if name not in parts:
        return None
    module, start, stop = parts[name]
    return Source(module=f"model.layers.{layer}.{module}", start=start, stop=stop)
