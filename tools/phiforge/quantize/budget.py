"""Which weights deserve 8 bits, when what each costs at 4 bits has been measured and the size is limited."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A weight that may be raised from the base bits.

    Attributes:
        module: Its module.
        cost: What its quantization alone does to the model's output, mean KL in nats.
        extra_bytes: How much larger it gets at 8 bits.
    """

    module: str
    cost: float
    extra_bytes: int


def choose_raised(candidates: Iterable[Candidate], budget_bytes: int) -> tuple[str, ...]:
    """Chooses the modules to raise: those that cost most for each byte, as long as they fit.

    The costs of several weights are taken to add up, which holds for small ones. Greedy by cost per byte is the usual
    approximation of this knapsack; what it can miss is less than the last weight that did not fit.

    Args:
        candidates: The weights, in any order.
        budget_bytes: Bytes that may be added in all; below 0 nothing is chosen.

    Returns:
        Module names, sorted.
    """
    chosen, left = [], budget_bytes
    for candidate in sorted(candidates, key=lambda item: (-item.cost / item.extra_bytes, item.module)):
        if candidate.cost > 0 and candidate.extra_bytes <= left:
            chosen.append(candidate.module)
            left -= candidate.extra_bytes
    return tuple(sorted(chosen))
