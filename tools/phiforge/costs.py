"""What a variant costs to run, independent of a device: bytes read and operations done per token. Pure.

One multiplication with its addition counts as two operations, as in every data sheet. `phiforge.graph.costs` counts the
same from a built graph; this module counts it before there is one, from the configuration.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from phiforge.quantize.assign import EMBEDDING, LM_HEAD

if TYPE_CHECKING:
    from collections.abc import Sequence

    from phiforge.checkpoint.config import ModelConfig

# Nodes of the builder's graph that run for every token, in each layer and besides, by provider: five products,
# attention, two norms and the activation's three; mask, table, last norm, choice of the last position, head. DirectML's
# has products and rotations of their own for queries and keys, and an unpacked table.
NODES = {"cpu": (11, 20), "webgpu": (11, 20), "dml": (15, 48)}
# Products of weights and activations in a layer whose results are alive at once: both halves of the MLP's first
# product, the activation and its result.
MLP_VALUES = 4
# onnxruntime's arena splits freed chunks and so holds more than what is alive at once: on the CPU 1.5 times with four
# layers of Phi-4-mini's shapes, 1.7 times with phi-4-nano (docs/prediction.md).
ARENA_FACTOR = 1.6


class Weight(Protocol):
    """One module's weight in a variant; `phiforge.plan.WeightPlan`."""

    @property
    def module(self) -> str:
        """Its module."""

    @property
    def rows(self) -> int:
        """Outputs of the module, or entries of a table."""

    @property
    def weights(self) -> int:
        """Number of weights."""

    @property
    def stored_bytes(self) -> int:
        """Bytes in the variant."""


@dataclass(frozen=True, kw_only=True)
class Activations:
    """Values that are alive at once while a graph runs: so many bytes for each token it takes, and so many besides."""

    bytes_per_token: int
    bytes_besides: int

    def bytes_of(self, tokens: int) -> int:
        """Bytes while so many tokens are computed at once."""
        return self.bytes_per_token * tokens + self.bytes_besides


@dataclass(frozen=True, kw_only=True)
class Costs:
    """What a variant costs.

    Attributes:
        stored_bytes: All its weights, as they lie in memory while it runs.
        weight_bytes: Weights that are read for one token: all but the rows of the table that are other tokens'.
        weight_operations: Operations on weights for one token, without the head.
        head_operations: The head's for one position.
        head_every_position: Whether a prompt's positions all go through the head; else the last one alone does.
        pair_operations: Attention's, for one position that looks at one position.
        kv_cache_bytes: Keys and values of one token.
        activations: At each node what is alive, without the cache; the largest makes the workspace.
        nodes: Nodes that run for a token, or for a prompt.
        window_tokens: Tokens of a prompt that graphs of fixed shape take at once; None where a prompt goes in one run.
    """

    stored_bytes: int
    weight_bytes: int
    weight_operations: int
    head_operations: int
    head_every_position: bool
    pair_operations: int
    kv_cache_bytes: int
    activations: tuple[Activations, ...]
    nodes: int
    window_tokens: int | None = None

    def runs(self, tokens: int) -> int:
        """How many times the graph runs for a prompt."""
        return 1 if self.window_tokens is None else -(-tokens // self.window_tokens)

    def prompt_operations(self, tokens: int) -> int:
        """Operations from an empty cache to the first new token; a window that is not full costs a whole one."""
        computed = tokens if self.window_tokens is None else self.runs(tokens) * self.window_tokens
        heads = computed if self.head_every_position else self.runs(tokens)
        pairs = computed * (computed + 1) // 2
        return computed * self.weight_operations + heads * self.head_operations + pairs * self.pair_operations

    def prompt_bytes(self, tokens: int) -> int:
        """Bytes moved for a prompt: the weights once for every run, and each token's keys and values written."""
        return self.runs(tokens) * self.weight_bytes + tokens * self.kv_cache_bytes

    def token_operations(self, context: int) -> int:
        """Operations for one token after `context` others."""
        return self.weight_operations + self.head_operations + (context + 1) * self.pair_operations

    def token_bytes(self, context: int) -> int:
        """Bytes moved for one token after `context` others: the weights and the cache read, one token written."""
        return self.weight_bytes + (context + 1) * self.kv_cache_bytes

    def workspace_bytes(self, context: int) -> int:
        """What the arena holds of values alive at once, for a prompt as long as the context or a window of it."""
        tokens = context if self.window_tokens is None else min(context, self.window_tokens)
        return round(ARENA_FACTOR * max(alive.bytes_of(tokens) for alive in self.activations))


def planned_costs(
    config: ModelConfig,
    weights: Sequence[Weight],
    *,
    float_bytes: int,
    activation_bytes: int,
    kv_cache_element_bytes: int,
    head_every_position: bool,
    nodes: int,
    window_tokens: int | None = None,
) -> Costs:
    """Count a variant's costs before it is built.

    Args:
        config: The configuration of what is exported.
        weights: What each weight becomes.
        float_bytes: Bytes of what is not quantized: the norms.
        activation_bytes: Bytes of one activation.
        kv_cache_element_bytes: Bytes of one element of the cache.
        head_every_position: Whether the graph gives the logits of every position.
        nodes: Nodes that run for a token.
        window_tokens: Tokens that graphs of fixed shape take at once.
    """
    quantized = sum(weight.stored_bytes for weight in weights)
    products = [weight for weight in weights if weight.module != EMBEDDING or config.tied_embeddings]
    table = next((weight for weight in weights if weight.module == EMBEDDING), None)
    row = table.stored_bytes // table.rows if table else 0
    head = config.vocab_size * config.hidden_size
    inner = 2 * (sum(weight.weights for weight in products if weight.module not in (EMBEDDING, LM_HEAD)))
    rotary = rotary_elements(config) * activation_bytes if window_tokens is None else 0
    return Costs(
        stored_bytes=quantized + float_bytes + rotary,
        weight_bytes=sum(weight.stored_bytes for weight in products) + float_bytes + row,
        weight_operations=inner,
        head_operations=2 * head,
        head_every_position=head_every_position,
        pair_operations=4 * config.layer_count * config.head_count * config.head_size,
        kv_cache_bytes=2 * config.layer_count * config.kv_head_count * config.head_size * kv_cache_element_bytes,
        activations=_activations(config, activation_bytes, head_every_position=head_every_position),
        nodes=nodes,
        window_tokens=window_tokens,
    )


def rotary_elements(config: ModelConfig) -> int:
    """Elements of the tables of cosines and sines; a longrope model has one pair for each side of its switch."""
    positions = config.max_positions + (config.original_max_positions or 0)
    return 2 * positions * (config.rotary_size // 2)


def _activations(config: ModelConfig, element_bytes: int, *, head_every_position: bool) -> tuple[Activations, ...]:
    """What is alive in a layer's MLP, beside the residual stream, and at the head."""
    stream = config.hidden_size * element_bytes
    mlp = stream + MLP_VALUES * config.intermediate_size * element_bytes
    logits = (config.hidden_size + config.vocab_size) * element_bytes
    head = (logits, 0) if head_every_position else (0, logits)
    return (
        Activations(bytes_per_token=mlp, bytes_besides=0),
        Activations(bytes_per_token=head[0], bytes_besides=head[1]),
    )
