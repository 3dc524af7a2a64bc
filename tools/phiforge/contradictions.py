"""Two evidence files of one machine that cannot both be true. Pure.

Times may differ, since machines have good and bad days. What the same tools compute of the same files on the same
machine may not: where nodes ran, whether token ids are right, which questions are answered right, and, but for noise,
the drift.
"""

from __future__ import annotations

import math
from itertools import product
from typing import TYPE_CHECKING

from phiforge.evidence import Drift, Estimate, FreeRunning, Probes, Tasks
from phiforge.quantities import number

if TYPE_CHECKING:
    from collections.abc import Iterator

    from phiforge.evidence import AnyEvidence
    from phiforge.evidence_file import EvidenceFile

# Probes of token ids and files alone, which no noise changes.
EXACT_PROBES = ("tokenizer", "chat-template", "stop-ids", "placement")
# So far apart, two means of one truth are by chance once in two million.
_STANDARD_ERRORS = 5.0


def contradiction(one: EvidenceFile, other: EvidenceFile) -> str | None:
    """Return in what two evidence files contradict each other, or None.

    Only files of one package, variant and profile can, from one machine and device, and with the same versions of the
    tools: a new driver or runtime may place nodes elsewhere.
    """
    same = one.package == other.package and one.variant == other.variant and one.profile == other.profile
    if not same or one.machine.id != other.machine.id:
        return None
    pairs = [
        (left, right)
        for left, right in product(one.records, other.records)
        if left.evidence == right.evidence and left.kind == right.kind and _alike(left, right)
    ]
    if pairs and one.placement != other.placement:
        return f"nodes ran on {_placed(one)} in one and on {_placed(other)} in the other"
    return next((said for left, right in pairs for said in _between(left, right)), None)


def _alike(left: AnyEvidence, right: AnyEvidence) -> bool:
    """Whether the tools and the data are the same."""
    ours, theirs = left.conditions, right.conditions
    return (ours.versions, ours.provider, ours.threads, ours.dataset_sha256, ours.samples) == (
        theirs.versions,
        theirs.provider,
        theirs.threads,
        theirs.dataset_sha256,
        theirs.samples,
    )


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


def _placed(file: EvidenceFile) -> str:
    return ", ".join(f"{name} ({nodes})" for name, nodes in sorted(file.placement.items())) or "no provider"
