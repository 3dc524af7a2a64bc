"""Check that the graphs of a decoder in stages are the planned ones: every weight once in each length, in its bits."""

from __future__ import annotations

import re
from collections import Counter
from typing import TYPE_CHECKING

import onnx_ir as ir
from google.protobuf.message import DecodeError

from phiforge import errors

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from phiforge.plan import NpuPlan, WeightPlan

CODES = ".codes"
_BITS = {ir.DataType.INT4: 4, ir.DataType.INT8: 8}
# (bits, weights that share a scale) of a weight; a row's length where a row has one scale.
Stored = tuple[int, int]


def check_stages(folder: Path, weights: Sequence[WeightPlan], plan: NpuPlan, *, tied: bool) -> dict[str, int]:
    """Return the operators of all stages, counted with those of one length only.

    Args:
        folder: The graphs before compilation.
        weights: The plan's weights.
        plan: Parts and window.
        tied: Whether head and embedding are one weight, so that the plan names it once.

    Raises:
        GraphMismatchError: A stage is absent or unreadable, or weights differ from the plan in number, bits or blocks.
    """
    prefill = [_load(folder / f"prefill_{part}.onnx") for part in range(len(plan.parts))]
    decode = [_load(folder / f"decode_{part}.onnx") for part in range(len(plan.parts))]
    planned = Counter(_planned(weights))
    for name, graphs in (("prefill", prefill), ("decode", decode)):
        found = Counter(_stored(graphs))
        if found != planned:
            raise _mismatch(
                f"The {name} graphs do not hold the layers' weights as the plan says.",
                f"planned {_told(planned)}; found {_told(found)}",
            )
    others = [_load(path) for path in sorted(folder.glob("*.onnx")) if not re.match(r"(prefill|decode)_", path.name)]
    ends = sum(weight.weights for weight in weights if not _in_layer(weight)) * (2 if tied else 1)
    for first in (prefill[0], decode[0]):
        held = sum(map(_end_weights, others)) + _table_weights(first)
        if held != ends:
            raise _mismatch(
                "Embedding and head do not hold the weights that the plan says.", f"planned {ends:,}; found {held:,}"
            )
    return dict(sorted(Counter(node.op_type for graph in (*prefill, *others) for node in graph).items()))


def _load(path: Path) -> ir.Graph:
    try:
        return ir.load(path).graph
    except (OSError, ValueError, DecodeError) as error:
        raise _mismatch(f"{path.name} cannot be read as an ONNX model.", str(error)) from error


def _in_layer(weight: WeightPlan) -> bool:
    return weight.module.startswith("model.layers.")


def _planned(weights: Sequence[WeightPlan]) -> Counter[Stored]:
    counts: Counter[Stored] = Counter()
    for weight in filter(_in_layer, weights):
        spec = weight.spec
        counts[spec.bits, weight.columns if spec.per_channel else spec.block_size] += weight.weights
    return counts


def _stored(graphs: Iterable[ir.Graph]) -> Counter[Stored]:
    counts: Counter[Stored] = Counter()
    for graph in graphs:
        for node in graph:
            codes = node.inputs[0] if node.op_type == "DequantizeLinear" else None
            if codes is None or codes.name is None or not codes.name.endswith(CODES) or codes.shape is None:
                continue
            columns, rows = codes.shape.numpy()
            assert codes.dtype is not None
            counts[_BITS[codes.dtype], node.attributes.get_int("block_size", columns)] += rows * columns
    return counts


def _end_weights(graph: ir.Graph) -> int:
    """The weights of an embedding or a head: codes of blocks on the CPU, of a transposed matrix on the NPU."""
    total = _stored([graph]).total()
    for node in graph:
        if node.op_type == "MatMulNBits":
            total += node.attributes["K"].as_int() * node.attributes["N"].as_int()
        elif node.op_type == "GatherBlockQuantized":
            codes = node.inputs[0]
            assert codes is not None and codes.shape is not None
            rows, width = codes.shape.numpy()
            total += rows * width * 8 // node.attributes["bits"].as_int()
    return total


def _table_weights(graph: ir.Graph) -> int:
    """The weights of an embedding on the NPU: the values of the table that the first part looks tokens up in."""
    tables = [node.inputs[0] for node in graph if node.op_type == "Gather"]
    return sum(table.shape.numpy()[0] * table.shape.numpy()[1] for table in tables if table and table.shape)


def _told(counts: Counter[Stored]) -> str:
    listed = [
        f"{weights:,} weights in int{bits}, {block} to a scale" for (bits, block), weights in sorted(counts.items())
    ]
    return ", ".join(listed) or "none"


def _mismatch(what: str, why: str) -> errors.GraphMismatchError:
    return errors.GraphMismatchError(
        what, why=f"{why}.", fix="Build again; if it happens again, report it with the checkpoint's config.json."
    )
