"""Render what the device kit does: where it measures what, and what came of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.markup import escape

from phiforge import gate
from phiforge.cli.explain import machine_line
from phiforge.cli.render import console, show_latency, show_verdict
from phiforge.evidence import Drift, Latency, Tasks

if TYPE_CHECKING:
    from phiforge.verbs.measure import Job, Measurement


def show_job(job: Job) -> None:
    """Print what this machine is, and what of the package is measured on it."""
    out = console()
    choice = job.choice
    out.print(escape(machine_line(job.explanation.machine)))
    chosen = "chosen for this machine" if choice.variant == job.explanation.chosen else "asked for"
    out.print(f"Variant [bold]{escape(choice.variant)}[/], {chosen}: {escape(choice.why)}", soft_wrap=True)
    others = [name for index, name in enumerate(choice.adapters) if index != job.device]
    also = f" (also here: {', '.join(others)})" if others else ""
    out.print(f"Runs on {escape(job.adapter + also)}, measured as the profile {escape(job.profile.name)} says")


def measurement(found: Measurement) -> int:
    """Print what was measured and where it is written; the exit code follows the verdict."""
    out = console()
    for provider, count in sorted(found.file.placement.items()):
        out.print(f"Nodes on {escape(provider)}: {count}")
    for record in found.file.records:
        conditions = f"({record.kind}, {record.conditions.provider}, {record.conditions.threads} threads)"
        if isinstance(record, Drift):
            kl, top1 = record.kl_nats, 100 * record.top1_agreement_fraction.mean
            out.print(
                f"Drift {conditions}: mean KL {kl.mean:.5f} ± {kl.standard_error:.5f} nats over {record.positions:,} "
                f"positions, top-1 agreement {top1:.2f} %"
            )
        elif isinstance(record, Tasks):
            overall = record.overall
            out.print(
                f"Answers {conditions}: {overall.variant_correct} of {overall.questions} right, the original "
                f"{overall.reference_correct}"
            )
        elif isinstance(record, Latency):
            show_latency(f"Time {conditions}", record, out)
    show_verdict(found.job.profile.name, found.verdict, out)
    out.print(f"Evidence: {escape(str(found.path))}")
    out.print(
        f"On the build machine: phiforge report {escape(found.job.package.name)} --evidence {escape(found.path.name)}"
    )
    return gate.exit_code(found.verdict)
