"""The table of the WebGPU provider, and what is told from it, against where onnxruntime places nodes by the plugin."""

from __future__ import annotations

import tempfile
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper

from bench.one_node import (
    FIRST_OPSET,
    FIRST_TRIED,
    INT64,
    LAST_OPSET,
    MICROSOFT,
    PROVIDER,
    TEMPLATES,
    Signature,
    accepted,
    make_node_model,
    make_session,
    placements,
    signature,
)  # fmt: skip
from bench.webgpu_kernels import REFUSED_INPUTS, measure_all
from phiforge.checkpoint.nano import CHECKPOINT_DIR
from phiforge.graph.conformance import ProviderTable, check_conformance, load_provider
from phiforge.graph.conformance.table import Kernel
from phiforge.olive.builder import build_graph
from phiforge.runtime.failures import ORT_ERRORS

PROVIDERS = Path(__file__).parents[2] / "targets" / "providers"
TABLE, DIRECTML = (load_provider(PROVIDERS / f"{name}.toml") for name in ("webgpu", "directml"))
# The builder's opset in the middle.
OPSETS = (FIRST_OPSET, 22, LAST_OPSET)
SEEDS = range(60)
CAPTURE = {"enableGraphCapture": "1"}
COPY = "_WebGpuExecutionProvider"


def fits(model: onnx.ModelProto, options: Mapping[str, str]) -> bool:
    """Whether the table takes the one node of a model."""
    return not check_conformance(ir.serde.deserialize_model(model), TABLE.under(options)).misfits


def signatures(domain: str, name: str) -> Iterator[tuple[int, Signature]]:
    """The operator's types at each opset that changes them."""
    known = set[int]()
    for opset in OPSETS:
        kinds = signature(domain, name, opset)
        if kinds is not None and kinds.since not in known:
            known.add(kinds.since)
            yield opset, kinds


def types_taken(domain: str, name: str, kinds: Signature) -> dict[str, str]:
    """A dtype for each parameter, one that the table takes if it takes any."""
    types = {parameter: allowed[0] for parameter, allowed in kinds.allowed.items()}
    for row in TABLE.operator:
        if (row.domain, row.name) != (domain, name) or kinds.since not in row.since or row.needs:
            continue
        for places, entries in ((kinds.inputs, row.inputs), (kinds.outputs, row.outputs)):
            for place, parameter in enumerate(places):
                taken = entries[min(place, len(entries) - 1)].split()
                if parameter in types:
                    types[parameter] = next(dtype for dtype in FIRST_TRIED if dtype in taken)
    return types


def test_the_table_has_what_is_measured_and_no_more() -> None:
    assert {(row.domain, row.name) for row in TABLE.operator} <= TEMPLATES.keys()


@pytest.mark.parametrize(("domain", "name"), TEMPLATES, ids=[name for _, name in TEMPLATES])
def test_the_plugin_takes_what_the_table_says(domain: str, name: str) -> None:
    """Both ways: each dtype of each parameter, at opsets that differ, those refused among them."""
    for opset, kinds in signatures(domain, name):
        present = [place for place in range(len(kinds.inputs)) if place not in REFUSED_INPUTS.get((domain, name), ())]
        base = types_taken(domain, name, kinds)
        for parameter, dtype in {*base.items(), *((p, dtype) for p, of in kinds.allowed.items() for dtype in of)}:
            model = make_node_model(domain, name, opset, {**base, parameter: dtype}, present)
            for options in ({}, INT64) if dtype == "int64" else ({},):
                placed = placements(model, options)
                if placed is not None:
                    told = (opset, {**base, parameter: dtype}, options, placed)
                    assert fits(model, options) == (placed.get("node") == PROVIDER), told


@pytest.mark.parametrize("name", ["Clip", "If", "MatMulNBits", "GroupQueryAttention"])
def test_a_row_is_as_it_is_measured(name: str) -> None:
    """Memory and limits of attributes too."""
    measured = [Kernel.model_validate(row) for text in measure_all([name]) for row in tomllib.loads(text)["operator"]]
    assert measured == [row for row in TABLE.operator if row.name == name]


@pytest.mark.parametrize("bits", range(1, 9))
def test_bits(bits: int) -> None:
    types = {"T1": "float16", "T2": "uint8", "T3": "uint8"}
    model = make_node_model(MICROSOFT, "MatMulNBits", 22, types, [0, 1, 2, 3], {"bits": bits})
    assert fits(model, {}) == accepted(model, {}) == (bits in (2, 4, 8))


def test_what_is_refused_when_it_runs() -> None:
    types = {"T1": "float16", "T2": "uint8", "T3": "uint8", "T4": "int32", "T": "float16", "M": "int32"}
    by_index = make_node_model(MICROSOFT, "MatMulNBits", 22, types, [0, 1, 2, 3, 4])
    scores = make_node_model(MICROSOFT, "GroupQueryAttention", 22, types, range(9), {"qk_output": 1})
    for model, why in ((by_index, "group_idx as input is not supported"), (scores, "qk_output attribute is not supp")):
        assert accepted(model, {})
        assert not fits(model, {})
        session = make_session(model, {})
        with pytest.raises(ORT_ERRORS, match=why):
            session.run(None, {value.name: ones(value) for value in model.graph.input})


def ones(value: onnx.ValueInfoProto) -> np.ndarray:
    shape = [size.dim_value for size in value.type.tensor_type.shape.dim]
    # The lengths of a sequence of one token: seqlens_k counts from 0.
    number = 0 if value.name == "in5" else 1
    return np.full(shape, number, helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type))


def real_and_told(
    model: onnx.ModelProto, options: Mapping[str, str], table: ProviderTable
) -> tuple[set[str], set[str], set[str], set[str]]:
    """The nodes on the CPU, really and as told, and the values that are copied, really and as told."""
    told = check_conformance(ir.serde.deserialize_model(model), table.under(options))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "optimized.onnx"
        placed = placements(model, options, optimized=path)
        assert placed is not None
        nodes = onnx.load(path, load_external_data=False).graph.node
    assert len(placed) == told.nodes
    on_cpu = {node for node, provider in placed.items() if provider != PROVIDER}
    copied = {node.input[0].removesuffix(COPY) for node in nodes if node.op_type.startswith("Memcpy")}
    return (
        on_cpu,
        {misfit.node for misfit in told.misfits} | set(told.moved),
        copied,
        {crossing.value for crossing in told.crossings},
    )


@pytest.mark.parametrize("options", [{}, INT64], ids=["plain", "int64"])
@pytest.mark.parametrize("provider", ["webgpu", "dml"])
def test_a_decoder_is_placed_as_told(provider: str, options: dict[str, str], tmp_path: Path) -> None:
    """The builder's float16 graphs for two providers, each node and each copy, those in an If too.

    DirectML takes its own whole, and the other not.
    """
    model = build_graph(
        CHECKPOINT_DIR, tmp_path, provider=provider, stop_ids=[0], max_length=64, floats=ir.DataType.FLOAT16
    )
    told = check_conformance(model, DIRECTML)
    assert bool(told.misfits) == bool(told.crossings) == (provider == "webgpu")
    for value in model.graph.initializers.values():
        if isinstance(value.const_value, ir.LazyTensor):
            shape, dtype = value.const_value.shape.numpy(), value.const_value.dtype.numpy()
            value.const_value = ir.tensor(np.zeros(shape, dtype), name=value.name)
    on_cpu, told_on_cpu, copied, told_copied = real_and_told(ir.serde.serialize_model(model), options, TABLE)
    assert on_cpu == told_on_cpu
    assert copied == told_copied
    assert copied


class Random:
    """A random graph of shape arithmetic around a few float operators, by which placement can be told wrong."""

    def __init__(self, seed: int) -> None:
        self.random = np.random.default_rng(seed)
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        self.values = {"half": "float16", "full": "float32", "ids": "int64", "counts": "int32"}
        # Vectors are of one element but for shapes, so that any two can be added.
        self.shapes: list[str] = []
        self.inputs = [
            helper.make_tensor_value_info(name, _ONNX[dtype], ["a", "b"] if dtype.startswith("float") else [1])
            for name, dtype in self.values.items()
        ]

    def constant(self, dtype: str, elements: int) -> str:
        name = f"constant{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.zeros(elements, dtype), name))
        return name

    def pick(self, *dtypes: str) -> str:
        found = [name for name, dtype in self.values.items() if dtype in dtypes and name not in self.shapes]
        return str(self.random.choice(found))

    def node(self, operator: str, inputs: list[str], dtype: str, *, shape: bool = False, **attributes: Any) -> None:
        output = f"value{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, inputs, [output], name=f"node{len(self.nodes)}", **attributes))
        self.values[output] = dtype
        if shape:
            self.shapes.append(output)

    def grow(self) -> None:
        floats, whole = self.pick("float16", "float32"), self.pick("int64", "int32")
        dtype, of = self.values[whole], self.values[floats]
        other = self.pick(dtype) if self.random.random() < 0.5 else self.constant(dtype, 1)
        match self.random.integers(13):
            case 0 | 1:
                self.node("Shape", [floats if self.random.random() < 0.8 else whole], "int64", shape=True)
            case 2 | 3 if self.shapes:
                self.node("Gather", [str(self.random.choice(self.shapes)), self.constant("int64", 1)], "int64")
            case 4:
                to = str(self.random.choice(["int32", "int64"]))
                self.node("Cast", [whole], to, to=_ONNX[to])
            case 5 | 6:
                self.node(str(self.random.choice(["Add", "Mul", "Max"])), [whole, other], dtype)
            case 7:
                self.node("Clip", [whole, "", other], dtype)
            case 8:
                large = self.random.random() < 0.5
                self.node("Gather", [self.constant(dtype, 101 if large else 100), self.pick("int64")], dtype)
            case 9:
                self.node("Neg", [floats], of)
            case 10:
                pair = [self.pick("int64"), self.pick("int64")]
                self.node("Concat", pair, "int64", shape=True, axis=0)
            case 11 if self.shapes:
                self.node("Expand", [floats, str(self.random.choice(self.shapes))], of)
            case _:
                self.node("ReduceSum", [whole, self.constant("int64", 1)], dtype, keepdims=1)

    def model(self) -> onnx.ModelProto:
        for _ in range(14):
            self.grow()
        used = {name for node in self.nodes for name in node.input}
        outputs = [
            helper.make_tensor_value_info(name, _ONNX[dtype], None)
            for name, dtype in self.values.items()
            if name.startswith("value") and name not in used
        ]
        types = [helper.make_tensor_value_info(name, _ONNX[dtype], None) for name, dtype in self.values.items()]
        graph = helper.make_graph(
            self.nodes, "random", self.inputs, outputs, self.constants, value_info=types[len(self.inputs) :]
        )
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 22)], ir_version=10)


_ONNX = {
    "float16": TensorProto.FLOAT16,
    "float32": TensorProto.FLOAT,
    "int32": TensorProto.INT32,
    "int64": TensorProto.INT64,
}


@pytest.mark.parametrize("layout", ["NHWC", "NCHW"])
@pytest.mark.parametrize("seed", SEEDS)
def test_random_graphs_are_placed_as_told(seed: int, layout: str) -> None:
    """With NCHW the plugin leaves shape arithmetic to the CPU, by the rule that DirectML follows too."""
    options = {**(INT64 if seed % 2 else {}), "preferredLayout": layout}
    table = TABLE.model_copy(update={"moves_shapes": True}) if layout == "NCHW" else TABLE
    on_cpu, told_on_cpu, copied, told_copied = real_and_told(Random(seed).model(), options, table)
    assert on_cpu == told_on_cpu
    assert copied == told_copied


def test_random_graphs_have_what_can_be_told_wrong() -> None:
    moving = TABLE.model_copy(update={"moves_shapes": True})
    found = [
        check_conformance(ir.serde.deserialize_model(Random(seed).model()), moving.under(INT64 if seed % 2 else {}))
        for seed in SEEDS
    ]
    for kind in ("moved", "misfits", "crossings"):
        assert sum(len(getattr(told, kind)) for told in found) > len(SEEDS) // 2


@pytest.mark.parametrize(("copies", "control_flow"), [(False, False), (True, False), (False, True)])
def test_graph_capture_wants_neither_copies_nor_control_flow(copies: bool, control_flow: bool) -> None:
    """Why crossings are told, and why no session with graph capture holds an If; DirectML has the same rule."""
    nodes = [helper.make_node("Neg", ["x"], ["y"], name="neg")]
    if copies:
        nodes.append(helper.make_node("Det", ["y"], ["z"], name="det"))
    if control_flow:
        one = helper.make_node("Constant", [], ["v"], value=helper.make_tensor("v", TensorProto.FLOAT, [1], [1]))
        branch = helper.make_graph([one], "branch", [], [helper.make_tensor_value_info("v", TensorProto.FLOAT, [1])])
        nodes.append(helper.make_node("If", ["yes"], ["z"], name="if", then_branch=branch, else_branch=branch))
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 2])]
    inputs += [helper.make_tensor_value_info("yes", TensorProto.BOOL, [])] if control_flow else []
    y, z = (helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in "yz")
    graph = helper.make_graph(nodes, "captured", inputs, [z] if len(nodes) > 1 else [y], value_info=[y])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    told = check_conformance(ir.serde.deserialize_model(model), TABLE.under(CAPTURE))
    assert [crossing.value for crossing in told.crossings] == (["y"] if copies else [])
    if not (copies or control_flow):
        assert placements(model, CAPTURE) == {"neg": PROVIDER}
        return
    with pytest.raises(ORT_ERRORS, match="control flow nodes" if control_flow else "have not been partitioned"):
        make_session(model, CAPTURE)
