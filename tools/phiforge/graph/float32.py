"""Twins of a float16 variant that compute more exactly, with the same graph and the same quantized weights.

The float32 twin runs on the CPU provider and multiplies in floats. Held against it, a variant shows what float16 costs,
and int8 products where it has them; and as
float32 holds what float16 cannot, it shows how large activations really are. The exact twin keeps float16 and its
provider, but multiplies no activations in int8: held against the CPU, it shows whether an adapter computes right. Both
are made for a validation and never shipped.
"""

from __future__ import annotations

import json
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir
from onnx_ir.external_data import convert_tensors_to_external

from phiforge.graph.twin import MODEL_FILE, link_file

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

CONFIG_FILE = "genai_config.json"
FLOATS_FILE = "float32.data"
MAXIMUM = "largest/"
_F16, _F32 = ir.DataType.FLOAT16, ir.DataType.FLOAT
# MatMulNBits' accuracy_level: 1 computes in floats, 4 in int8.
_FLOAT_LEVEL = 1


def is_float16(variant: Path) -> bool:
    """Return whether a variant's graph computes in float16."""
    return any(value.dtype is _F16 for value in ir.load(variant / MODEL_FILE).graph.inputs)


def make_float32_twin(variant: Path, folder: Path, *, maxima: bool = False) -> list[str]:
    """Make the float32 twin of a variant in an empty folder.

    All other files are hard links, or copies where there can be none. Remove the folder after use.

    Args:
        variant: A complete variant folder whose graph is model.onnx, in float16.
        folder: Where to make the twin; must exist.
        maxima: Let the twin give, for every float tensor that a node makes, the largest magnitude in it, as a further
            output called MAXIMUM + the tensor's name.

    Returns:
        The names of those tensors, none without `maxima`.
    """
    for path in variant.iterdir():
        if path.name not in {MODEL_FILE, CONFIG_FILE}:
            link_file(path, folder / path.name)
    _write_config(variant / CONFIG_FILE, folder / CONFIG_FILE)
    model = ir.load(variant / MODEL_FILE)
    _widen_nodes(model.graph)
    _widen_initializers(model.graph, variant, folder)
    made = list(_add_maxima(model.graph)) if maxima else []
    ir.save(model, folder / MODEL_FILE)
    return made


def make_exact_twin(variant: Path, folder: Path) -> None:
    """Make the twin of a variant in an empty folder that multiplies in floats; files are as `make_float32_twin`."""
    for path in variant.iterdir():
        if path.name != MODEL_FILE:
            link_file(path, folder / path.name)
    model = ir.load(variant / MODEL_FILE)
    for node in model.graph.all_nodes():
        _multiply_in_floats(node)
    ir.save(model, folder / MODEL_FILE)


def _multiply_in_floats(node: ir.Node) -> None:
    if "accuracy_level" in node.attributes:
        node.attributes["accuracy_level"] = ir.AttrInt64("accuracy_level", _FLOAT_LEVEL)


def _write_config(source: Path, target: Path) -> None:
    """The genai_config without a provider: the twin runs on the CPU."""
    config = json.loads(source.read_text(encoding="utf-8"))
    config["model"]["decoder"]["session_options"]["provider_options"] = []
    target.write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8", newline="\n")


def _widen_nodes(graph: ir.Graph) -> None:
    for value in (*graph.inputs, *graph.outputs):
        _widen_type(value)
    for node in graph.all_nodes():
        for value in node.outputs:
            _widen_type(value)
        for attribute in list(node.attributes.values()):
            if node.op_type == "Cast" and attribute.name == "to" and attribute.as_int() == int(_F16):
                node.attributes["to"] = ir.AttrInt64("to", int(_F32))
            elif attribute.type is ir.AttributeType.TENSOR and attribute.as_tensor().dtype is _F16:
                wide = ir.tensor(attribute.as_tensor().numpy().astype(np.float32))
                node.attributes[attribute.name] = ir.AttrTensor(attribute.name, wide)
            elif attribute.type is ir.AttributeType.GRAPH:
                for value in attribute.as_graph().outputs:
                    _widen_type(value)
        _multiply_in_floats(node)


def _widen_type(value: ir.Value) -> None:
    if value.dtype is _F16:
        value.type = ir.TensorType(_F32)


def _widen_initializers(graph: ir.Graph, variant: Path, folder: Path) -> None:
    """Give every float16 initializer float32 values in a file of their own, one after another."""
    narrow = [value for value in graph.initializers.values() if value.dtype is _F16 and value.const_value is not None]
    wide = []
    for value in narrow:
        tensor = value.const_value
        assert tensor is not None
        wide.append(ir.LazyTensor(partial(_wide, variant, tensor), dtype=_F32, shape=_shape(tensor), name=value.name))
    for value, external in zip(narrow, convert_tensors_to_external(wide, folder, FLOATS_FILE), strict=True):
        value.const_value, value.type = external, ir.TensorType(_F32)


def _shape(tensor: ir.TensorProtocol) -> ir.Shape:
    return ir.Shape(tensor.shape.numpy())


def _wide(variant: Path, tensor: ir.TensorProtocol) -> ir.TensorProtocol:
    """The tensor in float32; read here, because onnx_ir reads no file with hard links, as the store has them."""
    if isinstance(tensor, ir.ExternalTensor):
        shape = tuple(tensor.shape.numpy())
        file = variant / tensor.location
        mapped = np.memmap(file, dtype="<f2", mode="r", offset=tensor.offset or 0, shape=shape)
        return ir.tensor(mapped.astype(np.float32), name=tensor.name)
    return ir.tensor(tensor.numpy().astype(np.float32), name=tensor.name)


def _add_maxima(graph: ir.Graph) -> Iterator[str]:
    """Add an output for every float tensor that a node of the main graph makes; yield the tensors' names."""
    found = [value for node in graph for value in node.outputs if value.dtype is _F32 and value.name]
    for value in found:
        size = ir.node("Abs", inputs=[value])
        largest = ir.node("ReduceMax", inputs=[size.outputs[0]], attributes={"keepdims": 0})
        output = largest.outputs[0]
        output.name, output.type, output.shape = f"{MAXIMUM}{value.name}", ir.TensorType(_F32), ir.Shape([])
        graph.extend([size, largest])
        graph.outputs.append(output)
        yield str(value.name)
