"""Whether an adapter computes prefills right: the same tokens at once and one by one.

Some do not: on software Vulkan (Mesa 25.0, WebGPU plugin 0.4.0) a prefill of 32 or more tokens is wrong, one of up to
31 is right, and so is decoding.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from phiforge.evidence import Probe

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    Floats = NDArray[np.float32]
    # Logits [n, vocab] of token ids that are computed so many at once.
    LogitsOf = Callable[[Sequence[int], int], Floats]

LENGTHS = (8, 16, 31, 32, 48, 64)
# A sound kernel's rounding is alike at every length: 0.12 to 0.19 % at up to 31 tokens, 0.5 % in one token at most,
# where 32 gave 2.5 % and 10 % in one token. A token that is further off than MOST is wrong whatever the others are.
FACTOR, FLOOR, MOST = 4.0, 1e-3, 0.02


@dataclass(frozen=True)
class Prefill:
    """How far a prefill of some tokens is from the same tokens one by one, over the spread of the logits.

    `worst` is the first token whose logits are more than FACTOR times as far off as any of the shortest prefill, or
    further than MOST.
    """

    tokens: int
    error: float
    worst: int | None


def measure_prefills(logits_of: LogitsOf, token_ids: Sequence[int]) -> tuple[Prefill, ...]:
    """Return the error of a prefill of each length that there are tokens for."""
    lengths = [length for length in LENGTHS if length <= len(token_ids)]
    if not lengths:
        return ()
    stepwise = logits_of(token_ids[: lengths[-1]], 1)
    spread = float(stepwise.std())
    found: list[Prefill] = []
    usual = FLOOR
    for length in lengths:
        rows = np.sqrt(((logits_of(token_ids[:length], length) - stepwise[:length]) ** 2).mean(axis=1)) / spread
        if not found:
            usual = min(max(FLOOR, float(rows.max())), MOST / FACTOR)
        off = np.flatnonzero(~(rows <= FACTOR * usual))
        error = float(np.sqrt((rows**2).mean()))
        found.append(Prefill(length, error, int(off[0]) if len(off) else None))
    return tuple(found)


def probe_prefill(prefills: Sequence[Prefill], chunk: int | None) -> Probe:
    """Check that prompts are computed right, whole or, if there is a `chunk`, so many tokens at once."""
    if not prefills:
        return Probe(name="prefill", passed=False, detail=f"there were fewer than {LENGTHS[0]} tokens to compute")
    wrong = [item for item in prefills if item.worst is not None]
    told = ", ".join(f"{item.tokens}: {100 * item.error:.2g} %" for item in prefills)
    if not wrong:
        detail = f"prefills give the logits of single tokens, with errors by length of {told}"
        return Probe(name="prefill", passed=True, detail=detail)
    first = wrong[0]
    # What is between the longest right length and the first wrong one was not tried.
    right = max((item.tokens for item in prefills if item.tokens < first.tokens), default=1)
    fault = (
        f"this adapter computes prefills of {first.tokens} or more tokens wrongly, from token {first.worst} on "
        f"(errors by length: {told})"
    )
    if chunk and chunk <= right:
        detail = f"{fault}; prompts are computed in chunks of {chunk} tokens, which are right"
        return Probe(name="prefill", passed=True, detail=detail)
    detail = f"{fault}; let prompts be computed in chunks of at most {right} tokens"
    return Probe(name="prefill", passed=False, detail=detail)
