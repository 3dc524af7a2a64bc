"""Commands that look at what there is."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

from phiforge.cli import render
from phiforge.cli.options import Project, Revision, Subject, Threads, UsedTuning, app
from phiforge.cli.progress import ProgressWatcher


@app.command()
def targets(project: Project = None) -> int:
    """List the device profiles."""
    from phiforge.verbs.targets import targets as run

    return render.profiles(run(project))


@app.command()
def pipelines(project: Project = None) -> int:
    """List the pipelines."""
    from phiforge.verbs.pipelines import pipelines as run

    return render.pipelines(run(project))


@app.command()
def inspect(
    path: Annotated[Path, typer.Argument(help="A checkpoint, package, variant or model folder; or a Hub id.")],
    revision: Revision = None,
) -> int:
    """Say what a checkpoint, a variant or a package is, and whether it is sound."""
    from phiforge.verbs.inspect import inspect as run

    with ProgressWatcher(quiet=False) as watcher:
        found = run(path, revision=revision, watcher=watcher)
    return render.inspection(found)


@app.command()
def doctor() -> int:
    """Say what this machine can build, run and emulate, and what is missing."""
    from phiforge.verbs.doctor import doctor as run

    return render.diagnosis(run())


@app.command()
def explain(package: Annotated[Path, typer.Argument(help="A package (.ortpackage folder).")]) -> int:
    """Say which variant of a package this machine gets, and why not each of the others."""
    from phiforge.cli.explain import show_explanation
    from phiforge.verbs.explain import explain as run

    return show_explanation(run(package))


@app.command()
def chat(
    package: Subject,
    prompt: Annotated[Optional[str], typer.Option("--prompt", help="Ask this one thing and exit.")] = None,
    max_new_tokens: Annotated[int, typer.Option("--max-new-tokens", min=1, help="Longest answer.")] = 512,
    threads: Threads = None,
    tuning: UsedTuning = None,
) -> int:
    """Talk to a package. End with an empty line."""
    from phiforge.verbs.chat import chat as run

    return render.conversation(run(package, max_new_tokens=max_new_tokens, threads=threads, tuning=tuning), prompt)
