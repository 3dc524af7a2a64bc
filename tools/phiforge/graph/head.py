"""Let the head compute the last position only: what a generation needs, without the logits of the whole prompt.

The onnxruntime-genai builder can do it too (`prune_lm_head`), but takes the last column of a batch. Its own tokenizer
pads shorter prompts on the right, so their answers would begin with the logits of padding (measured on 0.18:
docs/log.md). Here the last position that is not padding is taken, by the attention mask:

    index = ArgMax(attention_mask, last) + sequence length - total length      for every sequence
    hidden = GatherND(hidden, index)                                           [batch, 1, hidden size]

A graph that is given position ids finds the index by them, with nothing computed from a shape:

    index = ArgMax(position_ids = sum(attention_mask) - 1)

transformers calls it `logits_to_keep=1`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import onnx_ir as ir

from phiforge import errors

if TYPE_CHECKING:
    from collections.abc import Sequence

LOGITS = "logits"
IDS, MASK, POSITIONS = "input_ids", "attention_mask", "position_ids"
PREFIX = "/lm_head/last/"


@dataclass(frozen=True)
class PrunedHead:
    """The parts of a head that computes the last position only."""

    head: ir.Node
    selection: tuple[ir.Node, ...]
    hidden: ir.Value


def prune_head(model: ir.Model) -> None:
    """Put the choice of the last position before the head, in place.

    Raises:
        GraphMismatchError: The graph's head is not one MatMul that gives the logits.
    """
    graph = model.graph
    head, hidden = _head(graph)
    nodes = _selection(graph, hidden)
    graph.insert_before(head, nodes)
    head.replace_input_with(0, nodes[-1].outputs[0])
    _set_logits_positions(graph, 1)


def restore_head(model: ir.Model) -> None:
    """Take the choice of the last position out again, in place, so that all positions reach the head.

    Raises:
        GraphMismatchError: The graph's head is not pruned in the way of `prune_head`.
    """
    pruned = find_pruned_head(model)
    if pruned is None:
        raise _unknown("it gives the logits of every position, or was pruned by another tool")
    pruned.head.replace_input_with(0, pruned.hidden)
    model.graph.remove(pruned.selection, safe=True)
    _set_logits_positions(model.graph, _sequence_length(model.graph))


def find_pruned_head(model: ir.Model) -> PrunedHead | None:
    """The parts of the pruned head; None where the graph's head was not pruned by `prune_head`."""
    selection = tuple(node for node in model.graph if str(node.name).startswith(PREFIX))
    if not selection:
        return None
    head, selected = _head(model.graph)
    last = selected.producer()
    if last is not selection[-1] or last.inputs[0] is None:
        raise _unknown(f"its head does not read what {PREFIX} chooses")
    return PrunedHead(head=head, selection=selection, hidden=last.inputs[0])


def _head(graph: ir.Graph) -> tuple[ir.Node, ir.Value]:
    """The node that gives the logits, and the hidden states it reads."""
    outputs = [value for value in graph.outputs if value.name == LOGITS]
    node = outputs[0].producer() if outputs else None
    if node is None or node.op_type not in {"MatMul", "MatMulNBits"} or node.inputs[0] is None:
        raise _unknown("no MatMul gives its logits")
    return node, node.inputs[0]


def _selection(graph: ir.Graph, hidden: ir.Value) -> list[ir.Node]:
    """The nodes that choose the last real position, in order; the last one gives [batch, 1, hidden size]."""
    positions = [value for value in graph.inputs if value.name == POSITIONS]
    found = _own_by_position(graph, positions[0]) if positions else _own_by_length(graph)
    batch = _batch(graph)
    axis = _node("Constant", [], ir.DataType.INT64, ir.Shape([1]), value_ints=[2])
    index = _node("Unsqueeze", [found[-1].outputs[0], axis.outputs[0]], ir.DataType.INT64, ir.Shape([batch, 1, 1]))
    width = hidden.shape[2] if hidden.shape else None
    kept = _node(
        "GatherND", [hidden, index.outputs[0]], hidden.dtype or ir.DataType.FLOAT, ir.Shape([batch, 1, width]),
        batch_dims=1,
    )  # fmt: skip
    return [*found, axis, index, kept]


def _own_by_length(graph: ir.Graph) -> list[ir.Node]:
    """The nodes of own index = ArgMax(mask, the last one) - (total length - new length), in order."""
    ids, mask, int64 = _input(graph, IDS), _input(graph, MASK), ir.DataType.INT64
    # onnxruntime 1.31 has no ArgMax of int64 on the CPU.
    cast = _node("Cast", [mask], ir.DataType.INT32, mask.shape, to=int(ir.DataType.INT32))
    own_shape = ir.Shape([_batch(graph), 1])
    last = _node("ArgMax", cast.outputs, int64, own_shape, axis=1, keepdims=1, select_last_index=1)
    new = _node("Shape", [ids], int64, ir.Shape([1]), name="new/Shape", start=1, end=2)
    total = _node("Shape", [mask], int64, ir.Shape([1]), name="total/Shape", start=1, end=2)
    past = _node("Sub", [total.outputs[0], new.outputs[0]], int64, ir.Shape([1]))
    own = _node("Sub", [last.outputs[0], past.outputs[0]], int64, own_shape, name="own/Sub")
    return [cast, last, new, total, past, own]


def _own_by_position(graph: ir.Graph, positions: ir.Value) -> list[ir.Node]:
    """The nodes of own index = ArgMax(position = real length - 1), in order.

    A graph with position ids is one for DirectML, where nothing that a shape gives may reach the device: graph capture
    refuses a session that copies between runs.
    """
    mask, int64, own_shape = _input(graph, MASK), ir.DataType.INT64, ir.Shape([_batch(graph), 1])
    axis = _node("Constant", [], int64, ir.Shape([1]), name="one/Constant", value_ints=[1])
    real = _node("ReduceSum", [mask, axis.outputs[0]], int64, own_shape, keepdims=1)
    last = _node("Sub", [real.outputs[0], axis.outputs[0]], int64, own_shape, name="last/Sub")
    is_last = _node("Equal", [positions, last.outputs[0]], ir.DataType.BOOL, positions.shape)
    cast = _node("Cast", is_last.outputs, ir.DataType.INT32, positions.shape, to=int(ir.DataType.INT32))
    own = _node("ArgMax", cast.outputs, int64, own_shape, axis=1, keepdims=1)
    return [axis, real, last, is_last, cast, own]


def _batch(graph: ir.Graph) -> int | ir.SymbolicDim | None:
    mask = _input(graph, MASK)
    return mask.shape[0] if mask.shape else None


def _node(
    operator: str,
    inputs: Sequence[ir.Value],
    dtype: ir.DataType,
    shape: ir.Shape | None,
    *,
    name: str | None = None,
    **attributes: object,
) -> ir.Node:
    full = PREFIX + (name or operator)
    node = ir.node(operator, inputs=list(inputs), attributes=attributes, name=full)  # type: ignore[arg-type]
    output = node.outputs[0]
    output.name, output.type, output.shape = f"{full}/output_0", ir.TensorType(dtype), shape
    return node


def _input(graph: ir.Graph, name: str) -> ir.Value:
    found = [value for value in graph.inputs if value.name == name]
    if not found:
        raise _unknown(f"it has no input {name}")
    return found[0]


def _sequence_length(graph: ir.Graph) -> int | ir.SymbolicDim:
    shape = _input(graph, IDS).shape
    assert shape is not None
    return shape[1]


def _set_logits_positions(graph: ir.Graph, positions: int | ir.SymbolicDim) -> None:
    (output,) = (value for value in graph.outputs if value.name == LOGITS)
    if output.shape is not None:
        output.shape = ir.Shape([output.shape[0], positions, output.shape[2]])


def _unknown(why: str) -> errors.GraphMismatchError:
    return errors.GraphMismatchError(
        "The head of the graph is not what phiforge knows.",
        why=f"{why[0].upper()}{why[1:]}.",
        fix="Build the variant with phiforge, with `logits: last` or `logits: all` in its export pass.",
    )
