"""Log-likelihoods of continuations of a prompt, the same way for reference and variant. Pure NumPy.

The log-likelihood of a continuation is the sum of its tokens' log-probabilities, each given the prompt and the tokens
before it. A continuation of one token needs the logits after the prompt alone, so labels such as A to D share one
computation.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from phiforge.validation.drift import log_softmax
from phiforge.validation.suites import chosen

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray


@dataclass(frozen=True)
class Context:
    """Tokens to compute on, the first row whose logits count, and the continuations that are told by it."""

    tokens: tuple[int, ...]
    first_row: int
    members: tuple[int, ...]


def share_prompt(prompt: Sequence[int], whole: Sequence[Sequence[int]]) -> tuple[list[int], list[list[int]]]:
    """Return what prompt and whole sequences begin with in common, and what each sequence goes on with.

    A tokenizer may merge the end of a prompt with the beginning of a continuation; those tokens then count as the
    continuation's.

    Args:
        prompt: Token ids of the prompt alone.
        whole: Token ids of the prompt's text with each continuation behind it.
    """
    shortest = min(len(prompt), *(len(ids) - 1 for ids in whole))
    common = next((index for index in range(shortest) if any(ids[index] != prompt[index] for ids in whole)), shortest)
    return list(prompt[:common]), [list(ids[common:]) for ids in whole]


def contexts(prompt: Sequence[int], continuations: Sequence[Sequence[int]]) -> list[Context]:
    """Return what must be computed for the continuations of a prompt; equal sequences are computed once."""
    members: dict[tuple[int, ...], list[int]] = {}
    for index, continuation in enumerate(continuations):
        members.setdefault((*prompt, *continuation[:-1]), []).append(index)
    return [Context(tokens, len(prompt) - 1, tuple(indices)) for tokens, indices in members.items()]


def log_likelihoods(
    context: Context, continuations: Sequence[Sequence[int]], logits: NDArray[np.floating]
) -> dict[int, float]:
    """Return the log-likelihood in nats of each continuation that a context tells, by its index.

    Args:
        context: One of `contexts`.
        continuations: Token ids of each continuation.
        logits: float [rows, vocab], of the context's tokens from `first_row` on.

    Raises:
        VariantUnusableError: A logit is not finite.
    """
    logs = log_softmax(logits)
    return {
        member: float(logs[np.arange(len(continuations[member])), np.asarray(continuations[member])].sum())
        for member in context.members
    }


def choose(
    prompt: Sequence[int],
    continuations: Sequence[Sequence[int]],
    logits_of: Callable[[Sequence[int]], NDArray[np.float32]],
) -> int:
    """Return the index of the continuation that a model chooses.

    Args:
        prompt: Token ids that all continuations follow.
        continuations: Token ids of each.
        logits_of: The model's logits of token ids, float [n, vocab].

    Raises:
        VariantUnusableError: The model fails, or a logit is not finite.
    """
    found: dict[int, float] = {}
    for context in contexts(prompt, continuations):
        rows = logits_of(context.tokens)[context.first_row :]
        found |= log_likelihoods(context, continuations, rows)
    return chosen([found[index] for index in range(len(continuations))], [len(item) for item in continuations])
