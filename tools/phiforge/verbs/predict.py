"""Predict speed and memory of variants on devices nobody has measured, and fit a roofline to what was measured."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from phiforge import catalog, errors
from phiforge.devices import roof_of
from phiforge.evidence import Conditions, Kind, Latency, Machine, Prediction, dump_evidence, parse_evidence
from phiforge.evidence_file import evidence_text, is_evidence_file, parse_evidence_file
from phiforge.graph.costs import graph_costs, recorded_costs
from phiforge.packaging.layout import EVIDENCE_FOLDER, MANIFEST
from phiforge.roofline import (
    hold,
    memory_need,
    predicted_lengths,
    predicted_rows,
)
from phiforge.store import write_atomically
from phiforge.target import load_profile
from phiforge.variant import GENAI_CONFIG
from phiforge.verbs.fitting import fit_machine, machine_rates, of_machine, with_fit
from phiforge.verbs.judging import phiforge_version
from phiforge.verbs.output import prepare_output
from phiforge.verbs.packaged import packaged_profiles
from phiforge.verbs.subject import find_subjects

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from phiforge.costs import Costs
    from phiforge.roofline import Held
    from phiforge.target import Profile, Roofline
    from phiforge.verbs.fitting import Fitted, MachineRates
    from phiforge.verbs.subject import Subject

WEIGHT_FILES = (".bin", ".data")
# After the profile's name, for the prediction with the rates of the machine that measured.
AS_MEASURED = "as-measured"


@dataclass(frozen=True, kw_only=True)
class Predicted:
    """One prediction, where it was written, and what was measured of the same variant beside it.

    `as_measured` is the file of the prediction for the machine that measured, where its rates are known; `held` then
    has the errors of that one.
    """

    variant: str
    profile: str
    prediction: Prediction
    path: Path
    held: tuple[Held, ...] = ()
    as_measured: Path | None = None


@dataclass(frozen=True, kw_only=True)
class Predictions:
    """All that was predicted; `fitted` where that was asked for."""

    predicted: tuple[Predicted, ...]
    fitted: Fitted | None


def predict(
    subjects: Sequence[Path],
    *,
    output: Path,
    target: str | None = None,
    evidence: Sequence[Path] = (),
    fit: bool = False,
    bandwidth_bytes_per_s: float | None = None,
    operations_per_s: float | None = None,
    project: Path | None = None,
) -> Predictions:
    """Predict each variant for each of its profiles and write prediction-<profile>.json.

    Where the variant's latency was measured, it stands beside. With the rates of the machine that measured, the variant
    is predicted for that machine too, which gives the prediction's error; without them there are only differences
    between two machines.

    Args:
        subjects: Packages, built variants or model folders.
        output: Folder for the evidence; each variant gets a folder of its name in it.
        target: The profile to predict for instead of a package's own; needed for what is no package.
        evidence: Measured latency besides what the packages hold: records of `phiforge bench` or files of `measure`.
        fit: Fit the efficiencies to all measured latency and predict with them instead of the profile's.
        bandwidth_bytes_per_s: Memory bandwidth of the machine that measured; measured now if that is this machine.
        operations_per_s: Compute rate of the machine that measured, in the type of the products.
        project: The project whose profiles are meant; found from the working folder by default.

    Raises:
        ProfileUnknownError: There is no such profile, or none was named.
        ProfileInvalidError: A profile does not tell the device's rates.
        EvidenceInvalidError: The evidence is broken, nothing can be fitted to it, or rates are given and it is not of
            one machine.
        GraphMismatchError: A variant's costs cannot be counted.
    """
    found = [(path, subject, costs_of(subject)) for path in subjects for subject in find_subjects(path)]
    measured = _measured(subjects, evidence)
    pairs = [(latency, item) for latency in measured for item in found if item[1].sha256 == latency.variant_sha256]
    rates = None
    if fit or bandwidth_bytes_per_s is not None or operations_per_s is not None:
        rates = machine_rates([latency for latency, _ in pairs], bandwidth_bytes_per_s, operations_per_s)
    timed = [(latency, subject, costs) for latency, (_, subject, costs) in pairs]
    fitted = fit_machine(timed, rates) if fit and rates else None
    prepare_output(output)
    predicted = []
    for path, subject, costs in found:
        own = [latency for latency, item in pairs if item[1] is subject]
        for profile in _profiles(path, subject, target, project):
            make = partial(predict_variant, subject, costs=costs, fitted=fitted, wanted=_lengths(measured))
            predicted.append(_beside(subject, profile, make, own, rates, output / subject.name))
    return Predictions(predicted=tuple(predicted), fitted=fitted)


def _beside(
    subject: Subject,
    profile: Profile,
    make: Callable[..., Prediction],
    measured: Sequence[Latency],
    rates: MachineRates | None,
    folder: Path,
) -> Predicted:
    """Predict a variant for a profile, write it, and hold it against what was measured of the variant."""
    made = there = make(profile)
    path = folder / prediction_file(profile)
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(path, dump_evidence(made))
    as_measured = None
    if rates is not None and measured:
        there = make(profile, rates=rates)
        as_measured = path.with_name(f"{path.stem}-{AS_MEASURED}.json")
        write_atomically(as_measured, dump_evidence(there))
    held = tuple(item for latency in measured if (item := hold(there, latency)) is not None)
    return Predicted(
        variant=subject.name, profile=profile.name, prediction=made, path=path, held=held, as_measured=as_measured
    )


def predict_variant(
    subject: Subject,
    profile: Profile,
    *,
    costs: Costs | None = None,
    fitted: Fitted | None = None,
    wanted: Sequence[int] = (),
    rates: MachineRates | None = None,
) -> Prediction:
    """Predict one variant for one profile.

    Args:
        subject: The variant.
        profile: The device.
        costs: Its costs, if they are counted already.
        fitted: Efficiencies to take instead of the profile's.
        wanted: Prompt lengths to predict besides the profile's.
        rates: Those of a machine that measured, to predict it instead of the profile's device.

    Raises:
        ProfileInvalidError: The profile does not tell the device's rates.
    """
    table = of_machine(with_fit(_roofline(profile), fitted), rates)
    costs = costs or costs_of(subject)
    context = _context(subject, profile)
    decode = profile.measure.decode_tokens
    lengths = predicted_lengths(context, decode, (*profile.measure.prompt_tokens, *wanted))
    return Prediction(
        kind=Kind.PREDICTED,
        conditions=_conditions(profile) if rates is None else _conditions_there(rates),
        variant_sha256=subject.sha256,
        profile=profile.name,
        bandwidth_bytes_per_s=table.memory_bandwidth_bytes_per_s,
        operations_per_s=table.operations_per_s,
        bandwidth_efficiency_fraction=table.bandwidth_efficiency_fraction,
        compute_efficiency_fraction=table.compute_efficiency_fraction,
        node_overhead_us=table.node_overhead_us,
        efficiency_source=table.efficiency_source,
        efficiency_error_fraction=table.efficiency_error_fraction,
        rows=predicted_rows(costs, roof_of(table), lengths, decode_tokens=decode),
        memory=memory_need(costs, context),
    )


def predictions(subject: Subject, profiles: Sequence[Profile]) -> dict[str, str]:
    """Return the evidence of a variant's predictions by file name, for the profiles that tell their device's rates."""
    able = [profile for profile in profiles if profile.hardware.roofline is not None]
    costs = costs_of(subject) if able else None
    return {prediction_file(p): dump_evidence(predict_variant(subject, p, costs=costs)) for p in able}


def prediction_file(profile: Profile) -> str:
    """Name of the evidence file for one profile."""
    return f"prediction-{profile.name}.json"


def costs_of(subject: Subject) -> Costs:
    """Count a variant's costs: from its graph, or from its record where the graphs are compiled.

    Raises:
        GraphMismatchError: They cannot be counted.
    """
    config = _config(subject)
    if subject.record is not None and subject.record.npu is not None:
        files = [path for path in subject.folder.iterdir() if path.suffix in WEIGHT_FILES]
        return recorded_costs(subject.record, config, sum(path.stat().st_size for path in files))
    return graph_costs(subject.folder / str(config["model"]["decoder"].get("filename", "model.onnx")))


def _config(subject: Subject) -> dict[str, Any]:
    try:
        config: dict[str, Any] = json.loads((subject.folder / GENAI_CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise errors.VariantUnusableError(
            f"The variant {subject.folder} has no readable {GENAI_CONFIG}.",
            why=str(error),
            fix="Build it again with `phiforge build`.",
        ) from error
    return config


def _context(subject: Subject, profile: Profile) -> int:
    held = int(_config(subject)["model"]["context_length"])
    return held if profile.npu is not None else min(held, profile.hardware.context_tokens)


def _conditions(profile: Profile) -> Conditions:
    """The device as its profile describes it: nothing was run, so this machine has no part in it."""
    architecture = profile.hardware.architecture or "any"
    machine = Machine(
        processor=profile.identity.title,
        architecture=architecture,
        process_architecture=architecture,
        logical_cores=0,
        physical_cores=0,
        memory_bytes=profile.hardware.memory_bytes,
        system="any",
    )
    return Conditions(
        machine=machine,
        provider=profile.runtime.provider,
        threads=0,
        versions={"phiforge": phiforge_version()},
        notes=(f"Predicted: nothing was run. Rates: {_roofline(profile).source}",),
    )


def _conditions_there(rates: MachineRates) -> Conditions:
    """The machine that measured, which is predicted; nothing was run, so there is no time."""
    return Conditions(
        machine=rates.conditions.machine,
        provider=rates.conditions.provider,
        threads=rates.conditions.threads,
        versions={"phiforge": phiforge_version()},
        notes=("Predicted: nothing was run. Rates: as given for the machine that measured.",),
    )


def _roofline(profile: Profile) -> Roofline:
    if profile.hardware.roofline is None:
        raise errors.ProfileInvalidError(
            f"Nothing can be predicted for the profile {profile.name}.",
            why="It has no table [hardware.roofline] with the device's bandwidth and compute rate.",
            fix="Add one (docs/profiles.md), or name a profile that has it with --target.",
        )
    return profile.hardware.roofline


def _profiles(path: Path, subject: Subject, target: str | None, project: Path | None) -> list[Profile]:
    """The profiles to predict a variant for: the named one if it runs such variants, or those it is packaged for."""
    if target is not None:
        profile = load_profile(catalog.profile_path(project or catalog.find_project(), target))
        device = subject.record.device if subject.record is not None else profile.runtime.device
        return [profile] if profile.runtime.device == device else []
    if (path / MANIFEST).is_file():
        return list(packaged_profiles(path, subject.name).values())
    raise errors.ProfileUnknownError(
        f"No device profile was named to predict {path} for.",
        why="Only a package (.ortpackage) carries profiles of its own.",
        fix="Name one with --target; `phiforge targets` lists those of the project.",
    )


def _measured(subjects: Sequence[Path], evidence: Sequence[Path]) -> list[Latency]:
    """All measured latency: what the packages hold, and what is brought."""
    own = [file for path in subjects for file in sorted((path / EVIDENCE_FOLDER).glob("*/latency-*.json"))]
    records = [record for path in (*own, *evidence) for record in _records(path)]
    return [item for item in records if isinstance(item, Latency) and item.kind is Kind.MEASURED]


def _records(path: Path) -> Iterator[object]:
    text = evidence_text(path)
    if is_evidence_file(text):
        yield from parse_evidence_file(text, path.name).records
    else:
        yield parse_evidence(text, path.name)


def _lengths(measured: Sequence[Latency]) -> list[int]:
    return sorted({row.prompt_tokens for latency in measured for row in latency.rows})
