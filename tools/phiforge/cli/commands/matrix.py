"""Commands for CI."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Optional

import typer

from phiforge.cli.options import Project, Targets, app


@app.command()
def matrix(
    checkpoints: Annotated[
        list[Path], typer.Argument(metavar="CHECKPOINT...", help="Folders or Hub ids, with @COMMIT if not pinned.")
    ],
    target: Targets,
    measure: Annotated[
        Optional[list[str]],
        typer.Option("--measure", help="A target that a runner is there for; by default all. May be repeated."),
    ] = None,
    no_measure: Annotated[bool, typer.Option("--no-measure", help="There are no runners with devices.")] = False,
    destination: Annotated[
        str, typer.Option("--destination", help="Where each model's release goes, with {model} for its name.")
    ] = "",
    previous: Annotated[
        str, typer.Option("--previous", help="Where each model's previous release is, with {model} for its name.")
    ] = "",
    github: Annotated[
        bool, typer.Option("--github", help="One line a stage, for $GITHUB_OUTPUT, instead of one JSON object.")
    ] = False,
    project: Project = None,
) -> int:
    """Print the jobs of a release as JSON for a CI: build each model, measure it on each device, release it."""
    from phiforge.verbs.matrix import matrix as run

    if measure and no_measure:
        raise typer.BadParameter("Give --measure or --no-measure.")
    try:
        jobs = run(
            checkpoints,
            targets=target,
            measured=[] if no_measure else measure or None,
            destination=destination,
            previous=previous,
            project=project,
        )
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    found = jobs.model_dump(mode="json")
    if github:
        for stage, entries in found.items():
            typer.echo(f"{stage}={json.dumps({'include': entries}, separators=(',', ':'))}")
    else:
        typer.echo(json.dumps(found, indent=1))
    return 0
