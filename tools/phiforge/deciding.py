"""Which of several numbers of one sort counts: what the gate decided by, else the worst. Pure.

What is shown, and what releases are held against each other by, must be what was judged; so all of them ask here.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, TypeVar

from phiforge.gate import badness, severity

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from phiforge.evidence import Kind
    from phiforge.gate import Finding

_Item = TypeVar("_Item")

# The budget that limits each number; its name ends with the way that is better: `_max`, or `_min`.
BUDGETS = {
    "variant_bytes": "variant_bytes_max",
    "kl_mean_nats": "kl_mean_nats_max",
    "kl_p99_nats": "kl_p99_nats_max",
    "top1_agreement_fraction": "top1_agreement_fraction_min",
    "perplexity_ratio": "perplexity_ratio_max",
    "answer_recovery_fraction": "answer_recovery_fraction_min",
    "ttft_ms": "ttft_p50_ms_max",
    "decode_tokens_per_s": "decode_tokens_per_s_min",
    "peak_anon_bytes": "peak_anon_bytes_max",
}


def deciding(
    metric: str,
    items: Sequence[_Item],
    tell: Callable[[_Item], tuple[Kind | None, float]],
    findings: Iterable[Finding] = (),
) -> _Item:
    """Return the item whose number the gate decided by; the worst where none of them is.

    Args:
        metric: The number's name, one of `BUDGETS`.
        items: At least one.
        tell: Returns the kind and the number of an item.
        findings: Of the gate; of several about this number the worst outcome counts, then the worst number.
    """
    budget = BUDGETS[metric]
    own = [finding for finding in findings if finding.budget == budget]
    for finding in sorted(own, key=lambda item: (severity(item.outcome), badness(budget, item.value)), reverse=True):
        for item in items:
            kind, value = tell(item)
            # A finding holds only a finite number.
            if kind is finding.kind and (value if math.isfinite(value) else None) == finding.value:
                return item
    return max(items, key=lambda item: badness(budget, tell(item)[1]))
