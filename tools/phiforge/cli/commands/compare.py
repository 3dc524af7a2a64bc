"""The command that holds a package against an earlier one."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

from phiforge.cli.options import Output, Quiet, app
from phiforge.cli.progress import ProgressWatcher


@app.command()
def compare(
    package: Annotated[Path, typer.Argument(help="A package (.ortpackage folder).")],
    against: Annotated[Path, typer.Option("--against", help="An earlier package of the same model, or its release.")],
    output: Output = Path("artifacts/evidence"),
    variant: Annotated[Optional[str], typer.Option("--variant", help="Only this variant.")] = None,
    rounds: Annotated[
        Optional[int], typer.Option("--rounds", min=5, help="Rounds; by default as many as it takes to decide.")
    ] = None,
    quiet: Quiet = False,
) -> int:
    """Compare a package's speed with an earlier one's, in one interleaved run on this machine."""
    from phiforge.cli.latency import comparison_files
    from phiforge.verbs.compare import compare as run

    with ProgressWatcher(quiet=quiet) as watcher:
        files = run(package, against=against, output=output, variant=variant, rounds=rounds, watcher=watcher)
    return comparison_files(files)
