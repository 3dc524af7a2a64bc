"""How far a variant's next-token distributions are from the reference's; pure NumPy.

A row is one position of a text: row i holds the distribution of token i + 1, given tokens 0 to i.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from phiforge import errors
from phiforge.evidence import Estimate, Interval, Percentiles, PositionBin
from phiforge.validation.statistics import (
    BLOCK_TOKENS,
    block_ids,
    block_means,
    clustered_mean,
    interval_of_blocked_percentile,
    percentiles,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

# Rows worked on at once: at 200,064 tokens of vocabulary, 64 rows of float64 are 100 MB.
CHUNK_ROWS = 64


@dataclass(frozen=True)
class ReferenceText:
    """The reference's distributions over one text of n tokens.

    Attributes:
        tokens: int32 [n].
        top_ids: int32 [n, k], the reference's k likeliest tokens, likeliest first.
        top_log_probabilities: float32 [n, k], nats.
        tail_log_mass: float32 [n], log of the probability of all other tokens; -inf where there are none.
        true_log_probability: float32 [n - 1], of the token that follows.
    """

    tokens: NDArray[np.int32]
    top_ids: NDArray[np.int32]
    top_log_probabilities: NDArray[np.float32]
    tail_log_mass: NDArray[np.float32]
    true_log_probability: NDArray[np.float32]


@dataclass(frozen=True)
class Reference:
    """The reference's distributions over several texts."""

    top_k: int
    texts: tuple[ReferenceText, ...]


@dataclass(frozen=True)
class Positions:
    """One text's numbers: KL (float64 [n]) and, but for the last position, the log-probabilities of the true token."""

    kl_nats: NDArray[np.float64]
    reference_log: NDArray[np.float64]
    variant_log: NDArray[np.float64]
    top1_agrees: NDArray[np.bool_]


@dataclass(frozen=True)
class DriftNumbers:
    """The numbers of evidence.Drift, by its names."""

    positions: int
    blocks: int
    kl_nats: Estimate
    kl_percentiles_nats: Percentiles
    kl_p99_interval_nats: Interval
    top1_agreement_fraction: Estimate
    true_token_change_fraction: Estimate
    true_token_change_rms_fraction: float
    true_token_change_percentiles_fraction: Percentiles
    perplexity_reference: float
    perplexity_variant: float
    perplexity_ratio: float
    perplexity_log_ratio_nats: Estimate
    kl_by_position: tuple[PositionBin, ...]
    block_positions: tuple[int, ...]
    block_kl_nats: tuple[float, ...]
    block_top1_agreement_fraction: tuple[float, ...]


def score(
    reference: Reference,
    logits_of: Callable[[Sequence[int]], NDArray[np.float32]],
    *,
    switch: int | None = None,
    block_tokens: int = BLOCK_TOKENS,
    on_text: Callable[[int], None] | None = None,
) -> DriftNumbers:
    """Score a variant on the reference's texts, each in one go.

    Args:
        reference: The reference's distributions.
        logits_of: The variant's logits of token ids, float [n, vocab], row i for token i + 1.
        switch: The checkpoint's original context, an edge of the position bins.
        block_tokens: Positions per block of the standard errors.
        on_text: Told how many texts are done.

    Raises:
        EvidenceInvalidError: No text has two tokens.
        VariantUnusableError: The variant's logits are not finite or of the wrong shape.
    """
    texts = [text for text in reference.texts if len(text.tokens) > 1]
    if not texts:
        raise errors.EvidenceInvalidError(
            "Drift cannot be measured.",
            why="No text has two tokens, so there is nothing to predict.",
            fix="Give held-out texts of some length.",
        )
    scored = []
    for done, text in enumerate(texts, start=1):
        scored.append(score_text(text, logits_of(text.tokens.tolist())))
        if on_text:
            on_text(done)
    return _summary(scored, block_tokens, switch)


def score_text(text: ReferenceText, logits: NDArray[np.floating]) -> Positions:
    """Compare a variant's logits of one text with the reference.

    Raises:
        VariantUnusableError: The logits are not finite or of the wrong shape.
    """
    if logits.ndim != 2 or len(logits) != len(text.tokens) or logits.shape[1] <= int(text.top_ids.max()):
        raise _bad_logits(f"The logits of {len(text.tokens)} tokens have the shape {logits.shape}")
    kl, true, agrees = [], [], []
    following = np.append(text.tokens[1:], 0)
    for start in range(0, len(logits), CHUNK_ROWS):
        rows = slice(start, start + CHUNK_ROWS)
        log_q = log_softmax(logits[rows])
        kl.append(kl_coarse(text.top_ids[rows], text.top_log_probabilities[rows], text.tail_log_mass[rows], log_q))
        true.append(np.take_along_axis(log_q, following[rows, None].astype(np.int64), axis=1)[:, 0])
        agrees.append(log_q.argmax(axis=1) == text.top_ids[rows, 0])
    return Positions(
        kl_nats=np.concatenate(kl),
        reference_log=text.true_log_probability.astype(np.float64),
        variant_log=np.concatenate(true)[:-1],
        top1_agrees=np.concatenate(agrees),
    )


def log_softmax(logits: NDArray[np.floating]) -> NDArray[np.float64]:
    """Return log-probabilities of logits [n, vocab] in float64.

    Raises:
        VariantUnusableError: A logit is NaN or infinite.
    """
    exact = logits.astype(np.float64)
    if not np.isfinite(exact).all():
        raise _bad_logits("Some logits are not finite")
    exact -= exact.max(axis=1, keepdims=True)
    exact -= np.log(np.exp(exact).sum(axis=1, keepdims=True))
    return exact


def kl_coarse(
    top_ids: NDArray[np.int32],
    top_log_p: NDArray[np.floating],
    tail_log_p: NDArray[np.floating],
    log_q: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Return KL(p || q) in nats over k tokens and the rest of the vocabulary as one bucket: float64 [n].

    Merging tokens into a bucket never raises a KL (the log-sum inequality: Cover and Thomas, Elements of Information
    Theory, 2nd ed., 2006, theorem 2.7.1), so this is a lower bound of the KL over the whole vocabulary. The tail of q
    is summed over its own tokens in log space and not taken as 1 - sum, which would cancel; p, stored in float32, is
    normalized again.

    Args:
        top_ids: [n, k].
        top_log_p: [n, k], nats.
        tail_log_p: [n], nats, -inf for an empty tail.
        log_q: [n, vocab], normalized.
    """
    columns = top_ids.astype(np.int64)
    log_p = np.concatenate([top_log_p, tail_log_p[:, None]], axis=1).astype(np.float64)
    log_p -= _log_sum(log_p)[:, None]
    rest = log_q.copy()
    np.put_along_axis(rest, columns, -np.inf, axis=1)
    log_top_q = np.take_along_axis(log_q, columns, axis=1)
    log_coarse_q = np.concatenate([log_top_q, _log_sum(rest)[:, None]], axis=1)
    present = np.isfinite(log_p)
    with np.errstate(invalid="ignore"):
        terms = np.where(present, np.exp(log_p) * (log_p - log_coarse_q), 0.0)
    total: NDArray[np.float64] = np.maximum(terms.sum(axis=1), 0.0)  # rounding alone can go below 0
    return total


def position_edges(longest: int, switch: int | None) -> list[int]:
    """Return the edges of the position bins: 0, then steps of about a factor 1.4 from 8 on, and the longrope switch."""
    steps = [0, *(edge for power in range(3, 20) for edge in (2**power, 3 * 2 ** (power - 1)))]
    inner = {edge for edge in (*steps, switch or 0) if edge < longest}
    return [*sorted(inner), longest]


def _summary(scored: Sequence[Positions], block_tokens: int, switch: int | None) -> DriftNumbers:
    """Put the texts together; the last position of a text predicts nothing that is known and is left out."""
    lengths = [len(text.variant_log) for text in scored]
    kl = np.concatenate([text.kl_nats[:-1] for text in scored])
    agrees = np.concatenate([text.top1_agrees[:-1] for text in scored]).astype(np.float64)
    reference = np.concatenate([text.reference_log for text in scored])
    variant = np.concatenate([text.variant_log for text in scored])
    blocks = block_ids(lengths, block_tokens)
    change = np.exp(variant) - np.exp(reference)
    log_ratio = clustered_mean(reference - variant, blocks)
    return DriftNumbers(
        positions=len(kl),
        blocks=int(blocks[-1]) + 1,
        kl_nats=clustered_mean(kl, blocks),
        kl_percentiles_nats=percentiles(kl),
        kl_p99_interval_nats=interval_of_blocked_percentile(kl, blocks, 0.99),
        top1_agreement_fraction=clustered_mean(agrees, blocks),
        true_token_change_fraction=clustered_mean(change, blocks),
        true_token_change_rms_fraction=math.sqrt(float(np.mean(change**2))),
        true_token_change_percentiles_fraction=percentiles(change),
        perplexity_reference=math.exp(-float(reference.mean())),
        perplexity_variant=math.exp(-float(variant.mean())),
        perplexity_ratio=math.exp(log_ratio.mean),
        perplexity_log_ratio_nats=log_ratio,
        kl_by_position=_by_position(kl, lengths, blocks, switch),
        block_positions=tuple(np.bincount(blocks).tolist()),
        block_kl_nats=block_means(kl, blocks),
        block_top1_agreement_fraction=block_means(agrees, blocks),
    )


def _by_position(
    kl: NDArray[np.float64], lengths: Sequence[int], blocks: NDArray[np.int64], switch: int | None
) -> tuple[PositionBin, ...]:
    """Mean KL by position within the text. All positions of a text longer than the switch use the long factors."""
    positions = np.concatenate([np.arange(length) for length in lengths])
    edges = position_edges(max(lengths), switch)
    bins = []
    for start, stop in pairwise(edges):
        inside = (positions >= start) & (positions < stop)
        estimate = clustered_mean(kl[inside], blocks[inside])
        bins.append(PositionBin(start=start, stop=stop, count=int(inside.sum()), kl_nats=estimate))
    return tuple(bins)


def _log_sum(logs: NDArray[np.float64]) -> NDArray[np.float64]:
    """log(sum(exp)) of each row; -inf for a row of -inf."""
    top = logs.max(axis=1)
    safe = np.where(np.isfinite(top), top, 0.0)
    with np.errstate(divide="ignore"):
        total: NDArray[np.float64] = safe + np.log(np.exp(logs - safe[:, None]).sum(axis=1))
    return total


def _bad_logits(why: str) -> errors.VariantUnusableError:
    return errors.VariantUnusableError(
        "The variant cannot be scored.", why=f"{why}.", fix="Build it again; look at the graph with `phiforge inspect`."
    )
