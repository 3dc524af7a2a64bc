"""Gives a Phi-3-shaped model outlier channels without changing its function.

A small model has no outlier channels and int4 costs it nothing; a large one has them. Scaling a channel where it is
written and dividing it where it is read leaves the function as it is and makes the weights as uneven as those of a
large model:

* an RMS norm's weight times s, the columns of the projection that reads it (qkv, gate_up) divided by s;
* the rows of v times s, the columns of o that read them divided by s (a v channel serves all query heads of its group);
* the rows of up times s, the columns of down divided by s.

Every s is a power of two, so bf16 and fp32 weights change exactly and no rounding enters the function either.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch

Model = Any  # a Phi3ForCausalLM; transformers annotates its methods only in part


@dataclass(frozen=True)
class OutlierPlan:
    """How uneven the channels become.

    Attributes:
        sigma: standard deviation of the natural logarithm of s before it is rounded to a power of two.
        outlier: what s is further multiplied by in the outlier channels; a power of two.
        one_in: one channel in this many (at least one per site) is an outlier channel.
        seed: seed of the draw.
    """

    sigma: float = 0.5
    outlier: float = 8.0
    one_in: int = 64
    seed: int = 3


def draw_scales(count: int, plan: OutlierPlan, generator: torch.Generator) -> torch.Tensor:
    """Draws the scales of one site: `count` powers of two, fp32."""
    exponents = (torch.randn(count, generator=generator) * plan.sigma / math.log(2)).round()
    chosen = torch.randperm(count, generator=generator)[: max(1, count // plan.one_in)]
    exponents[chosen] += round(math.log2(plan.outlier))
    return torch.exp2(exponents)


@torch.no_grad()
def rescale(model: Model, plan: OutlierPlan) -> Model:
    """Rescales all layers of a model in place by scales drawn from the plan's seed, and gives the model back."""
    generator = torch.Generator().manual_seed(plan.seed)
    config = model.config
    heads, groups = config.num_attention_heads, config.num_key_value_heads
    head_size = config.hidden_size // heads
    values = groups * head_size
    for layer in model.model.layers:
        attention, mlp = layer.self_attn, layer.mlp
        for norm, reader in (
            (layer.input_layernorm, attention.qkv_proj),
            (layer.post_attention_layernorm, mlp.gate_up_proj),
        ):
            scales = draw_scales(config.hidden_size, plan, generator).to(norm.weight.dtype)
            norm.weight.mul_(scales)
            reader.weight.div_(scales)
        scales = draw_scales(values, plan, generator).to(attention.o_proj.weight.dtype)
        attention.qkv_proj.weight[-values:].mul_(scales[:, None])
        per_head = scales.view(groups, 1, head_size).expand(groups, heads // groups, head_size)
        attention.o_proj.weight.div_(per_head.reshape(-1))
        scales = draw_scales(config.intermediate_size, plan, generator).to(mlp.down_proj.weight.dtype)
        mlp.gate_up_proj.weight[config.intermediate_size :].mul_(scales[:, None])
        mlp.down_proj.weight.div_(scales)
    return model


@torch.no_grad()
def mean_kl(reference: Model, other: Model, documents: list[list[int]]) -> float:
    """Mean KL divergence per token of `other` from `reference` over documents of token ids, in nats, in fp64."""
    total, count = 0.0, 0
    for ids in documents:
        tokens = torch.tensor([ids])
        p = torch.log_softmax(reference(tokens).logits[0].double(), -1)
        q = torch.log_softmax(other(tokens).logits[0].double(), -1)
        total += float((p.exp() * (p - q)).sum())
        count += len(ids)
    return total / count
