"""Predict speed and memory of variants on devices nobody has measured, and fit a roofline to what was measured."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from phiforge import catalog, errors
from phiforge.bandwidth import measure_bandwidth
from phiforge.devices import roof_of
from phiforge.evidence import Conditions, Kind, Latency, Machine, Prediction, dump_evidence, invalid, parse_evidence
from phiforge.evidence_file import is_evidence_file, lasting, parse_evidence_file
from phiforge.graph.costs import graph_costs, recorded_costs
from phiforge.machine import describe_machine
from phiforge.packaging.layout import EVIDENCE_FOLDER, MANIFEST
from phiforge.roofline import (
    fit_roof,
    memory_need,
    predicted_rows,
    prediction_errors,
    prompt_lengths,
    timed_runs,
)
from phiforge.store import write_atomically
from phiforge.target import Roofline, load_profile
from phiforge.verbs.judging import phiforge_version
from phiforge.verbs.output import prepare_output
from phiforge.verbs.packaged import packaged_profiles
from phiforge.verbs.subject import GENAI_CONFIG, find_subjects

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from phiforge.costs import Costs
    from phiforge.roofline import Fit, PredictionError
    from phiforge.target import Profile
    from phiforge.verbs.subject import Subject

WEIGHT_FILES = (".bin", ".data")


@dataclass(frozen=True, kw_only=True)
class Predicted:
    """One prediction, where it was written, and its errors where the same was measured."""

    variant: str
    profile: str
    prediction: Prediction
    errors: tuple[PredictionError, ...]
    path: Path


@dataclass(frozen=True, kw_only=True)
class Fitted:
    """A roofline fitted to measurements, and which."""

    fit: Fit
    source: str


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

    Where the variant's latency was measured, the prediction is held against it.

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
        EvidenceInvalidError: The evidence is broken, or nothing can be fitted to it.
        GraphMismatchError: A variant's costs cannot be counted.
    """
    found = [(path, subject, costs_of(subject)) for path in subjects for subject in find_subjects(path)]
    measured = _measured(subjects, evidence)
    rates = (bandwidth_bytes_per_s, operations_per_s)
    fitted = _fitted([(subject, costs) for _, subject, costs in found], measured, *rates) if fit else None
    prepare_output(output)
    predicted = []
    for path, subject, costs in found:
        for profile in _profiles(path, subject, target, project):
            made = predict_variant(subject, profile, costs=costs, fitted=fitted, wanted=_lengths(measured))
            folder = output / subject.name
            folder.mkdir(parents=True, exist_ok=True)
            file = folder / prediction_file(profile)
            write_atomically(file, dump_evidence(made))
            held = tuple(error for latency in measured for error in prediction_errors(made, latency))
            predicted.append(
                Predicted(variant=subject.name, profile=profile.name, prediction=made, errors=held, path=file)
            )
    return Predictions(predicted=tuple(predicted), fitted=fitted)


def predict_variant(
    subject: Subject,
    profile: Profile,
    *,
    costs: Costs | None = None,
    fitted: Fitted | None = None,
    wanted: Sequence[int] = (),
) -> Prediction:
    """Predict one variant for one profile.

    Args:
        subject: The variant.
        profile: The device.
        costs: Its costs, if they are counted already.
        fitted: Efficiencies to take instead of the profile's.
        wanted: Prompt lengths to predict besides the profile's.

    Raises:
        ProfileInvalidError: The profile does not tell the device's rates.
    """
    table = _with_fit(_roofline(profile), fitted)
    costs = costs or costs_of(subject)
    context = _context(subject, profile)
    decode = profile.measure.decode_tokens
    lengths = prompt_lengths(context, decode, (*profile.measure.prompt_tokens, *wanted))
    return Prediction(
        kind=Kind.PREDICTED,
        conditions=_conditions(profile),
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


def _roofline(profile: Profile) -> Roofline:
    if profile.hardware.roofline is None:
        raise errors.ProfileInvalidError(
            f"Nothing can be predicted for the profile {profile.name}.",
            why="It has no table [hardware.roofline] with the device's bandwidth and compute rate.",
            fix="Add one (docs/profiles.md), or name a profile that has it with --target.",
        )
    return profile.hardware.roofline


def _with_fit(table: Roofline, fitted: Fitted | None) -> Roofline:
    if fitted is None:
        return table
    return table.model_copy(
        update={
            "bandwidth_efficiency_fraction": fitted.fit.roof.bandwidth_efficiency_fraction,
            "compute_efficiency_fraction": fitted.fit.roof.compute_efficiency_fraction,
            "node_overhead_us": fitted.fit.roof.node_overhead_us,
            "efficiency_source": fitted.source,
            "efficiency_error_fraction": fitted.fit.error_fraction,
        }
    )


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
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise invalid(str(path), f"It cannot be read: {error}.") from error
    if is_evidence_file(text):
        yield from parse_evidence_file(text, path.name).records
    else:
        yield parse_evidence(text, path.name)


def _lengths(measured: Sequence[Latency]) -> list[int]:
    return sorted({row.prompt_tokens for latency in measured for row in latency.rows})


def _fitted(
    found: Sequence[tuple[Subject, Costs]],
    measured: Sequence[Latency],
    bandwidth_bytes_per_s: float | None,
    operations_per_s: float | None,
) -> Fitted:
    """Fit one machine's efficiencies to the latency of those variants that are here."""
    pairs = [(latency, item) for latency in measured for item in found if item[0].sha256 == latency.variant_sha256]
    if not pairs:
        raise _unfit(
            "None of the measured latency is of a variant that was given.", "Give the variants too: PACKAGE ..."
        )
    machines = {(lasting(item.conditions.machine).model_dump_json(), item.conditions.threads) for item, _ in pairs}
    if len(machines) > 1:
        raise _unfit("The latency is of several machines or numbers of threads.", "Fit each of them by itself.")
    if operations_per_s is None:
        raise _unfit(
            "The compute rate of the machine is not known.",
            "Give it with --operations-per-s: cores x clock x operations per clock in the type of the products.",
        )
    conditions = pairs[0][0].conditions
    if bandwidth_bytes_per_s is None:
        if lasting(describe_machine()) != lasting(conditions.machine):
            raise _unfit(
                "The bandwidth of the machine is not known, and it is not this one.",
                "Give it with --bandwidth-bytes-per-s, or fit on the machine that measured.",
            )
        bandwidth_bytes_per_s = measure_bandwidth(conditions.threads or 1)
    runs = [run for latency, (_, costs) in pairs for run in timed_runs(costs, latency)]
    fit = fit_roof(runs, bandwidth_bytes_per_s=bandwidth_bytes_per_s, operations_per_s=operations_per_s)
    models = sorted({item[0].record.checkpoint.name if item[0].record else item[0].name for _, item in pairs})
    source = (
        f"fitted to {fit.runs} times of {', '.join(models)} on {conditions.machine.processor}, {conditions.threads} "
        f"threads, by {conditions.provider}"
    )
    return Fitted(fit=fit, source=source)


def _unfit(why: str, fix: str) -> errors.EvidenceInvalidError:
    return errors.EvidenceInvalidError("The efficiencies cannot be fitted.", why=why, fix=fix)
