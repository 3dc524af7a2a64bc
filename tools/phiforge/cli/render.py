"""Render results as text, and choose the exit code that follows from them."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from rich.table import Column, Table

from phiforge import gate
from phiforge.cli.terminal import console, say
from phiforge.quantities import number
from phiforge.soc import SOC_MODELS
from phiforge.visible import visible

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from rich.console import Console

    from phiforge.devices import DevicePlan
    from phiforge.errors import PhiforgeError
    from phiforge.evidence import Latency
    from phiforge.gate import Verdict
    from phiforge.pipeline import Pipeline
    from phiforge.plan import Plan, VariantPlan
    from phiforge.target import Npu, Profile
    from phiforge.verbs.build import BuildResult
    from phiforge.verbs.chat import Conversation
    from phiforge.verbs.doctor import Diagnosis
    from phiforge.verbs.report import WrittenReport

OK = 0
# What an answer of a model may hold besides what is seen: line breaks, tabs, and the joiners of scripts and emoji.
ANSWERED = "\n\t\u200c\u200d"
COLOURS = {gate.Outcome.PASS: "green", gate.Outcome.FAIL: "red", gate.Outcome.UNVERIFIED: "yellow"}
MARKS = {gate.Outcome.PASS: "✓", gate.Outcome.FAIL: "✗", gate.Outcome.UNVERIFIED: "?"}


def show_error(error: PhiforgeError) -> None:
    """Print what happened, why, what to do and where to read, on standard error."""
    out = console(stderr=True)
    parts = {"  Why:  ": error.why, "  Do:   ": error.fix, "  Read: ": error.read}
    what, *more = error.what.splitlines() or [""]
    say(out, (f"Error {error.exit_code}:", "bold red"), f" {what}")
    for line in more:
        say(out, f"  {line}")
    for label, text in parts.items():
        first, *more = text.splitlines() or [""]
        say(out, f"{label}{first}")
        # Set in, so that no line of a file's name or content looks like one of ours.
        for line in more:
            say(out, f"{' ' * len(label)}{line}")


def show_plan(plan: Plan, out: Console) -> None:
    """Print a plan: what is built from what, and what it will need."""
    need = plan.preflight
    say(
        out,
        (plan.model, "bold"),
        f" ({plan.published or plan.family}, {plan.parameter_count / 1e6:,.1f} M parameters, "
        f"{size(plan.checkpoint_bytes)}, checkpoint {plan.fingerprint[:12]})",
    )
    for variant in plan.variants:
        weights = f"{size(variant.weight_bytes)} of weights, {variant.bits_per_weight:.2f} bits per weight"
        say(out, "  variant ", (variant.name, "bold"), f" for {', '.join(variant.profiles)}: {weights}")
        say(out, "    ", (_options(variant), "dim"))
        for device in variant.devices:
            say(out, f"    {_device(device)}")
    say(
        out,
        f"  predicted: {size(need.memory_bytes)} of memory, {size(need.disk_bytes)} of disk, "
        f"{need.seconds:,.0f} s to build without validation",
    )


def build_result(result: BuildResult) -> int:
    """Print what a build came to; the exit code follows the worst verdict."""
    out = console()
    if result.package is None:
        say(out, "Dry run: nothing was built.")
        return OK
    if all(stage.reused for stage in result.stages):
        say(out, "Nothing changed: no stage was done again.")
    for name, verdict in result.verdicts.items():
        show_verdict(name, verdict, out)
    say(out, f"Package: {result.package}")
    say(out, f"Content: sha256 {result.content_sha256}")
    say(out, f"Report:  {result.report}")
    return gate.exit_code(*result.verdicts.values())


def reports(written: WrittenReport) -> int:
    """Print the verdicts and where the report is; the exit code follows the worst verdict."""
    out = console()
    entries = written.fleet.entries
    models = {entry.package for entry in entries}
    for entry in entries:
        name = entry.report.profile.name
        show_verdict(f"{entry.package}, {name}" if len(models) > 1 else name, entry.report.verdict, out)
    say(out, f"Report:  {written.files.html}")
    return gate.exit_code(*(entry.report.verdict for entry in entries))


def evidence_folders(folders: Mapping[str, Path]) -> int:
    """Print where evidence was written."""
    for name, folder in folders.items():
        path(f"Evidence of {name}", folder)
    return OK


def latency_files(files: Mapping[str, Path]) -> int:
    """Print the latency rows of each measured variant."""
    from phiforge.evidence import Latency, load_evidence

    out = console()
    for name, file in files.items():
        evidence = load_evidence(file)
        assert isinstance(evidence, Latency)
        title = f"{name} ({evidence.kind}, {evidence.conditions.threads} threads)"
        show_latency(title, evidence, out)
        say(out, f"Evidence: {file}")
    return OK


def show_latency(title: str, latency: Latency, out: Console) -> None:
    """Print the times of one variant, a row for each prompt length, and its memory."""
    table = Table(
        "prompt tokens", "TTFT p50 ms", "prefill tokens/s", "decode tokens/s p50", "inter-token p99 ms", title=title
    )
    for row in latency.rows:
        table.add_row(
            str(row.prompt_tokens),
            f"{row.ttft_p50_ms:.1f}",
            f"{row.prefill_tokens_per_s_p50:.0f}",
            f"{row.decode_tokens_per_s_p50:.1f}",
            f"{row.inter_token_p99_ms:.2f}",
        )
    out.print(table)
    say(
        out,
        f"Load {latency.load_ms:.0f} ms, peak anonymous memory {size(latency.peak_anon_bytes)}, resident "
        f"{size(latency.peak_rss_bytes)}",
    )
    # Imported here: that module prints by this one.
    from phiforge.cli.latency import latency_details

    for line in latency_details(latency):
        say(out, line)


def path(what: str, where: Path) -> int:
    """Print where something is."""
    say(console(), f"{what}: {where}")
    return OK


def profiles(found: Sequence[Profile]) -> int:
    """Print the device profiles, and of each NPU what is known of it."""
    # What is typed behind --target and --pipeline is never cut.
    name, pipeline = Column("profile", no_wrap=True), Column("pipeline", no_wrap=True)
    others = [Column(title, overflow="fold") for title in ("device", "runtime", "judged on", "budgets")]
    table = Table(name, *others[:2], pipeline, *others[2:])
    for profile in found:
        budgets = profile.budgets.model_dump(exclude_none=True)
        table.add_row(
            profile.name,
            profile.identity.title,
            f"{profile.runtime.package} {profile.runtime.version}",
            profile.build.pipeline,
            ", ".join(profile.accepts),
            str(len(budgets)),
        )
    out = console()
    out.print(table)
    for profile in found:
        if profile.npu is not None:
            say(out, (profile.name, "bold"), f": {_npu(profile.npu)}")
    return OK


def pipelines(found: Sequence[Pipeline]) -> int:
    """Print the pipelines."""
    table = Table(Column("pipeline", no_wrap=True), "pass", "options")
    for pipeline in found:
        for index, (name, options) in enumerate(pipeline.passes.items()):
            values = ", ".join(f"{key}={value}" for key, value in options.model_dump(exclude={"type"}).items())
            table.add_row(pipeline.name if index == 0 else "", f"{name} ({options.type})", values)
    console().print(table)
    return OK


def diagnosis(found: Diagnosis) -> int:
    """Print what this machine can do."""
    out = console()
    machine = found.machine
    say(
        out,
        f"{machine.processor}, {machine.physical_cores} cores ({found.threads} threads by default), "
        f"{size(machine.memory_bytes)} of memory ({size(found.free_memory_bytes)} free), "
        f"{size(found.free_disk_bytes)} of disk free, {machine.system}",
    )
    for ability in found.abilities:
        mark = ("✓", "green") if ability.able else ("–", "yellow")
        say(out, mark, f" {ability.name}: {ability.detail}")
        if ability.remedy:
            say(out, f"    {ability.remedy}")
    return OK


def conversation(talk: Conversation, prompt: str | None) -> int:
    """Hold a conversation on the terminal, or ask one thing."""
    if prompt is not None:
        _say(talk, prompt)
        return OK
    while text := _ask():
        _say(talk, text)
    return OK


def inspection(found: object) -> int:
    """Print the facts of a checkpoint or of variants."""
    from phiforge.checkpoint.inspect import CheckpointFacts
    from phiforge.cli.inspection import show_checkpoint, show_variant

    out = console()
    if isinstance(found, CheckpointFacts):
        show_checkpoint(found, out)
    elif isinstance(found, tuple):
        for variant in found:
            show_variant(variant, out)
    return OK


def size(count: float) -> str:
    """Bytes as text with three digits, in powers of ten."""
    for factor, unit in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if count >= factor:
            return f"{count / factor:.2f} {unit}"
    return f"{count:.0f} B"


def show_verdict(name: str, verdict: Verdict, out: Console) -> None:
    """Print a verdict and the reasons for it."""
    say(out, (f"{name}: {verdict.outcome}", f"bold {COLOURS[verdict.outcome]}"))
    for finding in verdict.findings:
        say(out, "  ", (MARKS[finding.outcome], COLOURS[finding.outcome]), f" {finding.reason}")


def _device(device: DevicePlan) -> str:
    """What a plan predicts of a device, in one line."""
    speed = (
        f"{number(device.decode_tokens_per_s, 3)} tokens/s, first token of "
        f"{device.prompt_tokens:,} after {number(device.ttft_ms, 3)} ms, "
        if device.decode_tokens_per_s is not None and device.ttft_ms is not None
        else ""
    )
    return (
        f"{device.profile}, predicted: {speed}{size(device.total_bytes)} of memory with "
        f"{device.context_tokens:,} tokens of context (a model may take {size(device.available_bytes)})"
    )


def _options(variant: VariantPlan) -> str:
    passes = {
        name: {key: value for key, value in options.items() if key != "type" and value not in (None, [])}
        for name, options in variant.workflow["passes"].items()
    }
    return "; ".join(
        f"{name}: " + ", ".join(f"{key}={value}" for key, value in options.items()) for name, options in passes.items()
    )


def _npu(npu: Npu) -> str:
    sure = "confirmed" if npu.confirmed else f"unconfirmed: {npu.source}"
    return (
        f"{SOC_MODELS[npu.soc_model].name} (soc_model {npu.soc_model}, Hexagon {npu.architecture}), "
        f"{npu.context_tokens:,} tokens of context, {sure}"
    )


def _ask() -> str:
    try:
        return input("you> ").strip()
    except EOFError:
        return ""


def _say(talk: Conversation, text: str) -> None:
    for piece in talk.say(text):
        sys.stdout.write(visible(piece, keep=ANSWERED))
        sys.stdout.flush()
    sys.stdout.write("\n")
