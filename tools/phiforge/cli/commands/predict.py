"""Commands that say what nobody has measured."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

from phiforge.cli.options import Output, Project, app


@app.command()
def predict(
    subjects: Annotated[list[Path], typer.Argument(help="Packages, built variants or model folders.")],
    target: Annotated[
        Optional[str], typer.Option("--target", "-t", help="A device profile; by default those of the package.")
    ] = None,
    evidence: Annotated[
        Optional[list[Path]],
        typer.Option("--evidence", "-e", help="Measured latency beside the package's own; may be repeated."),
    ] = None,
    fit: Annotated[bool, typer.Option("--fit", help="Fit the efficiencies to the measured latency.")] = False,
    bandwidth: Annotated[
        Optional[float],
        typer.Option(
            "--bandwidth-bytes-per-s", min=1, help="Of the machine that measured; if it is this one, measured now."
        ),
    ] = None,
    operations: Annotated[
        Optional[float],
        typer.Option("--operations-per-s", min=1, help="Of the machine that measured, in the type of the products."),
    ] = None,
    output: Output = Path("artifacts/predicted"),
    project: Project = None,
) -> int:
    """Predict speed and memory on a device from the graph and the device's rates; nothing is run.

    The kind of every such number is *predicted*, and no budget passes by it. What was measured of the same variant is
    printed beside it; with the rates of the machine that measured, so is the prediction's error.
    """
    from phiforge.cli.prediction import show_predictions
    from phiforge.verbs.predict import predict as run

    found = run(
        subjects,
        output=output,
        target=target,
        evidence=evidence or (),
        fit=fit,
        bandwidth_bytes_per_s=bandwidth,
        operations_per_s=operations,
        project=project,
    )
    return show_predictions(found)
