"""What is told of a graph by the table of a provider."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from phiforge import errors
from phiforge.graph.conformance import ProviderTable, check_conformance, load_provider, require_conformance
from unit.graphs import BOOL, BYTE, HALF, INT, LONG, MICROSOFT, Graph

PROVIDERS = Path(__file__).parents[2] / "targets" / "providers"
DIRECTML, WEBGPU = (load_provider(PROVIDERS / f"{name}.toml") for name in ("directml", "webgpu"))


def why(graph: Graph, table: ProviderTable, opset: int = 22) -> str:
    """The reasons why nodes are not taken."""
    return "; ".join(misfit.why for misfit in check_conformance(graph.model(opset), table).misfits)


def multiplied(graph: Graph, hidden: ir.Value, *, bits: int = 4, columns: int = 64, **inputs: ir.Value) -> ir.Value:
    """A MatMulNBits over placeholders; `inputs` may be zero_points, g_idx and bias."""
    rows, blocks = 16, columns // 32
    given_inputs: list[ir.Value | None] = [
        hidden,
        graph.weight(BYTE, rows, blocks, 4 * bits),
        graph.weight(HALF, rows, blocks),
    ]
    given_inputs += [inputs.get(name) for name in ("zero_points", "g_idx", "bias")]
    while given_inputs[-1] is None:
        given_inputs.pop()
    return graph.node("MatMulNBits", given_inputs, HALF, domain=MICROSOFT, bits=bits, K=columns, N=rows, block_size=32)


def decoder(layers: int) -> Graph:
    """What the builder makes for DirectML, but for names, with weights that cannot be read."""
    graph = Graph(input_ids=LONG, attention_mask=LONG, position_ids=LONG)
    summed = graph.node("ReduceSum", [graph["attention_mask"], graph.constant([1])], LONG, keepdims=0)
    lengths = graph.node("Cast", [graph.node("Sub", [summed, graph.constant([1])], LONG)], INT, to=int(INT))
    size = graph.node("Shape", [graph["attention_mask"]], LONG)
    total = graph.node("Cast", [graph.node("Gather", [size, graph.constant(1)], LONG)], INT, to=int(INT))
    hidden = graph.node("Gather", [graph.weight(HALF, 200_000, 5_120), graph["input_ids"]], HALF)
    cosines, sines = graph.weight(HALF, 4096, 48), graph.weight(HALF, 4096, 48)
    normed = graph.node("SimplifiedLayerNormalization", [hidden, graph.weight(HALF, 5_120)], HALF)
    for _ in range(layers):
        query, key, value = (multiplied(graph, normed) for _ in range(3))
        query, key = (
            graph.node("RotaryEmbedding", [part, graph["position_ids"], cosines, sines], HALF, domain=MICROSOFT)
            for part in (query, key)
        )
        attended = graph.node(
            "GroupQueryAttention", [query, key, value, graph.weight(HALF, 1), graph.weight(HALF, 1), lengths, total],
            HALF, HALF, HALF, domain=MICROSOFT, num_heads=4, kv_num_heads=2, do_rotary=0, softcap=0.0,
        )  # fmt: skip
        normed = graph.node(
            "SkipSimplifiedLayerNormalization", [hidden, multiplied(graph, attended), graph.weight(HALF, 5_120)], HALF,
            domain=MICROSOFT,
        )  # fmt: skip
        gate, up = multiplied(graph, normed), multiplied(graph, normed)
        product = graph.node("Mul", [graph.node("Mul", [gate, graph.node("Sigmoid", [gate], HALF)], HALF), up], HALF)
        normed = multiplied(graph, product)
    multiplied(graph, normed)
    return graph


def test_a_large_decoder_conforms_at_once() -> None:
    model = decoder(40).model()
    began = time.process_time()
    told = require_conformance(model, DIRECTML)
    assert time.process_time() - began < 1
    assert told.nodes > 500
    assert not told.misfits
    assert not told.crossings
    assert [name.rstrip("0123456789") for name in told.moved] == ["Gather", "Cast"]


def test_a_quantized_embedding_is_named_for_directml_and_taken_by_webgpu() -> None:
    graph = Graph(ids=LONG)
    parts = [graph.weight(BYTE, 1024, 128), graph["ids"], graph.weight(HALF, 1024, 8), graph.weight(BYTE, 1024, 4)]
    graph.node("GatherBlockQuantized", parts, HALF, domain=MICROSOFT, bits=4, block_size=32)
    (misfit,) = check_conformance(graph.model(), DIRECTML).misfits
    assert (misfit.operator, misfit.node) == ("com.microsoft.GatherBlockQuantized", "GatherBlockQuantized0")
    assert misfit.why == "no kernel for this operator"
    assert not why(graph, WEBGPU)


def test_control_flow() -> None:
    branch = Graph(nothing=HALF)
    made = branch.node("Acos", [branch["nothing"]], HALF)
    branch.graph.outputs.append(made)
    graph = Graph(yes=BOOL)
    other = ir.Graph([], [], nodes=[], name="other")
    graph.node("If", [graph["yes"]], HALF, then_branch=branch.graph, else_branch=other)
    named = [(misfit.operator, misfit.why) for misfit in check_conformance(graph.model(), DIRECTML).misfits]
    assert named == [
        ("If", "control flow, which no session of this provider may hold"),
        ("Acos", "no kernel for this operator"),
    ]
    assert [misfit.operator for misfit in check_conformance(graph.model(), WEBGPU).misfits] == ["Acos"]
    assert why(graph, WEBGPU, opset=23).startswith("version 23 of the operator; there are kernels for 13, 16, 19, 21")


@pytest.mark.parametrize(
    ("bits", "columns", "extra", "told"),
    [
        (4, 64, "", ""),
        (8, 64, "", ""),
        (2, 64, "", "bits = 2, not 4 or 8"),
        (4, 80, "", "K = 80, no multiple of block_size = 32"),
        (3, 80, "", "bits = 3, not 4 or 8; K = 80, no multiple of block_size = 32"),
        (4, 64, "zero_points", ""),
        (4, 64, "g_idx", "with input 4 (weight0)"),
        (4, 64, "bias", "with input 5 (weight0)"),
    ],
)
def test_limits_of_matmulnbits(bits: int, columns: int, extra: str, told: str) -> None:
    graph = Graph(hidden=HALF)
    inputs = {extra: graph.weight({"bias": HALF, "g_idx": INT}.get(extra, BYTE), 16)} if extra else {}
    multiplied(graph, graph["hidden"], bits=bits, columns=columns, **inputs)
    assert why(graph, DIRECTML) == told
    graph.graph[0].attributes.pop("bits")
    assert why(graph, DIRECTML) == "; ".join(part for part in told.split("; ") if not part.startswith("bits"))


def test_inputs_that_are_needed_and_outputs_that_are_not_given() -> None:
    graph = Graph(qkv=HALF, cache=HALF, length=INT)
    inputs = [graph["qkv"], None, ir.Value(name=""), graph["cache"], graph["cache"], graph["length"], graph["length"]]
    graph.node("GroupQueryAttention", inputs, HALF, HALF, HALF, HALF, domain=MICROSOFT, do_rotary=1)
    assert why(graph, DIRECTML) == (
        "with output 3 (GroupQueryAttention0/3); without input 1; without input 2; do_rotary = 1, not 0"
    )
    assert not why(graph, WEBGPU)


def test_versions_and_types() -> None:
    graph = Graph(x=ir.DataType.BFLOAT16)
    graph.node("Cast", [graph["x"]], HALF, to=int(HALF))
    assert why(graph, DIRECTML, 23).startswith("version 23 of the operator; there are kernels for 13, 19, 21")
    assert why(graph, DIRECTML, 18).startswith("input 0 (x) of bfloat16, not bool or float16 or float32")


def test_unknown_types() -> None:
    graph = Graph(x=HALF)
    graph.node("Sigmoid", [graph["x"]], None)
    assert why(graph, WEBGPU) == "output 0 (Sigmoid0/0) of unknown type, not float16 or float32"
    rows = [row.model_copy(update={"outputs": ["any"]}) for row in WEBGPU.operator]
    assert not why(graph, WEBGPU.model_copy(update={"operator": rows}))


def test_what_only_an_option_makes_taken() -> None:
    graph = Graph(lengths=LONG)
    graph.node("Sub", [graph["lengths"], graph.constant([1])], LONG)
    assert why(graph, WEBGPU) == "taken only with enableInt64 = 1"
    assert why(graph, WEBGPU.under({"enableInt64": "0"})) == "taken only with enableInt64 = 1"
    assert not why(graph, WEBGPU.under({"enableInt64": "1", "validationMode": "basic"}))
    assert not WEBGPU.options


def test_nodes_are_named_eight_and_how_many_more() -> None:
    graph = Graph(x=HALF, n=LONG)
    for _ in range(11):
        graph.node("Acos", [graph["x"]], HALF)
    graph.node("NonZero", [graph["n"]], LONG)
    with pytest.raises(errors.ConformanceError) as caught:
        require_conformance(graph.model(), DIRECTML)
    assert caught.value.exit_code == 51
    assert caught.value.what == "DmlExecutionProvider does not take 12 of 12 nodes."
    assert caught.value.why.startswith("Acos Acos0 (no kernel for this operator), Acos Acos1 (")
    assert caught.value.why.endswith("Acos Acos7 (no kernel for this operator) and 4 more.")


def test_integers_may_be_left_to_the_cpu() -> None:
    graph = Graph(n=LONG, x=HALF)
    graph.node("NonZero", [graph["n"]], LONG)
    assert len(require_conformance(graph.model(), WEBGPU, integers_on_cpu=True).misfits) == 1
    graph.node("NonZero", [graph["x"]], LONG)
    with pytest.raises(errors.ConformanceError, match=r"NonZero1 \(no kernel for this operator\)\.\)$") as caught:
        require_conformance(graph.model(), WEBGPU, integers_on_cpu=True)
    assert "NonZero0" not in caught.value.why


def crossings(graph: Graph, table: ProviderTable = DIRECTML) -> list[tuple[str, str, str]]:
    found = check_conformance(graph.model(), table).crossings
    return [(crossing.value, crossing.producer, crossing.consumer) for crossing in found]


def test_a_length_that_the_device_wants() -> None:
    graph = Graph(x=HALF)
    size = graph.node("Gather", [graph.node("Shape", [graph["x"]], LONG), graph.constant(1)], LONG)
    graph.node("Div", [graph["x"], graph.node("Cast", [size], HALF, to=int(HALF))], HALF)
    assert check_conformance(graph.model(), DIRECTML).moved == ("Gather2", "Cast3")
    assert crossings(graph) == [("Cast3/0", "Cast3", "Div4")]


def test_a_length_that_a_kernel_reads_in_cpu_memory() -> None:
    graph = Graph(x=HALF)
    shape = graph.node("Shape", [graph["x"]], LONG)
    graph.node("Expand", [graph["x"], shape], HALF)
    graph.node("Reshape", [graph["x"], graph.node("Concat", [shape, graph.constant([1])], LONG)], HALF)
    assert not crossings(graph)
    graph.node("Expand", [graph["x"], graph.node("Cast", [graph["x"]], LONG, to=int(LONG))], HALF)
    assert crossings(graph) == [("Cast5/0", "Cast5", "Expand6")]


def test_floats_large_constants_and_computed_values_keep_a_node_on_the_device() -> None:
    graph = Graph(x=HALF, n=LONG)
    size = graph.node("Shape", [graph["x"]], LONG)
    graph.node("Gather", [graph.constant(np.zeros(100)), size], LONG)
    graph.node("Gather", [graph.constant(np.zeros(101)), size], LONG)
    graph.node("Gather", [graph.weight(HALF, 10), size], HALF)
    graph.node("Add", [size, graph["n"]], LONG)
    graph.node("Add", [size, graph.node("Neg", [graph["n"]], LONG)], LONG)
    graph.node("Clip", [size, None, graph["n"]], LONG)
    told = check_conformance(graph.model(), DIRECTML)
    assert told.moved == ("Gather2", "Add6", "Clip9")
    assert not told.misfits


def test_a_graph_input_that_both_sides_read() -> None:
    graph = Graph(x=HALF)
    graph.node("Acos", [graph["x"]], HALF)
    assert not crossings(graph)
    graph.node("Sigmoid", [graph["x"]], HALF)
    assert crossings(graph) == [("x", "graph input", "Sigmoid1")]


def test_a_value_is_told_once_and_constants_never() -> None:
    graph = Graph(x=HALF)
    weight, half = graph.weight(HALF, 4), graph.node("Sigmoid", [graph["x"]], HALF)
    for _ in range(2):
        graph.node("Acos", [half], HALF)
        graph.node("PRelu", [graph.node("Mul", [half, weight], HALF), weight], HALF)
    assert crossings(graph) == [
        ("Sigmoid0/0", "Sigmoid0", "Acos1"),
        ("Mul2/0", "Mul2", "PRelu3"),
        ("Mul5/0", "Mul5", "PRelu6"),
    ]
