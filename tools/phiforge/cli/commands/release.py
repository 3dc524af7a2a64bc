"""Commands about what is shipped: reports, checks, releases."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

from phiforge.cli import render
from phiforge.cli.options import Output, app


@app.command()
def report(
    package: Annotated[Path, typer.Argument(help="A package (.ortpackage folder).")],
    output: Output = Path("artifacts/report"),
    evidence: Annotated[
        Optional[list[Path]],
        typer.Option("--evidence", "-e", help="An evidence file from a device, or a single record; may be repeated."),
    ] = None,
) -> int:
    """Judge a package's evidence again and write its reports (JSON, Markdown, HTML).

    What `phiforge measure` wrote on other machines is merged: it must be of this very package.
    """
    from phiforge.verbs.report import report as run

    return render.reports(run(package, output=output, evidence=evidence or ()))


@app.command()
def verify(package: Annotated[Path, typer.Argument(help="A package (.ortpackage folder).")]) -> int:
    """Find any changed, missing or added file of a package."""
    from phiforge.verbs.verify import verify as run

    return render.verification(run(package))
