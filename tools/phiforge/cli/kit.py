"""Render what the device kit does: where it measures what, and what came of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from phiforge import gate
from phiforge.cli.explain import machine_line
from phiforge.cli.render import show_latency, show_verdict
from phiforge.cli.terminal import console, say
from phiforge.evidence import Drift, Latency, Tasks

if TYPE_CHECKING:
    from rich.console import Console

    from phiforge.verbs.measure import Job, Measurement


def show_job(job: Job, out: Console) -> None:
    """Print what this machine is, and what of the package is measured on it."""
    choice = job.choice
    say(out, machine_line(job.explanation.machine))
    chosen = "chosen for this machine" if choice.variant == job.explanation.chosen else "asked for"
    say(out, "Variant ", (choice.variant, "bold"), f", {chosen}: {choice.why}")
    others = [name for index, name in enumerate(choice.adapters) if index != job.device]
    also = f" (also here: {', '.join(others)})" if others else ""
    say(out, f"Runs on {job.adapter}{also}, measured as the profile {job.profile.name} says")


def measurement(found: Measurement) -> int:
    """Print what was measured and where it is written; the exit code follows the verdict."""
    out = console()
    for provider, count in sorted(found.file.placement.items()):
        say(out, f"Nodes on {provider}: {count}")
    for record in found.file.records:
        conditions = f"({record.kind}, {record.conditions.provider}, {record.conditions.threads} threads)"
        if isinstance(record, Drift):
            kl, top1 = record.kl_nats, 100 * record.top1_agreement_fraction.mean
            say(
                out,
                f"Drift {conditions}: mean KL {kl.mean:.5f} ± {kl.standard_error:.5f} nats over {record.positions:,} "
                f"positions, top-1 agreement {top1:.2f} %",
            )
        elif isinstance(record, Tasks):
            overall = record.overall
            say(
                out,
                f"Answers {conditions}: {overall.variant_correct} of {overall.questions} right, the original "
                f"{overall.reference_correct}",
            )
        elif isinstance(record, Latency):
            show_latency(f"Time {conditions}", record, out)
    show_verdict(found.job.profile.name, found.verdict, out)
    say(out, f"Evidence: {found.path}")
    say(out, f"On the build machine: phiforge report {found.job.package.name} --evidence {found.path.name}")
    return gate.exit_code(found.verdict)
