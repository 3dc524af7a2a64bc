"""What a machine that measured tells a roofline: its rates, and the efficiencies that its times are fitted to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from phiforge import errors
from phiforge.bandwidth import measure_bandwidth
from phiforge.evidence_file import lasting
from phiforge.machine import describe_machine
from phiforge.roofline import fit_roof, timed_runs

if TYPE_CHECKING:
    from collections.abc import Sequence

    from phiforge.costs import Costs
    from phiforge.evidence import Conditions, Latency
    from phiforge.roofline import Fit
    from phiforge.target import Roofline
    from phiforge.verbs.subject import Subject


@dataclass(frozen=True, kw_only=True)
class MachineRates:
    """The rates of the machine that measured, and the conditions it measured under."""

    bandwidth_bytes_per_s: float
    operations_per_s: float
    conditions: Conditions


@dataclass(frozen=True, kw_only=True)
class Fitted:
    """A roofline fitted to measurements, and which."""

    fit: Fit
    source: str


def machine_rates(
    measured: Sequence[Latency], bandwidth_bytes_per_s: float | None, operations_per_s: float | None
) -> MachineRates:
    """Put together the rates of the one machine that measured.

    Args:
        measured: Latency of the variants that are predicted.
        bandwidth_bytes_per_s: As it was given; measured now if this machine is the one.
        operations_per_s: As it was given.

    Raises:
        EvidenceInvalidError: There is no such latency, it is of several machines, or a rate is not known.
    """
    if not measured:
        raise _unusable(
            "None of the measured latency is of a variant that was given.", "Give the variants too: PACKAGE ..."
        )
    machines = {
        (lasting(item.conditions.machine).model_dump_json(), item.conditions.provider, item.conditions.threads)
        for item in measured
    }
    if len(machines) > 1:
        raise _unusable(
            "The latency is of several machines, providers or numbers of threads.",
            "Give each by itself: the variant's folder in PACKAGE/models/model, with --target and --evidence.",
        )
    if operations_per_s is None:
        raise _unusable(
            "The compute rate of the machine is not known.",
            "Give it with --operations-per-s: cores x clock x operations per clock in the type of the products.",
        )
    conditions = measured[0].conditions
    if bandwidth_bytes_per_s is None:
        if lasting(describe_machine()) != lasting(conditions.machine):
            raise _unusable(
                "The bandwidth of the machine is not known, and it is not this one.",
                "Give it with --bandwidth-bytes-per-s, or predict on the machine that measured.",
            )
        bandwidth_bytes_per_s = measure_bandwidth(conditions.threads or 1)
    return MachineRates(
        bandwidth_bytes_per_s=bandwidth_bytes_per_s, operations_per_s=operations_per_s, conditions=conditions
    )


def fit_machine(pairs: Sequence[tuple[Latency, Subject, Costs]], rates: MachineRates) -> Fitted:
    """Fit one machine's efficiencies to all latency of those variants that are here.

    Args:
        pairs: The latency, each with its variant and what that costs.
        rates: The machine's.

    Raises:
        EvidenceInvalidError: Nothing can be fitted to it.
    """
    runs = [run for latency, _, costs in pairs for run in timed_runs(costs, latency)]
    fit = fit_roof(runs, bandwidth_bytes_per_s=rates.bandwidth_bytes_per_s, operations_per_s=rates.operations_per_s)
    models = sorted({subject.record.checkpoint.name if subject.record else subject.name for _, subject, _ in pairs})
    there = rates.conditions
    source = (
        f"fitted to {fit.runs} times of {', '.join(models)} on {there.machine.processor}, {there.threads} threads, by "
        f"{there.provider}, without leaving any out"
    )
    return Fitted(fit=fit, source=source)


def with_fit(table: Roofline, fitted: Fitted | None) -> Roofline:
    """Return a roofline with fitted efficiencies in place of its own."""
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


def of_machine(table: Roofline, rates: MachineRates | None) -> Roofline:
    """Return a roofline with the rates of a machine that measured in place of its own."""
    if rates is None:
        return table
    return table.model_copy(
        update={
            "memory_bandwidth_bytes_per_s": rates.bandwidth_bytes_per_s,
            "operations_per_s": rates.operations_per_s,
        }
    )


def _unusable(why: str, fix: str) -> errors.EvidenceInvalidError:
    return errors.EvidenceInvalidError(
        "The measured latency cannot be used to fit or to tell the error of a prediction.", why=why, fix=fix
    )
