"""How far greedy generations of a variant follow the reference's, each going on from its own tokens. Pure.

A stop id counts as one more generated position, so an answer that stops where the other goes on differs there; which of
several stop ids ended an answer makes no difference.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from phiforge.evidence import AgreementBin, Endings, Interval, Percentiles
from phiforge.validation.drift import position_edges
from phiforge.validation.probes import ending
from phiforge.validation.statistics import bootstrap_interval, percentiles

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

# An answer that stopped before this share of the reference's length stopped early.
EARLY_FRACTION = 0.5


@dataclass(frozen=True)
class Continuation:
    """A greedy generation: its tokens without the stop id, and whether one ended it; else it ran to its limit."""

    tokens: tuple[int, ...]
    stopped: bool

    @property
    def length(self) -> int:
        """Generated positions, the stop id counted."""
        return len(self.tokens) + self.stopped

    def cut(self, limit: int) -> Continuation:
        """Return what the same generation is under a lower limit, which greedy decoding tells exactly."""
        return self if self.length <= limit else Continuation(self.tokens[:limit], stopped=False)


@dataclass(frozen=True)
class FreeRunningNumbers:
    """The numbers of evidence.FreeRunning."""

    prompts: int
    identical: int
    limit_tokens: int
    first_divergence_percentiles_tokens: Percentiles
    agreement_by_position: tuple[AgreementBin, ...]
    reference: Endings
    variant: Endings
    length_ratio: float
    length_ratio_interval: Interval


def score_continuations(
    reference: Sequence[Continuation], variant: Sequence[Continuation], limits: Sequence[int]
) -> FreeRunningNumbers:
    """Compare generations from the same prompts, pair by pair.

    Args:
        reference: The reference's generations, at least one.
        variant: The variant's, in the same order.
        limits: The most tokens of each; both sides had the same.
    """
    pairs = list(zip(reference, variant, strict=True))
    common = [first_divergence(ours, theirs) for ours, theirs in pairs]
    return FreeRunningNumbers(
        prompts=len(pairs),
        identical=sum(ours == theirs for ours, theirs in pairs),
        limit_tokens=max(limits),
        first_divergence_percentiles_tokens=percentiles(common),
        agreement_by_position=_by_position([item.length for item in reference], common),
        reference=_endings(reference, reference),
        variant=_endings(variant, reference),
        length_ratio=_ratio(_lengths(reference), _lengths(variant)),
        length_ratio_interval=_ratio_interval(reference, variant),
    )


def first_divergence(reference: Continuation, variant: Continuation) -> int:
    """Return the first generated position where the two differ, from 0; where they never do, their common length."""
    ours, theirs = _positions(reference), _positions(variant)
    shorter = min(len(ours), len(theirs))
    return next((index for index in range(shorter) if ours[index] != theirs[index]), shorter)


def _positions(item: Continuation) -> tuple[int | None, ...]:
    """The generated positions; None stands for whichever stop id."""
    return (*item.tokens, None) if item.stopped else item.tokens


def _by_position(lengths: Sequence[int], common: Sequence[int]) -> tuple[AgreementBin, ...]:
    """The share of positions, of those that the reference generated, up to which nothing differed.

    A generation that differed once counts as different from there on, whatever its later tokens are.
    """
    edges = position_edges(max(lengths), None) if max(lengths) else []
    bins = []
    for start, stop in pairwise(edges):
        there = sum(min(max(length - start, 0), stop - start) for length in lengths)
        agreeing = sum(min(max(count - start, 0), stop - start) for count in common)
        bins.append(AgreementBin(start=start, stop=stop, count=there, agreement_fraction=agreeing / there))
    return tuple(bins)


def _endings(items: Sequence[Continuation], reference: Sequence[Continuation]) -> Endings:
    found = [ending(item.tokens, stopped=item.stopped) for item in items]
    stopped = sum(item.stopped for item in found)
    return Endings(
        stopped=stopped,
        unfinished=len(found) - stopped,
        looping=sum(item.loops for item in found),
        early=sum(
            ours.stopped and ours.length < EARLY_FRACTION * theirs.length
            for ours, theirs in zip(items, reference, strict=True)
        ),
    )


def _lengths(items: Sequence[Continuation]) -> NDArray[np.int64]:
    return np.array([item.length for item in items], dtype=np.int64)


def _ratio(reference: NDArray[np.int64], variant: NDArray[np.int64]) -> float:
    """All of the variant's positions over all of the reference's; NaN without any."""
    return float(variant.sum() / reference.sum()) if reference.sum() else math.nan


def _ratio_interval(reference: Sequence[Continuation], variant: Sequence[Continuation]) -> Interval:
    """By bootstrap over the prompts; reference and variant of a prompt are drawn together."""
    ours, theirs = _lengths(reference), _lengths(variant)
    return bootstrap_interval(lambda drawn: _ratio(ours[drawn], theirs[drawn]), len(ours))
