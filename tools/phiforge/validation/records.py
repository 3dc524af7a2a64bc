"""The drift record of a variant's logits, whatever gave them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from phiforge.evidence import Drift, Kind
from phiforge.validation.drift import score

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from phiforge.validation.drift import Reference
    from phiforge.validation.held_out import Stamp
    from phiforge.validation.texts import DataSet

    LogitsOf = Callable[[Sequence[int]], NDArray[np.float32]]


def drift_record(
    reference: Reference,
    logits_of: LogitsOf,
    *,
    kind: Kind,
    stamp: Stamp,
    data: DataSet,
    switch: int | None,
    on_text: Callable[[int], None],
) -> Drift:
    """Score what `logits_of` says of the reference's texts; errors as `drift.score`."""
    numbers = score(reference, logits_of, switch=switch, on_text=on_text)
    return Drift(
        kind=kind,
        conditions=stamp.conditions(data, len(reference.texts)),
        variant_sha256=stamp.variant_sha256,
        reference_sha256=stamp.reference_sha256,
        top_k=reference.top_k,
        **vars(numbers),
    )
