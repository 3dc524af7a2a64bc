"""The logits of a variant: over a whole text at once, or the way a generation comes by them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from phiforge import errors
from phiforge.runtime.trace import LastRows, Trace
from phiforge.runtime.variant import runtime_errors

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from phiforge.runtime.variant import Variant


def logits(variant: Variant, token_ids: Sequence[int]) -> NDArray[np.float32]:
    """Return the logits of a text, computed in a prefill: float32, [n, vocab]; row i predicts token i + 1.

    Raises:
        VariantUnusableError: The runtime fails, or the graph gives only the last position (built with prune_lm_head).
    """
    with runtime_errors(variant.folder, "does not answer"):
        generator = variant.generator(max_length=max(len(token_ids), 1))
        found = []
        for part in variant.parts(np.asarray(token_ids, dtype=np.int32)):
            generator.append_tokens(part)
            found.append(_rows(variant, generator, len(part)))
    return np.concatenate(found)


def logits_stepwise(variant: Variant, token_ids: Sequence[int], prefill: int) -> NDArray[np.float32]:
    """Return the logits of a text, the first `prefill` tokens at once and the others one by one: float32, [n, vocab].

    This goes over the decode path with its KV cache. Unlike a generation, it never recomputes the cache at the
    longrope switch (see `trace_greedy`).

    Raises:
        VariantUnusableError: The runtime fails, or the graph gives only the last position.
    """
    ids = np.asarray(token_ids, dtype=np.int32)
    with runtime_errors(variant.folder, "does not answer"):
        generator = variant.generator(max_length=len(ids))
        generator.append_tokens(ids[:prefill])
        parts = [_rows(variant, generator, prefill)]
        for token in range(prefill, len(ids)):
            generator.append_tokens(ids[token : token + 1])
            parts.append(_rows(variant, generator, 1))
    return np.concatenate(parts)


def last_rows(variant: Variant, token_ids: Sequence[int]) -> LastRows:
    """Return the logits after all but the last token, computed in one prefill, and after the last one, in a step.

    Unlike the other functions here, this one also takes a variant that gives the last position only.

    Raises:
        VariantUnusableError: The runtime fails.
    """
    ids = np.asarray(token_ids, dtype=np.int32)
    rows = []
    with runtime_errors(variant.folder, "does not answer"):
        generator = variant.generator(max_length=len(ids))
        for part in (ids[:-1], ids[-1:]):
            variant.append(generator, part)
            rows.append(np.asarray(generator.get_output("logits")[0, -1], dtype=np.float32))
    return LastRows(prefill=rows[0], step=rows[1])


def next_logits(variant: Variant, token_ids: Sequence[int]) -> NDArray[np.float32]:
    """Return the logits after a prompt, float32 [vocab], the way an application comes by them.

    Raises:
        VariantUnusableError: The runtime fails.
    """
    with runtime_errors(variant.folder, "does not answer"):
        generator = variant.generator(max_length=variant.context_length)
        variant.append(generator, token_ids)
        found = np.asarray(generator.get_logits(), dtype=np.float32)
    last: NDArray[np.float32] = found.reshape(-1, variant.vocab_size)[-1]
    return last


def trace_greedy(variant: Variant, prompt: Sequence[int], steps: int) -> Trace:
    """Continue a prompt greedily for exactly `steps` tokens, as an application does, and keep the logits.

    Stop ids are kept from being chosen; their logits are the lowest float32 in every row but the first. A generation
    differs from `logits_stepwise`: onnxruntime-genai 0.18 recomputes the whole KV cache when a sequence reaches 4097
    tokens (fixed in its code for models of type phi3, batch size 1), as the longrope switch of a checkpoint with
    4096 original positions asks for.

    Raises:
        VariantUnusableError: The runtime fails.
    """
    taken = variant.prompt_length(len(prompt))
    length = taken + steps
    rows = []
    with runtime_errors(variant.folder, "does not generate"):
        generator = variant.generator(max_length=length, min_length=length)
        variant.append(generator, prompt)
        for _ in range(steps):
            generator.generate_next_token()
            rows.append(np.asarray(generator.get_output("logits")[0, -1], dtype=np.float32))
        made = generator.get_sequence(0)[taken:].tolist()
    tokens = (*(int(token) for token in prompt), *made)
    return Trace(tokens=tokens, prompt_tokens=len(prompt), logits=np.stack(rows))


def _rows(variant: Variant, generator: Any, expected: int) -> NDArray[np.float32]:
    """Return the logits of the tokens appended last, which `get_output` gives as a copy [1, n, vocab]."""
    found = generator.get_output("logits")[0]
    if found.shape[0] != expected:
        raise errors.VariantUnusableError(
            f"The variant {variant.folder} cannot be scored.",
            why=f"Its graph gives logits of {found.shape[0]} positions where {expected} were asked.",
            fix="Validate it with `phiforge validate`, which makes a twin of a variant that phiforge pruned.",
        )
    return np.asarray(found, dtype=np.float32)
