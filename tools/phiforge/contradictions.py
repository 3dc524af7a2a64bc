"""Two files of evidence of one machine that cannot both be true. Pure.

Times may differ, since machines have good and bad days. What the same tools compute of the same files on the same
machine may not: where nodes ran, whether token ids are right, which questions are answered right, and, but for noise,
the drift.
"""

from __future__ import annotations

import math
from itertools import product
from typing import TYPE_CHECKING

from phiforge.evidence import Drift, Estimate, FreeRunning, Probes, Tasks
from phiforge.evidence_file import machine_id
from phiforge.quantities import number

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from phiforge.evidence import AnyEvidence
    from phiforge.evidence_file import EvidenceSource

# Probes of token ids and files alone, which no noise changes.
EXACT_PROBES = ("tokenizer", "chat-template", "stop-ids", "placement")
# So far apart, two means of one truth are by chance once in two million.
_STANDARD_ERRORS = 5.0


def contradiction(one: EvidenceSource, other: EvidenceSource) -> str | None:
    """Return in what two files that count for one variant and profile contradict each other, or None.

    Only records of one machine and device can, with the same versions of the tools, data and reference: a new driver or
    runtime may place nodes elsewhere. A single record does not say which device it is of, only an evidence file does.
    """
    if None not in (one.adapter, other.adapter) and one.adapter != other.adapter:
        return None
    pairs = [(left, right) for left, right in product(one.records, other.records) if _basis(left) == _basis(right)]
    if pairs and one.placement is not None and other.placement is not None and one.placement != other.placement:
        return f"nodes ran on {_placed(one.placement)} in one and on {_placed(other.placement)} in the other"
    return next((said for left, right in pairs for said in _between(left, right)), None)


def _basis(record: AnyEvidence) -> tuple[object, ...]:
    """What must be alike for two records to be of the same: sort, kind, machine, tools, data and reference."""
    taken = record.conditions
    made = (taken.versions, taken.provider, taken.threads, taken.dataset_sha256, taken.samples)
    reference = record.model_dump(include={"reference_sha256", "top_k"})
    return record.evidence, record.kind, machine_id(taken.machine, ""), *made, reference


def _between(left: AnyEvidence, right: AnyEvidence) -> Iterator[str]:
    match left, right:
        case Probes(), Probes():
            passed = {probe.name: probe.passed for probe in right.probes}
            for probe in left.probes:
                if probe.name in EXACT_PROBES and passed.get(probe.name, probe.passed) != probe.passed:
                    yield f"the probe {probe.name} passes in one and fails in the other"
        case Drift(), Drift() if left.positions == right.positions and _far(left.kl_nats, right.kl_nats):
            means = f"{number(left.kl_nats.mean)} and {number(right.kl_nats.mean)} nats"
            yield f"the mean KL on the same texts is {means}, more than {_STANDARD_ERRORS:g} standard errors apart"
        case Tasks(), Tasks():
            yield from _answers(left, right)
        case FreeRunning(), FreeRunning() if left.prompts != right.prompts:
            yield f"the same prompts are {left.prompts:,} in one and {right.prompts:,} in the other"


def _answers(left: Tasks, right: Tasks) -> Iterator[str]:
    known = {score.task: score for score in (*right.scores, right.overall)}
    for ours in (*left.scores, left.overall):
        theirs = known.get(ours.task)
        if theirs is None:
            continue
        for what in ("questions", "reference_correct", "variant_correct"):
            numbers = getattr(ours, what), getattr(theirs, what)
            if numbers[0] != numbers[1]:
                yield f"{what} of the same task {ours.task} is {numbers[0]:,} in one and {numbers[1]:,} in the other"


def _far(left: Estimate, right: Estimate) -> bool:
    """Further apart than errors explain; rounding in another order of the same sums is allowed."""
    error = math.hypot(left.standard_error, right.standard_error)
    distance = abs(left.mean - right.mean)
    return distance > _STANDARD_ERRORS * error and distance > 1e-6 * abs(left.mean)


def _placed(placement: Mapping[str, int]) -> str:
    return ", ".join(f"{name} ({nodes})" for name, nodes in sorted(placement.items())) or "no provider"
