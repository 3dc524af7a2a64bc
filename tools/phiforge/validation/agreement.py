"""How alike two ways of running one variant are, or two variants, over the same tokens."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np

from phiforge.evidence import Agreement
from phiforge.validation.drift import log_softmax

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from numpy.typing import NDArray

    from phiforge.evidence import Conditions, Kind
    from phiforge.validation.drift import Reference

    Floats = NDArray[np.float32]
    LogitsOf = Callable[[Sequence[int]], Floats]
    Comparison = Literal[
        "emulator-prefill", "emulator-decode", "provider-prefill", "provider-decode", "float32", "other-variant"
    ]


class Totals:
    """Sums over rows of logits [n, vocab], ours against theirs, added pair by pair, so that none is kept."""

    def __init__(self) -> None:
        self.rows = self.count = self.agreed = 0
        self.kl_nats = self.difference = self.theirs = self.squares = 0.0

    def add(self, ours: Floats, theirs: Floats) -> None:
        """Add the rows of one text."""
        for own, other in zip(ours.astype(np.float64), theirs.astype(np.float64), strict=True):
            log_p, log_q = log_softmax(other[None])[0], log_softmax(own[None])[0]
            self.kl_nats += max(float(np.exp(log_p) @ (log_p - log_q)), 0.0)
            self.agreed += int(log_p.argmax() == log_q.argmax())
            self.difference += float(((own - other) ** 2).sum())
            self.theirs += float(other.sum())
            self.squares += float((other**2).sum())
            self.count += other.size
            self.rows += 1

    @property
    def relative_logit_error(self) -> float:
        """The norm of the difference over the norm of theirs."""
        return float(np.sqrt(self.difference / self.squares))

    @property
    def relative_spread_error(self) -> float:
        """The root of the mean square of the difference over the standard deviation of theirs."""
        variance = self.squares / self.count - (self.theirs / self.count) ** 2
        return float(np.sqrt(self.difference / self.count / variance))


def compare(reference: Reference, ours: LogitsOf, theirs: LogitsOf, on_text: Callable[[int], None]) -> Totals:
    """Return the sums over the reference's texts; `on_text` is told how many are done."""
    totals = Totals()
    for done, text in enumerate(reference.texts, start=1):
        ids = text.tokens.tolist()
        totals.add(ours(ids), theirs(ids))
        on_text(done)
    return totals


def agreement(
    totals: Totals,
    comparison: Comparison,
    *,
    kind: Kind,
    conditions: Conditions,
    variant_sha256: str,
    against: str,
    against_sha256: str | None = None,
) -> Agreement:
    """Return the evidence of sums; between two variants logits differ by right, so there is no error of theirs."""
    same = comparison != "other-variant"
    return Agreement(
        kind=kind,
        conditions=conditions,
        variant_sha256=variant_sha256,
        comparison=comparison,
        against=against,
        against_sha256=against_sha256,
        positions=totals.rows,
        relative_logit_error=totals.relative_logit_error if same else None,
        relative_spread_error=totals.relative_spread_error if comparison == "float32" else None,
        kl_mean_nats=totals.kl_nats / totals.rows,
        top1_agreement_fraction=totals.agreed / totals.rows,
    )


def of_pairs(pairs: Iterable[tuple[Floats, Floats]]) -> Totals:
    """Return the sums over pairs of ours and theirs."""
    totals = Totals()
    for ours, theirs in pairs:
        totals.add(ours, theirs)
    return totals
