"""Whether activations stay within float16: the largest of each tensor, computed in float32."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from phiforge.evidence import Probe

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

# The largest finite float16, (2 - 2^-10) * 2^15 (IEEE 754-2019, binary16).
LARGEST_FLOAT16 = 65504.0
# Tokens of calibration text that are looked at, in pieces of so many, and the length of a long prompt.
CALIBRATION_TOKENS, PIECE_TOKENS, LONG_TOKENS = 4096, 512, 4096
_NAMED = 3


def overflow_prompts(
    calibration: Sequence[Sequence[int]], texts: Sequence[Sequence[int]], long: Sequence[int] | None, context: int
) -> list[list[int]]:
    """Return the prompts whose activations are looked at.

    Args:
        calibration: Token ids of calibration texts; pieces of the first 4,096 tokens are taken.
        texts: Token ids of held-out texts, of which a long prompt is put together where there is none.
        long: A prompt at the end of what the model was trained for, such as one beyond the longrope switch.
        context: The most tokens the variant takes.
    """
    line = [int(token) for ids in calibration for token in ids][:CALIBRATION_TOKENS]
    size = min(PIECE_TOKENS, context)
    pieces = [line[start : start + size] for start in range(0, len(line), size)]
    if long is None:
        long = [int(token) for ids in texts for token in ids][: min(LONG_TOKENS, context)]
    return [*pieces, *([list(long)] if len(long) else [])]


def probe_overflow(largest: Mapping[str, float], prompts: Sequence[Sequence[int]]) -> Probe:
    """Check that no tensor reaches what float16 cannot hold.

    Args:
        largest: The largest magnitude of each tensor, by name, computed in float32.
        prompts: The prompts it was computed on.
    """
    if not (largest and prompts):
        return Probe(name="float16-range", passed=False, detail="nothing was computed, so no activation is known")
    worst = sorted(largest.items(), key=lambda item: -item[1] if math.isfinite(item[1]) else -math.inf)[:_NAMED]
    over = [name for name, value in largest.items() if not value <= LARGEST_FLOAT16]
    told = ", ".join(f"{value:,.5g} in {name}" for name, value in worst)
    on = f"over {len(prompts)} prompts of up to {max(map(len, prompts)):,} tokens"
    if over:
        return Probe(
            name="float16-range",
            passed=False,
            detail=f"{len(over)} of {len(largest)} tensors overflow float16, which ends at 65504, {on}: {told}",
        )
    share = 100 * max(largest.values()) / LARGEST_FLOAT16
    return Probe(
        name="float16-range",
        passed=True,
        detail=f"the largest of {len(largest)} tensors are {told}; at most {share:.3g} % of float16's 65504, {on}",
    )
