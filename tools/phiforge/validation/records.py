"""Evidence records from what a variant said, whatever ran it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from phiforge.evidence import Drift, Kind, Probe, Tasks
from phiforge.validation import probes
from phiforge.validation.drift import score
from phiforge.validation.tasks import Answered, is_right, overall_score, task_scores

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from phiforge.runtime.generate import Generation
    from phiforge.validation.drift import Reference
    from phiforge.validation.held_out import HeldOut, Said, Stamp

    LogitsOf = Callable[[Sequence[int]], NDArray[np.float32]]


def drift_record(
    reference: Reference,
    logits_of: LogitsOf,
    *,
    kind: Kind,
    stamp: Stamp,
    files: Sequence[Path],
    switch: int | None,
    on_text: Callable[[int], None],
) -> Drift:
    """Score what `logits_of` says of the reference's texts; errors as `drift.score`."""
    numbers = score(reference, logits_of, switch=switch, on_text=on_text)
    return Drift(
        kind=kind,
        conditions=stamp.conditions(files, len(reference.texts)),
        variant_sha256=stamp.variant_sha256,
        reference_sha256=stamp.reference_sha256,
        top_k=reference.top_k,
        **vars(numbers),
    )


def tasks_record(
    data: HeldOut,
    said: Said,
    made: Sequence[Generation],
    decode: Callable[[Sequence[int]], str],
    *,
    kind: Kind,
    stamp: Stamp,
) -> tuple[Tasks, Probe]:
    """Return the scores of the answers `made`, and the probe that they end."""
    answered = [
        Answered(
            task=task,
            reference_right=is_right(theirs.text, question.answer),
            variant_right=is_right(decode(ours.tokens), question.answer),
            reference_tokens=len(theirs.tokens),
            variant_tokens=len(ours.tokens),
        )
        for (task, question), theirs, ours in zip(data.questions, said.answers, made, strict=True)
    ]
    tasks = Tasks(
        kind=kind,
        conditions=stamp.conditions(data.task_files, len(answered)),
        variant_sha256=stamp.variant_sha256,
        reference_sha256=stamp.reference_sha256,
        scores=task_scores(answered),
        overall=overall_score(answered),
    )
    stopping = probes.probe_stopping(
        [(answer.tokens, answer.stopped) for answer in said.answers],
        [(generation.tokens, generation.stopped_by == "stop-id") for generation in made],
    )
    return tasks, stopping
