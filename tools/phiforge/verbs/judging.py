"""From a variant, a profile and evidence to a verdict and a report."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING

from phiforge.evidence import Comparison, Drift, Kind, Latency, Prediction, Probes, Tasks
from phiforge.gate import judge
from phiforge.prompt_lengths import prompt_lengths
from phiforge.reporting import Report
from phiforge.reporting.schema import PipelineFacts, ProfileFacts, Stage, VariantFacts, first_of, further_than
from phiforge.selection import GENAI_WHEELS, PLUGIN_WHEELS

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from phiforge.evidence import AnyEvidence
    from phiforge.target import Profile
    from phiforge.variant import VariantRecord
    from phiforge.verbs.watch import StageRecord

# Distributions that bring what runs a provider, by its name in genai_config; which one depends on the system.
_RUNTIMES: dict[str, tuple[str, ...]] = {
    "cpu": GENAI_WHEELS,
    "dml": ("onnxruntime-genai-winml", "onnxruntime-genai-directml"),
    **{provider: (wheel,) for provider, wheel in PLUGIN_WHEELS.items()},
}


def phiforge_version() -> str:
    """The installed version of phiforge."""
    try:
        return version("phiforge")
    except PackageNotFoundError:
        return "0 (not installed)"


def make_report(
    record: VariantRecord,
    profile: Profile,
    evidence: Sequence[AnyEvidence],
    stages: Iterable[StageRecord],
    remarks: Sequence[str] = (),
    *,
    folder: Path | None = None,
) -> Report:
    """Judge a variant for a profile and return the report of it.

    Args:
        record: The variant.
        profile: Whose budgets and whose device count.
        evidence: Records of the variant; the report leaves out what does not count for the profile, and says so.
        stages: The stages of the build, if it was just now.
        remarks: Further limits of the evidence, as sentences.
        folder: The variant's files, which say how long a prompt they take.

    Raises:
        EvidenceInvalidError: A piece of evidence belongs to another variant.
    """
    budgets = profile.budgets_of(record.checkpoint.family)
    counting = counted(evidence, profile)
    verdict = judge(
        budgets,
        profile.accepts,
        counting,
        variant_sha256=record.sha256,
        variant_bytes=record.bytes,
        lengths=prompt_lengths(profile.measure, record, folder),
    )
    drift, tasks = first_of(Drift, counting), first_of(Tasks, counting)
    probes, latency = first_of(Probes, counting), first_of(Latency, counting)
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
        further=further_than((drift, tasks, probes, latency), counting),
        budgets=budgets,
        verdict=verdict,
        limits=(*_limits(counting), *_left_out(profile, evidence), *remarks),
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


def counted(evidence: Iterable[AnyEvidence], profile: Profile) -> list[AnyEvidence]:
    """Return the records that count for a profile."""
    return [item for item in evidence if misfit(item, profile) is None]


def misfit(item: AnyEvidence, profile: Profile) -> str | None:
    """Return why a record does not count for a profile, or None if it does.

    What was measured must be of the profile's provider, by its runtime; time and memory, and all of an NPU, also in a
    process of the device's architecture. What stands in for the device runs elsewhere by nature.
    """
    if isinstance(item, Prediction) and item.profile != profile.name:
        return f"it is predicted for {item.profile}"
    if item.kind is not Kind.MEASURED:
        return None
    runtime, conditions = profile.runtime, item.conditions
    if conditions.provider != runtime.provider:
        return f"it was measured with the provider {conditions.provider}, and the profile's is {runtime.provider}"
    packages = tuple(dict.fromkeys((runtime.package, *_RUNTIMES.get(runtime.provider, ()))))
    by = {name: conditions.versions[name] for name in packages if name in conditions.versions}
    if not by:
        return f"it was measured without {' or '.join(packages)}, by which the profile runs"
    if runtime.version not in by.values():
        used = ", ".join(f"{name} {version}" for name, version in by.items())
        return f"it was measured by {used}, and the profile runs by {runtime.package} {runtime.version}"
    process, architecture = conditions.machine.process_architecture, profile.hardware.architecture
    # An NPU's emulator is of the same provider as the NPU, but of another architecture.
    bound = isinstance(item, Latency | Comparison) or profile.npu is not None
    if bound and architecture not in (None, process):
        return f"the measuring process was {process}, and the profile is of {architecture}"
    return None


def _left_out(profile: Profile, evidence: Sequence[AnyEvidence]) -> list[str]:
    """What does not count, each sentence once."""
    reasons = [(item.evidence, misfit(item, profile)) for item in evidence]
    return list(dict.fromkeys(f"The {sort} evidence does not count: {why}." for sort, why in reasons if why))


def _limits(evidence: Sequence[AnyEvidence]) -> tuple[str, ...]:
    """Sentences on what the evidence does not show."""
    said = [
        "Drift and answers are those of the data sets named; other text may drift more.",
    ]
    if first_of(Latency, evidence) is not None:
        said.append(
            "Time and memory hold for the machine named under conditions, not for every device of this profile."
        )
    if any(item.kind in (Kind.SURROGATE, Kind.EMULATED) for item in evidence):
        said.append("Surrogate evidence is of a stand-in and emulated evidence of an emulator; neither is the device.")
    if first_of(Tasks, evidence) is None:
        said.append("No tasks were given, so it is not known how many answers the quantization changed.")
    return tuple(said)
