"""Evidence records from what a variant said, whatever ran it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from phiforge.evidence import Drift, Kind, Probe, Tasks
from phiforge.validation import probes
from phiforge.validation.drift import score
from phiforge.validation.tasks import Answered, is_right, overall_score, task_scores

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from phiforge.runtime.generate import Generation
    from phiforge.validation.drift import Reference
    from phiforge.validation.held_out import Asked, Said, Stamp
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


def tasks_record(
    said: Said,
    questions: Sequence[Asked],
    made: Sequence[Generation],
    decode: Callable[[Sequence[int]], str],
    *,
    kind: Kind,
    stamp: Stamp,
) -> tuple[Tasks, Probe]:
    """Return the scores of the answers `made` to some of the questions, and the probe that they end."""
    answered = [
        Answered(
            task=asked.task,
            reference_right=asked.right,
            variant_right=is_right(decode(ours.tokens), asked.answer),
            reference_tokens=asked.tokens,
            variant_tokens=len(ours.tokens),
        )
        for asked, ours in zip(questions, made, strict=True)
    ]
    tasks = Tasks(
        kind=kind,
        conditions=stamp.conditions(said.task_set, len(answered)),
        variant_sha256=stamp.variant_sha256,
        reference_sha256=stamp.reference_sha256,
        scores=task_scores(answered),
        overall=overall_score(answered),
    )
    endings = [probes.ending(ours.tokens, stopped=ours.stopped_by == "stop-id") for ours in made]
    return tasks, probes.probe_stopping([asked.ending for asked in questions], endings)
