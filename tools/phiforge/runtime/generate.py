"""Greedy generation by the shipped runtime."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from phiforge.runtime.variant import runtime_errors

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from phiforge.runtime.variant import Variant

StoppedBy = Literal["stop-id", "length"]


@dataclass(frozen=True)
class Generation:
    """The new tokens of one prompt, without the stop id that ended them."""

    tokens: tuple[int, ...]
    stopped_by: StoppedBy


def generate(
    variant: Variant, prompts: Sequence[Sequence[int]], *, max_new_tokens: int, batch_size: int = 1
) -> list[Generation]:
    """Continue each prompt greedily; the results are in the order of the prompts.

    Args:
        variant: An open variant.
        prompts: Token ids.
        max_new_tokens: Tokens after which a generation ends without a stop id.
        batch_size: Prompts decoded together, where they are equally long, so that nothing is padded. Applications
            decode one at a time: keep 1 where a sequence crosses the longrope switch, for onnxruntime-genai 0.18
            recomputes its cache there only for single sequences.

    Raises:
        VariantUnusableError: The runtime fails.
    """
    by_length: dict[int, list[int]] = {}
    for index, prompt in enumerate(prompts):
        by_length.setdefault(len(prompt), []).append(index)
    found: dict[int, Generation] = {}
    for indices in by_length.values():
        for start in range(0, len(indices), batch_size):
            part = indices[start : start + batch_size]
            results = _together(variant, [prompts[index] for index in part], max_new_tokens)
            found.update(zip(part, results, strict=True))
    return [found[index] for index in range(len(prompts))]


def _together(variant: Variant, prompts: Sequence[Sequence[int]], max_new_tokens: int) -> list[Generation]:
    """Continue equally long prompts."""
    length = variant.prompt_length(len(prompts[0]))
    most = min(length + max_new_tokens, variant.context_length)
    with runtime_errors(variant.folder, "does not generate"):
        generator = variant.generator(max_length=most, batch_size=len(prompts))
        variant.append(generator, prompts)
        while not generator.is_done():
            generator.generate_next_token()
        rows = [generator.get_sequence(row)[length:].tolist() for row in range(len(prompts))]
    return [as_generation(row, variant.stop_ids, most - length) for row in rows]


def as_generation(tokens: Sequence[int], stop_ids: Collection[int], max_new_tokens: int) -> Generation:
    """Return one row of a batch as a generation.

    onnxruntime-genai 0.18 appends the stop id and then padding to a row that ends while others go on, but appends
    nothing when the last row ends: such a row is just short.
    """
    for count, token in enumerate(tokens):
        if token in stop_ids:
            return Generation(tokens=tuple(tokens[:count]), stopped_by="stop-id")
    return Generation(tokens=tuple(tokens), stopped_by="stop-id" if len(tokens) < max_new_tokens else "length")


def stops_at(variant: Variant, token_id: int) -> bool:
    """Return whether a generation ends when this token is chosen; its logit is set so that it is.

    Raises:
        VariantUnusableError: The runtime fails.
    """
    forced = np.zeros((1, 1, variant.vocab_size), dtype=np.float32)
    forced[..., token_id] = 100.0
    with runtime_errors(variant.folder, "does not generate"):
        generator = variant.generator(max_length=variant.prompt_length(1) + 7)
        generator.append_tokens(np.zeros(1, dtype=np.int32))
        generator.get_logits()
        generator.set_logits(forced)
        generator.generate_next_token()
        return bool(generator.is_done())
