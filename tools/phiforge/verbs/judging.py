"""From a variant, a profile and evidence to a verdict and a report."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING

from phiforge.evidence import Drift, Latency, Probes, Tasks
from phiforge.gate import judge
from phiforge.reporting import Report
from phiforge.reporting.schema import PipelineFacts, ProfileFacts, Stage, VariantFacts

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from phiforge.evidence import AnyEvidence
    from phiforge.target import Profile
    from phiforge.variant import VariantRecord
    from phiforge.verbs.watch import StageRecord


def phiforge_version() -> str:
    """The installed version of phiforge."""
    try:
        return version("phiforge")
    except PackageNotFoundError:
        return "0 (not installed)"


def make_report(
    record: VariantRecord, profile: Profile, evidence: Sequence[AnyEvidence], stages: Iterable[StageRecord]
) -> Report:
    """Judge a variant for a profile and return the report of it.

    Raises:
        EvidenceInvalidError: A piece of evidence belongs to another variant.
    """
    budgets = profile.budgets_of(record.checkpoint.family)
    counting = [item for item in evidence if not _is_foreign(item, profile)]
    verdict = judge(budgets, profile.accepts, counting, variant_sha256=record.sha256, variant_bytes=record.bytes)
    return Report(
        phiforge_version=phiforge_version(),
        title=f"{record.checkpoint.name} on {profile.identity.title}",
        checkpoint=record.checkpoint,
        profile=ProfileFacts(
            name=profile.name,
            title=profile.identity.title,
            provider=profile.runtime.provider,
            runtime_package=profile.runtime.package,
            runtime_version=profile.runtime.version,
            accepts=tuple(profile.accepts),
        ),
        pipeline=PipelineFacts(name=record.name, options=record.options),
        variant=VariantFacts(
            sha256=record.sha256,
            bytes=record.bytes,
            bits_per_weight=record.bits_per_weight,
            operators=record.operators,
            weights=record.weights,
        ),
        stages=tuple(Stage(stage=s.stage, seconds=s.seconds, reused=s.reused) for s in stages),
        drift=next((item for item in evidence if isinstance(item, Drift)), None),
        tasks=next((item for item in evidence if isinstance(item, Tasks)), None),
        probes=next((item for item in evidence if isinstance(item, Probes)), None),
        latency=next((item for item in evidence if isinstance(item, Latency)), None),
        budgets=budgets,
        verdict=verdict,
        limits=_limits(profile, evidence),
    )


def _is_foreign(item: AnyEvidence, profile: Profile) -> bool:
    """Whether time and memory were measured in a process of another architecture than the device's."""
    return isinstance(item, Latency) and item.conditions.machine.process_architecture != profile.hardware.architecture


def _limits(profile: Profile, evidence: Sequence[AnyEvidence]) -> tuple[str, ...]:
    """Sentences on what the evidence does not show."""
    said = [
        "Drift and answers are those of the data sets named; other text may drift more.",
        "Time and memory hold for the machine named under conditions, not for every device of this profile.",
    ]
    tasks = next((item for item in evidence if isinstance(item, Tasks)), None)
    if tasks is None:
        said.append("No tasks were given, so it is not known how many answers the quantization changed.")
    latency = next((item for item in evidence if isinstance(item, Latency)), None)
    if latency is not None and latency.conditions.machine.process_architecture != profile.hardware.architecture:
        said.append(
            f"The profile is of {profile.hardware.architecture}, the measuring process was "
            f"{latency.conditions.machine.process_architecture}."
        )
    return tuple(said)
