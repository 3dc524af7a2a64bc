"""Read a variant's graph back from disk and check that it is the planned one."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

import onnx_ir as ir
from google.protobuf.message import DecodeError

from phiforge import errors
from phiforge.graph.head import find_pruned_head
from phiforge.graph.unpack import PREFIX, find_unpacked

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from phiforge.plan import WeightPlan


@dataclass(frozen=True, kw_only=True)
class QuantizedNode:
    """One node over quantized weights: [rows, columns] in `bits`, a scale for every `block_size` columns."""

    name: str
    operator: str
    rows: int
    columns: int
    bits: int
    block_size: int
    symmetric: bool


@dataclass(frozen=True, kw_only=True)
class GraphFacts:
    """What is in a decoder's graph; `last_logits` says that it gives the logits of the last position alone."""

    operators: dict[str, int]
    quantized: tuple[QuantizedNode, ...]
    initializer_bytes: int
    last_logits: bool
    opset: int


def inspect_graph(path: Path) -> GraphFacts:
    """Read the facts of an ONNX file; its external data is checked for presence and size, not read.

    Raises:
        GraphMismatchError: The file is no ONNX model, or its external data is absent or too short.
    """
    try:
        model = ir.load(path)
    except (OSError, ValueError, DecodeError) as error:
        raise _mismatch(f"{path.name} cannot be read as an ONNX model.", str(error)) from error
    _check_external_data(model, path)
    return GraphFacts(
        operators=dict(sorted(Counter(node.op_type for node in model.graph.all_nodes()).items())),
        quantized=tuple(_quantized_nodes(model.graph)),
        initializer_bytes=sum(v.const_value.nbytes for v in model.graph.initializers.values() if v.const_value),
        last_logits=find_pruned_head(model) is not None,
        opset=model.opset_imports.get("", 0),
    )


def check_graph(facts: GraphFacts, weights: Sequence[WeightPlan], *, tied: bool, last_logits: bool = False) -> None:
    """Check that the graph quantizes exactly the planned weights, with the planned bits and blocks.

    Args:
        facts: The graph as it is on disk.
        weights: The plan's weights.
        tied: Whether head and embedding are one weight, so that the plan names it once.
        last_logits: Whether the plan asks for the logits of the last position alone.

    Raises:
        GraphMismatchError: Weights differ in number, bits, blocks or symmetry, a MatMul is left unquantized, or the
            graph gives the logits of other positions.
    """
    planned = Counter[tuple[int, int, bool]]()
    for weight in weights:
        uses = 2 if tied and weight.module == "model.embed_tokens" else 1
        planned[weight.spec.bits, weight.spec.block_size, weight.spec.symmetric] += uses * weight.weights
    found = Counter[tuple[int, int, bool]]()
    for node in facts.quantized:
        found[node.bits, node.block_size, node.symmetric] += node.rows * node.columns
    if planned != found:
        raise _mismatch(
            "The graph does not quantize what the plan says.", f"planned {_told(planned)}; found {_told(found)}"
        )
    if facts.operators.get("MatMul"):
        raise _mismatch("The graph holds unquantized MatMuls.", f"{facts.operators['MatMul']} nodes")
    if facts.last_logits != last_logits:
        told = ["every position", "the last position"]
        why = f"planned {told[last_logits]}; found {told[facts.last_logits]}"
        raise _mismatch("The graph gives the logits of other positions than the plan says.", why)


def _quantized_nodes(graph: ir.Graph) -> Iterator[QuantizedNode]:
    for node in graph.all_nodes():
        if node.op_type == "MatMulNBits":
            rows, columns = _integer(node, "N"), _integer(node, "K")
        elif node.op_type == "GatherBlockQuantized":
            scales = node.inputs[2]
            assert scales is not None and scales.shape is not None
            rows, blocks = scales.shape.numpy()
            columns = blocks * _integer(node, "block_size")
        else:
            continue
        yield QuantizedNode(
            name=node.name or "",
            operator=node.op_type,
            rows=rows,
            columns=columns,
            bits=_integer(node, "bits"),
            block_size=_integer(node, "block_size"),
            symmetric=len(node.inputs) < 4 or node.inputs[3] is None,
        )
    table = find_unpacked(graph)
    if table is not None:
        yield QuantizedNode(name=PREFIX, operator="Gather", **vars(table))


def _integer(node: ir.Node, name: str) -> int:
    return node.attributes[name].as_int()


def _check_external_data(model: ir.Model, path: Path) -> None:
    for name, value in model.graph.initializers.items():
        tensor = value.const_value
        if not isinstance(tensor, ir.ExternalTensor):
            continue
        file = path.parent / tensor.location
        end = (tensor.offset or 0) + (tensor.length or math.prod(tensor.shape.numpy()) * tensor.dtype.itemsize)
        if not file.is_file() or file.stat().st_size < end:
            raise _mismatch(
                f"The weights of {path.name} are incomplete.", f"{name} ends at byte {end:.0f} of {tensor.location}"
            )


def _told(counts: Counter[tuple[int, int, bool]]) -> str:
    return ", ".join(
        f"{weights} weights in int{bits} blocks of {block} {'symmetric' if symmetric else 'asymmetric'}"
        for (bits, block, symmetric), weights in sorted(counts.items())
    )


def _mismatch(what: str, why: str) -> errors.GraphMismatchError:
    return errors.GraphMismatchError(
        what, why=why, fix="Build again; if it happens again, report it with the checkpoint's config.json and the plan."
    )
