"""Move the rotary tables out of the graph file, into the file of the weights.

The onnxruntime-genai builder writes the cosines and sines of longrope as Constant nodes into the branches of an If:
52 MB within model.onnx for 131,072 positions, parsed and copied by everyone who opens it. As initializers of the main
graph they lie beside the weights, where the runtime maps them, and the branches hold an Identity for each, because a
branch may not give a value of the graph around it as it is.
"""

from __future__ import annotations

import onnx_ir as ir

# Smaller constants stay where they are: shapes and indices, which shape inference reads.
SMALLEST_TABLE_BYTES = 1024
PREFIX = "model.rotary."


def move_tables_out(model: ir.Model) -> int:
    """Make every large Constant within a branch an initializer of the main graph, in place; return their bytes.

    Results do not change. Save the model with external data afterwards.
    """
    moved = 0
    for node in model.graph:
        for attribute in node.attributes.values():
            if attribute.type is ir.AttributeType.GRAPH:
                moved += sum(_move(model.graph, constant) for constant in _tables(attribute.as_graph()))
    return moved


def _tables(branch: ir.Graph) -> list[ir.Node]:
    constants = [node for node in branch if node.op_type == "Constant" and "value" in node.attributes]
    return [node for node in constants if node.attributes["value"].as_tensor().nbytes >= SMALLEST_TABLE_BYTES]


def _move(graph: ir.Graph, constant: ir.Node) -> int:
    tensor, old = constant.attributes["value"].as_tensor(), constant.outputs[0]
    name, shape = f"{PREFIX}{old.name}", ir.Shape(tensor.shape.numpy())
    table = ir.Value(name=name, type=ir.TensorType(tensor.dtype), shape=shape, const_value=tensor)
    graph.register_initializer(table)
    node = ir.node("Identity", inputs=[table], name=f"{str(constant.name).removesuffix('/Constant')}/Identity")
    new = node.outputs[0]
    new.name, new.type, new.shape = old.name, old.type, old.shape
    branch = constant.graph
    assert branch is not None
    branch.insert_before(constant, node)
    old.replace_all_uses_with(new, replace_graph_outputs=True)
    branch.remove(constant, safe=True)
    return tensor.nbytes
