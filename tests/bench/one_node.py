"""Models of one node, and where onnxruntime places them with the WebGPU plugin."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import onnx
import onnxruntime as ort
from onnx import TensorProto, helper

from phiforge.runtime.failures import ORT_ERRORS
from phiforge.runtime.onnx_runtime import ort_state
from phiforge.runtime.plugins import PLUGINS, SOFTWARE_ADAPTER_VARIABLE, register_plugin

PROVIDER = PLUGINS["webgpu"].provider
MICROSOFT = "com.microsoft"
INT64 = {"enableInt64": "1"}
FIRST_OPSET, LAST_OPSET = 13, 26
IR_VERSION = 10
# Our names of dtypes and ONNX's.
DTYPES = {
    "float32": TensorProto.FLOAT, "float16": TensorProto.FLOAT16, "int32": TensorProto.INT32,
    "uint8": TensorProto.UINT8, "int64": TensorProto.INT64, "bool": TensorProto.BOOL, "uint32": TensorProto.UINT32,
    "int8": TensorProto.INT8, "bfloat16": TensorProto.BFLOAT16, "float64": TensorProto.DOUBLE,
    "int16": TensorProto.INT16, "uint16": TensorProto.UINT16, "uint64": TensorProto.UINT64,
    "int4": TensorProto.INT4, "uint4": TensorProto.UINT4,
}  # fmt: skip
_SCHEMA_NAMES = {"float32": "float", "float64": "double"}
# A parameter of a schema that another one stands for, or the two could not be varied alone.
SAME_TYPE = {("DequantizeLinear", "T3"): "T2"}
# Tried in this order for the parameters that are not varied.
FIRST_TRIED = ("float32", "float16", "int32", "uint8", "int64", "bool", "uint32", "int8")

Shape = tuple[int, ...]
Types = Mapping[str, str]


@dataclass(frozen=True)
class Template:
    """How to make one node: a shape for each input, and what the schema does not tell.

    `types` names the type parameter or dtype of each input where onnx has no schema, `returns` those of the outputs.
    """

    inputs: tuple[Shape, ...]
    attributes: Mapping[str, Any] = field(default_factory=dict)
    types: tuple[str, ...] = ()
    returns: tuple[str, ...] = ()
    required: int = 0
    outputs: int = 1


def _same(shapes: tuple[Shape, ...], names: str, **attributes: Any) -> dict[tuple[str, str], Template]:
    return {("", name): Template(shapes, attributes) for name in names.split()}


_M, _V, _ONE, _S = (2, 4), (4,), (1,), ()
TEMPLATES: dict[tuple[str, str], Template] = {
    **_same((_M, _M), "Add Sub Mul Div Mod Pow Min Max Equal Less LessOrEqual Greater GreaterOrEqual And Or"),
    **_same((_M, _M), "BitwiseAnd BitwiseOr GatherElements"),
    **_same((_M,), "Neg Abs Floor Ceil Sqrt Reciprocal Exp Log Erf Sin Cos Sigmoid Tanh Relu Not Identity Softmax"),
    **_same((_M,), "Cast Shape Transpose ArgMax Gelu Flatten"),
    **_same((_M, _ONE), "ReduceSum ReduceMax ReduceMin ReduceMean Unsqueeze"),
    **_same((_M, (2,)), "Reshape Expand Tile"),
    **_same((_M, _M), "BitShift", direction="LEFT"),
    **_same((_M, _M), "Concat", axis=0),
    **_same((_M, _S, _S), "Clip QuantizeLinear DequantizeLinear"),
    **_same((_M, _M, _M), "Where"),
    **_same((_M, _ONE, _ONE, _ONE, _ONE), "Slice"),
    **_same((_M, (3,)), "Gather"),
    **_same((_M, (1, 1)), "GatherND"),
    **_same((_M, (1, 1), (1, 4)), "ScatterND"),
    **_same((_M, _M, _M), "ScatterElements"),
    **_same(((1, 4), _ONE), "Squeeze"),
    **_same((_S, _S, _S), "Range"),
    **_same((_M, _S), "CumSum Trilu"),
    **_same((_M, (4, 2)), "MatMul"),
    **_same((_M, (4, 2), (2,)), "Gemm"),
    **_same(((2,),), "ConstantOfShape"),
    **_same((_M, _V), "RMSNormalization"),
    **_same(((1, 2, 3, 8), (16, 4), (16, 4), (1, 3)), "RotaryEmbedding"),
    **_same(((1, 2, 3, 8),) * 3, "Attention"),
    ("", "LayerNormalization"): Template((_M, _V, _V), outputs=3),
    ("", "TopK"): Template((_M, _ONE), outputs=2),
    ("", "Split"): Template((_M, (2,)), outputs=2),
    ("", "If"): Template((_S,), {}, ("bool",), ("V",)),
    ("", "SimplifiedLayerNormalization"): Template((_M, _V), {"axis": -1}, ("T", "T"), ("T",)),
    (MICROSOFT, "MatMulNBits"): Template(
        ((2, 32), (16, 1, 16), (16,), (16,), (32,), (16,)),
        {"K": 32, "N": 16, "bits": 4, "block_size": 32},
        ("T1", "T2", "T1", "T3", "T4", "T1"),
        ("T1",),
        required=3,
    ),
    (MICROSOFT, "GatherBlockQuantized"): Template(
        ((16, 16), (3,), (16, 1), (16, 1)),
        {"gather_axis": 0, "quantize_axis": 1, "block_size": 32, "bits": 4},
        ("T1", "Tind", "T2", "T1"),
        ("T2",),
        required=3,
    ),
    (MICROSOFT, "GroupQueryAttention"): Template(
        ((1, 1, 64), (1, 1, 32), (1, 1, 32), (1, 2, 8, 16), (1, 2, 8, 16), _ONE, _S, (16, 8), (16, 8), (1, 1),
         (1, 4, 1, 1), (4,)),
        {"num_heads": 4, "kv_num_heads": 2, "do_rotary": 1},
        ("T", "T", "T", "T", "T", "M", "M", "T", "T", "int64", "T", "T"),
        ("T", "T", "T"),
        required=7,
        outputs=3,
    ),
    (MICROSOFT, "MultiHeadAttention"): Template(
        ((1, 2, 32),) * 3, {"num_heads": 2}, ("T", "T", "T"), ("T",), required=3
    ),
    (MICROSOFT, "RotaryEmbedding"): Template(
        ((1, 2, 32), (1, 2), (16, 8), (16, 8)), {}, ("T", "M", "T", "T"), ("T",), required=4
    ),
    (MICROSOFT, "SkipSimplifiedLayerNormalization"): Template(
        ((1, 2, 8), (1, 2, 8), (8,), (8,)), {}, ("T",) * 4, ("T", "U", "U", "T"), required=3, outputs=4
    ),
    (MICROSOFT, "SkipLayerNormalization"): Template(
        ((1, 2, 8), (1, 2, 8), (8,), (8,), (8,)), {}, ("T",) * 5, ("T", "U", "U", "T"), required=3, outputs=4
    ),
    (MICROSOFT, "FastGelu"): Template((_M, _V), {}, ("T", "T"), ("T",), required=1),
    (MICROSOFT, "QuickGelu"): Template((_M,), {}, ("T",), ("T",), required=1),
    (MICROSOFT, "Gelu"): Template((_M,), {}, ("T",), ("T",), required=1),
    (MICROSOFT, "QuantizeLinear"): Template((_M, _S, _S), {}, ("T1", "T1", "T2"), ("T2",), required=2),
    (MICROSOFT, "DequantizeLinear"): Template((_M, _S, _S), {}, ("T1", "T2", "T1"), ("T2",), required=2),
}  # fmt: skip


@dataclass(frozen=True)
class Signature:
    """The types of an operator's inputs and outputs at one opset, by parameter or dtype; the dtypes of a parameter."""

    since: int
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    required: int
    allowed: Mapping[str, tuple[str, ...]]


def signature(domain: str, name: str, opset: int) -> Signature | None:
    """The types of an operator as of an opset; None where the opset does not have it."""
    template = TEMPLATES[domain, name]
    known_to_onnx = onnx.defs.has(name, opset, domain)
    if template.types:
        since = onnx.defs.get_schema(name, opset, domain).since_version if known_to_onnx else 1
        names = {*template.types, *template.returns} - set(DTYPES)
        allowed = {parameter: tuple(DTYPES) for parameter in names}
        required = template.required or len(template.inputs)
        return Signature(since, template.types, template.returns[: template.outputs], required, allowed)
    if not known_to_onnx:
        return None
    schema = onnx.defs.get_schema(name, opset, domain)
    known = {f"tensor({_SCHEMA_NAMES.get(dtype, dtype)})": dtype for dtype in DTYPES}
    kinds = [schema.inputs[min(k, len(schema.inputs) - 1)] for k in range(len(template.inputs))]
    if schema.inputs[-1].option != onnx.defs.OpSchema.FormalParameterOption.Variadic:
        kinds = kinds[: len(schema.inputs)]
    returned = [schema.outputs[min(k, len(schema.outputs) - 1)] for k in range(template.outputs)]

    def parameter(text: str) -> str:
        return known.get(text, SAME_TYPE.get((name, text), text))

    allowed = {
        constraint.type_param_str: tuple(dtype for text, dtype in known.items() if text in constraint.allowed_type_strs)
        for constraint in schema.type_constraints
        if (name, constraint.type_param_str) not in SAME_TYPE
    }
    return Signature(
        schema.since_version,
        tuple(parameter(kind.type_str) for kind in kinds),
        tuple(parameter(kind.type_str) for kind in returned),
        schema.min_input,
        allowed,
    )


def make_node_model(
    domain: str,
    name: str,
    opset: int,
    types: Types,
    present: Sequence[int],
    attributes: Mapping[str, Any] | None = None,
) -> onnx.ModelProto:
    """A model of one node, called "node"; `types` gives the dtype of every parameter, `present` the inputs it has."""
    template, kinds = TEMPLATES[domain, name], signature(domain, name, opset)
    assert kinds is not None
    inputs = [
        helper.make_tensor_value_info(f"in{k}", DTYPES[types.get(kind, kind)], template.inputs[k])
        for k, kind in enumerate(kinds.inputs)
        if k in present
    ]
    outputs = [
        helper.make_tensor_value_info(f"out{k}", DTYPES[types.get(kind, kind)], None)
        for k, kind in enumerate(kinds.outputs)
    ]
    given = [f"in{k}" if k in present else "" for k in range(max(present, default=-1) + 1)]
    extra = _typed_attributes(name, types)
    node = helper.make_node(
        name, given, [output.name for output in outputs], name="node", domain=domain,
        **{**template.attributes, **extra, **(attributes or {})},
    )  # fmt: skip
    return _model([node], inputs, outputs, opset)


def _typed_attributes(name: str, types: Types) -> dict[str, Any]:
    if name == "Cast":
        return {"to": DTYPES[types["T2"]]}
    if name == "ConstantOfShape":
        return {"value": helper.make_tensor("value", DTYPES[types["T2"]], [1], [1])}
    if name == "If":
        return {f"{branch}_branch": _branch(branch, DTYPES[types["V"]]) for branch in ("then", "else")}
    return {}


def _branch(name: str, dtype: int) -> onnx.GraphProto:
    value = helper.make_node("Constant", [], [name], value=helper.make_tensor("value", dtype, [1], [1]))
    return helper.make_graph([value], name, [], [helper.make_tensor_value_info(name, dtype, [1])])


def _model(nodes: Sequence[Any], inputs: Sequence[Any], outputs: Sequence[Any], opset: int) -> onnx.ModelProto:
    graph = helper.make_graph(nodes, "one", inputs, outputs)
    opsets = [helper.make_opsetid("", opset), helper.make_opsetid(MICROSOFT, 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION)


@cache
def _devices() -> tuple[Any, ...]:
    os.environ.setdefault(SOFTWARE_ADAPTER_VARIABLE, "1")
    ort.set_default_logger_severity(4)
    return tuple(register_plugin("webgpu"))


def placements(
    model: onnx.ModelProto, options: Mapping[str, str], *, optimized: Path | None = None
) -> dict[str, str] | None:
    """The provider of each node by its name; nothing where a node has no kernel, None where the model is invalid."""
    try:
        session = make_session(model, options, optimized=optimized)
    except ort_state.NotImplemented:
        return {}
    except ORT_ERRORS:
        return None
    found = session.get_provider_graph_assignment_info()
    return {node.name: subgraph.ep_name for subgraph in found for node in subgraph.get_nodes()}


def make_session(
    model: onnx.ModelProto, options: Mapping[str, str], *, optimized: Path | None = None
) -> ort.InferenceSession:
    """A session by the plugin, without graph optimization, that records where nodes are placed."""
    settings = ort.SessionOptions()
    settings.log_severity_level = 4
    settings.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    settings.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    if optimized is not None:
        settings.optimized_model_filepath = str(optimized)
    settings.add_provider_for_devices(list(_devices()), dict(options))
    return ort.InferenceSession(model.SerializeToString(), settings)


def accepted(model: onnx.ModelProto, options: Mapping[str, str]) -> bool:
    """Whether the plugin takes the one node of a model."""
    placed = placements(model, options)
    return placed is not None and placed.get("node") == PROVIDER  # not there if it is a function, and inlined
