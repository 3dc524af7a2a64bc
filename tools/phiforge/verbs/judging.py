"""From a variant, a profile and evidence to a verdict and a report."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING

from phiforge.evidence import Comparison, Drift, Kind, Latency, Probes, Tasks
from phiforge.gate import judge
from phiforge.reporting import Report
from phiforge.reporting.schema import PipelineFacts, ProfileFacts, Stage, VariantFacts, first_of, further_than

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
    counting = [item for item in evidence if not is_foreign(item, profile)]
    verdict = judge(budgets, profile.accepts, counting, variant_sha256=record.sha256, variant_bytes=record.bytes)
    drift, tasks = first_of(Drift, evidence), first_of(Tasks, evidence)
    probes, latency = first_of(Probes, evidence), first_of(Latency, evidence)
    return Report(
        phiforge_version=phiforge_version(),
        title=f"{record.checkpoint.name} on {profile.identity.title}",
        notices=_notices(record, counting),
        checkpoint=record.checkpoint,
        profile=_profile_facts(profile),
        pipeline=PipelineFacts(name=record.name, options=record.options),
        variant=_variant_facts(record),
        stages=tuple(Stage(stage=s.stage, seconds=s.seconds, reused=s.reused) for s in stages),
        drift=drift,
        tasks=tasks,
        probes=probes,
        latency=latency,
        further=further_than((drift, tasks, probes, latency), evidence),
        budgets=budgets,
        verdict=verdict,
        limits=_limits(profile, evidence),
    )


def _profile_facts(profile: Profile) -> ProfileFacts:
    return ProfileFacts(
        name=profile.name,
        title=profile.identity.title,
        provider=profile.runtime.provider,
        runtime_package=profile.runtime.package,
        runtime_version=profile.runtime.version,
        accepts=tuple(profile.accepts),
        soc_source=profile.npu.source if profile.npu else None,
    )


def _variant_facts(record: VariantRecord) -> VariantFacts:
    return VariantFacts(
        sha256=record.sha256,
        bytes=record.bytes,
        bits_per_weight=record.bits_per_weight,
        operators=record.operators,
        weights=record.weights,
        npu=record.npu,
    )


def _notices(record: VariantRecord, evidence: Sequence[AnyEvidence]) -> tuple[str, ...]:
    """What is to be read before any number: the speed of a GPU or an NPU cannot be had from a stand-in."""
    measured = any(isinstance(item, Latency | Comparison) and item.kind is Kind.MEASURED for item in evidence)
    if record.device == "cpu" or measured:
        return ()
    return ("Latency is unverified until the device has measured it: no number here is of its speed.",)


def is_foreign(item: AnyEvidence, profile: Profile) -> bool:
    """Whether time and memory were measured in a process of another architecture than the device's."""
    return isinstance(item, Latency | Comparison) and profile.hardware.architecture not in (
        None,
        item.conditions.machine.process_architecture,
    )


def _limits(profile: Profile, evidence: Sequence[AnyEvidence]) -> tuple[str, ...]:
    """Sentences on what the evidence does not show."""
    said = [
        "Drift and answers are those of the data sets named; other text may drift more.",
    ]
    latency = first_of(Latency, evidence)
    if latency is not None:
        said.append(
            "Time and memory hold for the machine named under conditions, not for every device of this profile."
        )
    if any(item.kind in (Kind.SURROGATE, Kind.EMULATED) for item in evidence):
        said.append("Surrogate evidence is of a stand-in and emulated evidence of an emulator; neither is the device.")
    if first_of(Tasks, evidence) is None:
        said.append("No tasks were given, so it is not known how many answers the quantization changed.")
    if latency is not None and is_foreign(latency, profile):
        said.append(
            f"The profile is of {profile.hardware.architecture}, the measuring process was "
            f"{latency.conditions.machine.process_architecture}."
        )
    return tuple(said)
