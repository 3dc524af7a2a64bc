"""Commands that measure a variant."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

from phiforge.cli import render
from phiforge.cli.options import (
    AllowCode,
    Chunk,
    Output,
    Project,
    Quiet,
    Revision,
    Subject,
    Tasks,
    Texts,
    Threads,
    UsedTuning,
    app,
)
from phiforge.cli.progress import ProgressWatcher


@app.command()
def validate(
    variant: Subject,
    checkpoint: Annotated[
        Optional[Path],
        typer.Option("--checkpoint", "-c", help="What it was built from: the reference. A package carries its own."),
    ] = None,
    revision: Revision = None,
    output: Output = Path("artifacts/evidence"),
    texts: Texts = None,
    tasks: Tasks = None,
    threads: Threads = None,
    chunk: Chunk = None,
    allow_code: AllowCode = False,
    free_running_tokens: Annotated[
        int, typer.Option("--free-running-tokens", min=1, help="The most tokens of a free-running generation.")
    ] = 128,
    lm_eval: Annotated[
        Optional[list[str]],
        typer.Option("--lm-eval", help="A task of the lm-evaluation-harness, or its .yaml file; may be repeated."),
    ] = None,
    quiet: Quiet = False,
) -> int:
    """Measure what a variant costs in accuracy: drift, answers, free running, refusals, probes.

    A package can be validated without its checkpoint: it carries what the original said of some texts and questions.
    """
    from phiforge.verbs.validate import validate as run

    with ProgressWatcher(quiet=quiet) as watcher:
        folders = run(
            variant,
            checkpoint,
            revision=revision,
            output=output,
            texts=texts,
            tasks=tasks,
            threads=threads,
            chunk=chunk,
            allow_code=allow_code,
            free_running_tokens=free_running_tokens,
            lm_eval=lm_eval or (),
            watcher=watcher,
        )
    return render.evidence_folders(folders)


@app.command()
def bench(
    variant: Subject,
    target: Annotated[
        Optional[str],
        typer.Option("--target", "-t", help="The device profile that says how to measure. A package carries its own."),
    ] = None,
    output: Output = Path("artifacts/evidence"),
    tuning: UsedTuning = None,
    thorough: Annotated[
        bool,
        typer.Option("--thorough", help="Also after pauses, on a busy machine, and over longer contexts: minutes."),
    ] = False,
    project: Project = None,
    quiet: Quiet = False,
) -> int:
    """Measure a variant's latency, memory and energy on this machine, in fresh processes."""
    from phiforge.verbs.bench import bench as run

    with ProgressWatcher(quiet=quiet) as watcher:
        files = run(
            variant,
            target=target,
            output=output,
            tuning=tuning,
            thorough=thorough,
            project=project,
            watcher=watcher,
        )
    return render.latency_files(files)


@app.command()
def measure(
    package: Annotated[Path, typer.Argument(help="A package (.ortpackage folder).")],
    variant: Annotated[
        Optional[str], typer.Option("--variant", help="A variant by name, instead of the one this machine gets.")
    ] = None,
    target: Annotated[
        Optional[str], typer.Option("--target", "-t", help="A profile of the package, instead of the one that fits.")
    ] = None,
    output: Output = Path("artifacts/evidence"),
    threads: Threads = None,
    device: Annotated[
        Optional[int], typer.Option("--device", min=0, help="The device that must run it, from 0.")
    ] = None,
    quiet: Quiet = False,
) -> int:
    """Measure a package on this machine and write one evidence file for `phiforge report` on the build machine.

    Needs the package and the light install, no checkpoint and no project. An interrupted run goes on where it was.
    """
    from phiforge.cli.kit import measurement, show_job
    from phiforge.cli.terminal import console
    from phiforge.verbs.measure import measure as run

    with ProgressWatcher(quiet=quiet) as watcher:
        found = run(
            package,
            variant=variant,
            target=target,
            output=output,
            threads=threads,
            device=device,
            watcher=watcher,
            on_job=lambda job: show_job(job, console(quiet=quiet)),
        )
    return measurement(found)


@app.command()
def tune(
    candidates: Annotated[list[Path], typer.Argument(help="Packages or built variants, in order of preference.")],
    target: Annotated[str, typer.Option("--target", "-t", help="The device profile whose budgets must be kept.")],
    output: Output = Path("artifacts/tuning"),
    evidence: Annotated[
        Optional[list[Path]], typer.Option("--evidence", "-e", help="Folders with the candidates' evidence.")
    ] = None,
    rounds: Annotated[int, typer.Option("--rounds", min=3, help="How often each contender is measured.")] = 5,
    prompt_tokens: Annotated[int, typer.Option("--prompt-tokens", min=1, help="Prompt of the timed turn.")] = 128,
    decode_tokens: Annotated[int, typer.Option("--decode-tokens", min=1, help="Tokens decoded in it.")] = 64,
    project: Project = None,
    quiet: Quiet = False,
) -> int:
    """Choose variant, threads and session options by measuring on this machine.

    Only candidates whose drift evidence is within the profile's budgets can be chosen. `bench` and `chat` apply the
    choice with --tuning.
    """
    from phiforge.cli.tuning import show_tuning
    from phiforge.verbs.tune import tune as run

    with ProgressWatcher(quiet=quiet) as watcher:
        result = run(
            candidates,
            target=target,
            output=output,
            evidence=evidence or (),
            rounds=rounds,
            prompt_tokens=prompt_tokens,
            decode_tokens=decode_tokens,
            project=project,
            watcher=watcher,
        )
    return show_tuning(result)


@app.command("explain-drift")
def explain_drift(
    variant: Annotated[Path, typer.Argument(help="A built variant for an NPU: the folder with variant.json.")],
    checkpoint: Annotated[Path, typer.Option("--checkpoint", "-c", help="What it was built from: the reference.")],
    output: Output = Path("artifacts/drift"),
    texts: Texts = None,
    positions: Annotated[int, typer.Option("--positions", min=64, help="Positions scored at each trial.")] = 512,
    threads: Threads = None,
    quiet: Quiet = False,
) -> int:
    """Name the layers and tensors whose quantization costs an NPU variant most."""
    from phiforge.cli.drift import show_sources
    from phiforge.verbs.explain_drift import explain_drift as run

    with ProgressWatcher(quiet=quiet) as watcher:
        found = run(
            variant, checkpoint, output=output, texts=texts, positions=positions, threads=threads, watcher=watcher
        )
    return show_sources(*found)
