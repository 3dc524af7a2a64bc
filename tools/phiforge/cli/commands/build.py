"""Commands that make something of a checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

from phiforge.cli import render
from phiforge.cli.options import AllowCode, Output, Project, Quiet, Revision, Targets, Tasks, Texts, Threads, app
from phiforge.cli.progress import ProgressWatcher


@app.command()
def build(
    checkpoint: Annotated[
        Path, typer.Argument(help="Folder with config.json, safetensors and tokenizer; or a Hub id, to be downloaded.")
    ],
    target: Targets,
    revision: Revision = None,
    output: Output = Path("artifacts"),
    pipeline: Annotated[Optional[str], typer.Option("--pipeline", "-p", help="Instead of the profile's.")] = None,
    target_bpw: Annotated[
        Optional[float],
        typer.Option("--target-bpw", min=4, max=10, help="Bits per weight; what gets int8 is measured"),
    ] = None,
    context: Annotated[
        Optional[int], typer.Option("--context", min=64, help="Tokens of context of the variants for an NPU.")
    ] = None,
    calibration: Annotated[
        Optional[Path], typer.Option("--calibration", help="Calibration text, JSONL with id and text.")
    ] = None,
    texts: Texts = None,
    tasks: Tasks = None,
    threads: Threads = None,
    allow_code: AllowCode = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Stop after the plan.")] = False,
    project: Project = None,
    quiet: Quiet = False,
) -> int:
    """Build, validate, measure, judge and package a checkpoint.

    Prints the plan first (sizes, memory, disk, time). Finished stages are kept: the same command again goes on where it
    was stopped, and does nothing twice.
    """
    from phiforge.verbs.build import build as run

    with ProgressWatcher(quiet=quiet) as watcher:
        result = run(
            checkpoint,
            targets=target,
            revision=revision,
            output=output,
            pipeline=pipeline,
            target_bpw=target_bpw,
            context=context,
            calibration=calibration,
            texts=texts,
            tasks=tasks,
            threads=threads,
            allow_code=allow_code,
            dry_run=dry_run,
            project=project,
            watcher=watcher,
        )
    return render.build_result(result)


@app.command()
def package(
    variant: Annotated[
        Path, typer.Argument(help="A variant that `phiforge build` made: the folder with variant.json.")
    ],
    evidence: Annotated[Path, typer.Option("--evidence", "-e", help="Folder with the variant's evidence files.")],
    target: Targets,
    output: Output = Path("artifacts"),
    project: Project = None,
) -> int:
    """Put a built variant and its evidence into a sealed package."""
    from phiforge.verbs.package import package as run

    return render.path("Package", run(variant, evidence=evidence, targets=target, output=output, project=project))


@app.command()
def conform(
    checkpoint: Annotated[Path, typer.Argument(help="A Hugging Face folder, or a Hub id; its weights are not read.")],
    target: Targets,
    pipeline: Annotated[Optional[str], typer.Option("--pipeline", "-p", help="Instead of the profile's.")] = None,
    revision: Revision = None,
    project: Project = None,
) -> int:
    """Say before a build for GPUs whether every node of the graph would run there."""
    from phiforge.cli.conform import show_conformance
    from phiforge.verbs.conform import conform as run

    with ProgressWatcher(quiet=False) as watcher:
        found = run(checkpoint, targets=target, pipeline=pipeline, revision=revision, project=project, watcher=watcher)
    return show_conformance(found)
