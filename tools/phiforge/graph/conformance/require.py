"""Whether a variant for a GPU may be: what its provider must take, and what it may leave to the CPU."""

from __future__ import annotations

from typing import TYPE_CHECKING

from phiforge import errors
from phiforge.graph.conformance.check import NAMED_NODES, require_conformance
from phiforge.graph.conformance.table import load_provider
from phiforge.pipeline import PROVIDER_OPTIONS

if TYPE_CHECKING:
    from pathlib import Path

    import onnx_ir as ir

    from phiforge.graph.conformance.check import Conformance


def conform_to(model: ir.Model, table_file: Path) -> Conformance:
    """Check a graph against what a provider has kernels for.

    DirectML must take every node and copy nothing, or its graph capture refuses the session; WebGPU may leave lengths
    and positions to the CPU.

    Args:
        model: A typed graph; its weights are not read.
        table_file: The provider's table, in targets/providers/.

    Raises:
        ConformanceError: The provider would leave nodes to the CPU, or copy values at every run.
        ProfileInvalidError: The table cannot be used.
    """
    table = load_provider(table_file)
    table = table.under(PROVIDER_OPTIONS[table.provider])
    strict = table.provider == "dml"
    found = require_conformance(model, table, integers_on_cpu=not strict)
    if strict and found.crossings:
        named = [f"{item.value}, from {item.producer} to {item.consumer}" for item in found.crossings[:NAMED_NODES]]
        more = len(found.crossings) - len(named)
        raise errors.ConformanceError(
            f"{len(found.crossings)} values would be copied between CPU and GPU at every run.",
            why=f"With graph capture {table.execution_provider} refuses such a session: {'; '.join(named)}"
            + (f"; and {more} more" if more else "")
            + ".",
            fix="Build with the pipeline of the profile; docs/conformance.md tells how such copies are found.",
        )
    return found
