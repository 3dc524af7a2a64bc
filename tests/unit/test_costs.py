"""Costs counted from graphs made here, whose numbers are small enough to count by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from phiforge import errors
from phiforge.bandwidth import measure_bandwidth
from phiforge.graph.costs import graph_costs, model_costs
from unit.graphs import BYTE, INT, LONG, MICROSOFT, Graph

F32 = ir.DataType.FLOAT
TOKENS = ir.SymbolicDim("sequence_length")
ONE = ir.SymbolicDim("batch_size")
HEADS, SHARED, SIZE, HIDDEN, VOCABULARY = 4, 2, 8, 32, 64


def shaped(value: ir.Value, *shape: int | ir.SymbolicDim, name: str = "") -> ir.Value:
    value.shape = ir.Shape(shape)
    value.name = name or value.name
    return value


def product(graph: Graph, value: ir.Value, rows: int, columns: int) -> ir.Value:
    """MatMulNBits with int4 codes in blocks of 32 and float32 scales."""
    codes, scales = graph.weight(BYTE, rows, columns // 32, 16), graph.weight(F32, rows, columns // 32)
    attributes = {"N": rows, "K": columns, "bits": 4, "block_size": 32}
    made = graph.node("MatMulNBits", [value, codes, scales], F32, domain=MICROSOFT, **attributes)
    return shaped(made, ONE, TOKENS, rows)


def decoder(*, last: bool = True, tied: bool = False) -> ir.Model:
    """A table, one attention, a sum with the stream, a norm and the head, which may be the table."""
    graph = Graph(input_ids=LONG, seqlens=INT, total=INT)
    table = graph.weight(F32, VOCABULARY, HIDDEN)
    ids = shaped(graph["input_ids"], ONE, TOKENS)
    stream = shaped(graph.node("Gather", [table, ids], F32), ONE, TOKENS, HIDDEN)
    packed = product(graph, stream, (HEADS + 2 * SHARED) * SIZE, HIDDEN)
    cache = [ir.Value(name=f"past_key_values.0.{kind}", type=ir.TensorType(F32)) for kind in ("key", "value")]
    graph.graph.inputs.extend(cache)
    inputs = [packed, None, None, *cache, graph["seqlens"], graph["total"]]
    attention = graph.node(
        "GroupQueryAttention", inputs, F32, F32, F32, domain=MICROSOFT, num_heads=HEADS, kv_num_heads=SHARED
    )
    seen = shaped(attention, ONE, TOKENS, HEADS * SIZE)
    node = attention.producer()
    assert node is not None
    for value, kind in zip(node.outputs[1:], ("key", "value"), strict=True):
        shaped(value, ONE, SHARED, TOKENS, SIZE, name=f"present.0.{kind}")
    added = shaped(graph.node("Add", [stream, seen], F32), ONE, TOKENS, HIDDEN)
    norm = shaped(
        graph.node("SimplifiedLayerNormalization", [added, graph.weight(F32, HIDDEN)], F32), ONE, TOKENS, HIDDEN
    )
    if last:
        place = shaped(graph.node("Cast", [ids], LONG), ONE, 1, 1)
        norm = shaped(graph.node("GatherND", [norm, place], F32), ONE, 1, HIDDEN)
    head = graph.node("MatMul", [norm, table], F32) if tied else product(graph, norm, VOCABULARY, HIDDEN)
    logits = shaped(head, ONE, 1 if last else TOKENS, VOCABULARY, name="logits")
    graph.graph.outputs.extend([logits, *node.outputs[1:]])
    return graph.model()


def test_operations_and_bytes_of_a_token() -> None:
    costs = model_costs(decoder(), "made up")
    qkv = (HEADS + 2 * SHARED) * SIZE
    assert costs.weight_operations == 2 * qkv * HIDDEN
    assert costs.head_operations == 2 * VOCABULARY * HIDDEN
    assert costs.pair_operations == 4 * HEADS * SIZE
    assert costs.kv_cache_bytes == 2 * SHARED * SIZE * 4
    # int4 codes and a float32 scale for each block of 32: 20 bytes; the norm; one row of the table.
    assert costs.weight_bytes == (qkv + VOCABULARY) * 20 + HIDDEN * 4 + HIDDEN * 4
    assert costs.stored_bytes == (qkv + VOCABULARY) * 20 + HIDDEN * 4 + VOCABULARY * HIDDEN * 4


def test_a_table_that_is_also_the_head_is_read_once() -> None:
    costs = model_costs(decoder(tied=True), "made up")
    assert costs.weight_bytes == (HEADS + 2 * SHARED) * SIZE * 20 + HIDDEN * 4 + VOCABULARY * HIDDEN * 4
    assert costs.head_operations == 2 * VOCABULARY * HIDDEN


def test_the_workspace_is_what_is_alive_at_the_fullest_node() -> None:
    """While the packed product is read, the stream (32 values a token), the product (64) and attention (32) live."""
    alive = model_costs(decoder(), "made up").activations
    assert max(item.bytes_per_token for item in alive) == 4 * (HIDDEN + 64 + HIDDEN)
    assert max(item.bytes_besides for item in alive) == 4 * (VOCABULARY + HIDDEN)


def test_the_cache_is_not_workspace_and_logits_of_every_position_are() -> None:
    every = max(item.bytes_per_token for item in model_costs(decoder(last=False), "made up").activations)
    assert every == 4 * (HIDDEN + 64 + HIDDEN)
    wide = [item.bytes_per_token for item in model_costs(decoder(last=False), "made up").activations]
    assert wide[-1] == 4 * (HIDDEN + VOCABULARY)


def test_a_graph_without_a_cache_is_refused(tmp_path: Path) -> None:
    graph = Graph(x=F32)
    graph.graph.outputs.append(shaped(graph.node("Relu", [graph["x"]], F32), ONE, TOKENS))
    with pytest.raises(errors.GraphMismatchError, match="made up"):
        model_costs(graph.model(), "made up")
    broken = tmp_path / "model.onnx"
    broken.write_bytes(b"no graph")
    with pytest.raises(errors.GraphMismatchError, match=r"model\.onnx"):
        graph_costs(broken)
    with pytest.raises(errors.GraphMismatchError):
        graph_costs(tmp_path / "absent.onnx")


def test_the_triad_counts_what_it_moves(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a clock that says every repeat took two seconds."""
    ticks = iter(np.arange(0, 1000, 2.0))
    monkeypatch.setattr("phiforge.bandwidth.time.perf_counter", lambda: float(next(ticks)))
    assert measure_bandwidth(2, array_bytes=1 << 16) == 5 * (1 << 16) / 2
