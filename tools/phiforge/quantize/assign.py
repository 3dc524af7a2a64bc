"""Which quantization each weight of a model gets: base bits, the mixed rule, the head and the embedding table."""

from __future__ import annotations

from typing import TYPE_CHECKING

from phiforge import errors
from phiforge.quantize.mixed import MIXED_BITS, bits_for
from phiforge.quantize.spec import QuantSpec

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

LM_HEAD = "lm_head"
EMBEDDING = "model.embed_tokens"


def assign_specs(
    shapes: Mapping[str, tuple[int, int]],
    *,
    layer_count: int,
    bits: int,
    block_size: int,
    symmetric: bool,
    mixed: str,
    lm_head_bits: int,
    embedding_bits: int,
    per_channel: bool = False,
    positive_scales: bool = False,
    in_blocks: Collection[str] = (),
    int8_modules: Collection[str] = (),
) -> dict[str, QuantSpec]:
    """Return the quantization of every module.

    Args:
        shapes: Module name to (rows, columns) of its weight; blocks run along the columns.
        layer_count: Number of decoder layers, which the mixed rules count in.
        bits: Bits of every weight no rule speaks of.
        block_size: Weights that share one scale.
        symmetric: Whether the zero point is fixed at the middle code.
        mixed: Name of the rule that gives some decoder weights 8 bits.
        lm_head_bits: Bits of an untied head.
        embedding_bits: Bits of the embedding table, which a tied head shares.
        per_channel: Whether all blocks of a row share one scale.
        positive_scales: Whether symmetric blocks have positive scales only.
        in_blocks: Modules whose blocks keep their own scales all the same.
        int8_modules: Modules that get 8 bits whatever the rule says.

    Raises:
        PipelineInvalidError: A weight's columns do not divide into blocks.
    """
    odd = [f"{name} has {columns} columns" for name, (_, columns) in shapes.items() if columns % block_size]
    if odd:
        raise errors.PipelineInvalidError(
            f"Blocks of {block_size} do not fit this checkpoint.",
            why=f"Every weight's columns must be a multiple of the block: {'; '.join(odd[:4])}.",
            fix="Choose a smaller block_size in the pipeline: 16, 32, 64, 128 or 256.",
        )
    own = {LM_HEAD: lm_head_bits, EMBEDDING: embedding_bits}

    def bits_of(name: str) -> int:
        if name in int8_modules:
            return MIXED_BITS
        return own[name] if name in own else bits_for(mixed, name, layer_count, bits)

    return {
        name: QuantSpec(
            bits=bits_of(name),
            block_size=block_size,
            symmetric=symmetric,
            per_channel=per_channel and name not in in_blocks,
            positive=positive_scales,
        )
        for name in shapes
    }
