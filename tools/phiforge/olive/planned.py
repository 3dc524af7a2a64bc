"""What a planned graph follows from, as the driver tells it to the process that makes it."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict

from phiforge.pipeline import ExportOptions
from phiforge.quantize.spec import QuantSpec


class PlannedGraph(BaseModel):
    """One graph that a build would make, and the table of what its provider has kernels for.

    `tied` is of what is exported, and `specs` the planned quantization by module name.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    checkpoint: Path
    tied: bool
    specs: dict[str, QuantSpec]
    options: ExportOptions
    table: Path
