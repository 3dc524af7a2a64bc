"""Which nodes of a graph compute on integers alone: lengths, positions and indices, a few numbers at each run."""

from __future__ import annotations

from typing import TYPE_CHECKING

import onnx_ir as ir

if TYPE_CHECKING:
    from pathlib import Path

_INTEGERS = frozenset({ir.DataType.INT64, ir.DataType.INT32, ir.DataType.BOOL})


def integer_nodes(path: Path) -> frozenset[str]:
    """Return the names of the nodes of an ONNX file that give integers or truth values, those within branches too.

    A GPU provider may leave these to the CPU; what computes with weights or activations gives floats.
    """
    nodes = ir.load(path).graph.all_nodes()
    return frozenset(str(node.name) for node in nodes if all(value.dtype in _INTEGERS for value in node.outputs))
