"""The pruned head, its twin, what differs between graphs, and the tables moved out of the graph."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx.reference import ReferenceEvaluator

from phiforge import errors
from phiforge.graph.difference import Difference, graph_difference
from phiforge.graph.head import find_pruned_head, prune_head, restore_head
from phiforge.graph.rotary import move_tables_out
from phiforge.graph.twin import check_twin, has_pruned_head, make_twin

FLOAT = ir.TensorType(ir.DataType.FLOAT)


def _table(name: str, start: float) -> ir.Node:
    value = ir.tensor((np.arange(512, dtype=np.float32) + start).reshape(128, 4), name=name)
    node = ir.node("Constant", inputs=[], attributes={"value": value}, name=f"/{name}/Constant")
    node.outputs[0].name, node.outputs[0].type, node.outputs[0].shape = name, FLOAT, ir.Shape([128, 4])
    return node


def _branch(name: str, start: float) -> ir.Graph:
    node = _table(name, start)
    return ir.Graph([], [node.outputs[0]], nodes=[node], name=name)


def model(*, positions: bool = False) -> ir.Model:
    """Embedding, a choice between two tables, and a head over [batch, sequence, 4]; it may be given position ids."""
    int64 = ir.TensorType(ir.DataType.INT64)
    ids = ir.Value(name="input_ids", type=int64, shape=ir.Shape(["batch", "sequence"]))
    mask = ir.Value(name="attention_mask", type=int64, shape=ir.Shape(["batch", "total"]))
    long = ir.Value(name="long", type=ir.TensorType(ir.DataType.BOOL), shape=ir.Shape([]))
    weights = {
        name: ir.Value(
            name=name,
            type=FLOAT,
            shape=ir.Shape(shape),
            const_value=ir.tensor(np.arange(40, dtype=np.float32).reshape(shape), name=name),
        )
        for name, shape in (("table", (10, 4)), ("head", (4, 10)))
    }
    choice = ir.node(
        "If",
        inputs=[long],
        attributes={"then_branch": _branch("cos_large", 7.0), "else_branch": _branch("cos_small", 0.0)},
        name="/rope/If",
    )
    gather = ir.node("Gather", inputs=[weights["table"], ids], name="/embed")
    hidden = gather.outputs[0]
    hidden.name, hidden.type, hidden.shape = "hidden", FLOAT, ir.Shape(["batch", "sequence", 4])
    head = ir.node("MatMul", inputs=[hidden, weights["head"]], name="/lm_head/MatMul")
    logits = head.outputs[0]
    logits.name, logits.type, logits.shape = "logits", FLOAT, ir.Shape(["batch", "sequence", 10])
    choice.outputs[0].name = "cos"
    places = [ir.Value(name="position_ids", type=int64, shape=ir.Shape(["batch", "sequence"]))] if positions else []
    graph = ir.Graph(
        [ids, mask, long, *places],
        [logits, choice.outputs[0]],
        nodes=[choice, gather, head],
        initializers=list(weights.values()),
        opset_imports={"": 21},
        name="g",
    )
    return ir.Model(graph, ir_version=10)


def save(made: ir.Model, folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    ir.save(made, folder / "model.onnx", external_data="model.onnx.data", size_threshold_bytes=0)
    return folder


@pytest.fixture
def pruned(tmp_path: Path) -> Path:
    made = model()
    prune_head(made)
    folder = save(made, tmp_path / "pruned")
    (folder / "genai_config.json").write_text("{}", encoding="utf-8")
    return folder


def test_pruning_and_restoring_is_nothing(tmp_path: Path) -> None:
    made = model()
    prune_head(made)
    assert find_pruned_head(made) is not None
    assert made.graph.outputs[0].shape == ir.Shape(["batch", 1, 10])
    restore_head(made)
    assert find_pruned_head(made) is None
    assert (
        graph_difference(save(model(), tmp_path / "a") / "model.onnx", save(made, tmp_path / "b") / "model.onnx") == ()
    )


def test_a_head_pruned_by_position_ids_is_restored_too(tmp_path: Path) -> None:
    made = model(positions=True)
    prune_head(made)
    found = find_pruned_head(made)
    assert found is not None
    # What a shape gives is on the CPU, and with graph capture DirectML refuses to copy it.
    assert "Shape" not in {node.op_type for node in found.selection}
    assert {value.name for node in found.selection for value in node.inputs if value} >= {"position_ids"}
    assert made.graph.outputs[0].shape == ir.Shape(["batch", 1, 10])
    restore_head(made)
    folders = [save(item, tmp_path / name) for name, item in (("a", model(positions=True)), ("b", made))]
    assert graph_difference(*(folder / "model.onnx" for folder in folders)) == ()


def _last_logits(ids: list[list[int]], mask: list[list[int]], positions: list[list[int]]) -> NDArray[np.float32]:
    """The logits of a head pruned by position ids, [batch, vocab]; those of every position say which they are."""
    made = model(positions=True)
    prune_head(made)
    feeds = {"input_ids": ids, "attention_mask": mask, "position_ids": positions}
    arrays = {name: np.array(value, dtype=np.int64) for name, value in feeds.items()}
    (found,) = ReferenceEvaluator(ir.to_proto(made)).run(["logits"], {**arrays, "long": np.array(True)})
    assert isinstance(found, np.ndarray)
    assert found.shape == (len(ids), 1, 10)
    logits: NDArray[np.float32] = found[:, 0]
    return logits


def _logits_of(tokens: list[int]) -> NDArray[np.float32]:
    """The logits after each of these tokens, which in this model no other token changes."""
    table = np.arange(40, dtype=np.float32)
    logits: NDArray[np.float32] = table.reshape(10, 4)[tokens] @ table.reshape(4, 10)
    return logits


@pytest.mark.parametrize(
    ("ids", "mask", "positions", "last"),
    [
        # A prompt, and two of which one is padded on the right, as onnxruntime-genai pads and counts.
        ([[3, 1, 4]], [[1, 1, 1]], [[0, 1, 2]], [4]),
        ([[3, 1, 9, 9], [2, 7, 1, 8]], [[1, 1, 0, 0], [1, 1, 1, 1]], [[0, 1, 0, 0], [0, 1, 2, 3]], [1, 8]),
        ([[5, 9, 9]], [[1, 0, 0]], [[0, 0, 0]], [5]),
        # The step after that, and the second chunk of a prompt.
        ([[6], [5]], [[1, 1, 0, 0, 1], [1, 1, 1, 1, 1]], [[2], [4]], [6, 5]),
        ([[6, 2, 5]], [[1] * 7], [[4, 5, 6]], [5]),
    ],
)
def test_the_head_computes_the_last_real_position(
    ids: list[list[int]], mask: list[list[int]], positions: list[list[int]], last: list[int]
) -> None:
    np.testing.assert_array_equal(_last_logits(ids, mask, positions), _logits_of(last))


@given(data=st.data(), past=st.integers(0, 9))
def test_whatever_is_padded_or_cached_the_last_real_position_counts(data: st.DataObject, past: int) -> None:
    rows = data.draw(st.lists(st.lists(st.integers(0, 9), min_size=1, max_size=6), min_size=1, max_size=3))
    width = max(map(len, rows))
    ids = [row + [data.draw(st.integers(0, 9))] * (width - len(row)) for row in rows]
    mask = [[1] * (past + len(row)) + [0] * (width - len(row)) for row in rows]
    positions = [[*range(past, past + len(row)), *[0] * (width - len(row))] for row in rows]
    expected = _logits_of([row[-1] for row in rows])
    np.testing.assert_array_equal(_last_logits(ids, mask, positions), expected)


def test_the_twin_shares_the_weights_and_is_the_unpruned_graph(pruned: Path, tmp_path: Path) -> None:
    twin = tmp_path / "twin"
    twin.mkdir()
    before = {path.name: path.read_bytes() for path in pruned.iterdir()}
    found = make_twin(pruned, twin)
    assert {path.name: path.read_bytes() for path in pruned.iterdir()} == before
    assert (twin / "model.onnx.data").samefile(pruned / "model.onnx.data")
    assert graph_difference(save(model(), tmp_path / "all") / "model.onnx", twin / "model.onnx") == ()
    assert has_pruned_head(pruned)
    assert not has_pruned_head(twin)
    told = {(item.part, item.name.split("/last/")[0], item.field) for item in found}
    assert told == {
        ("node", "/lm_head", "presence"),
        ("node", "/lm_head/MatMul", "input 0"),
        ("node", "/lm_head/MatMul", "output 0 shape"),
        ("output", "logits", "shape"),
    }


def test_a_twin_is_a_copy_where_no_link_can_be(pruned: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError("another disk")

    monkeypatch.setattr(os, "link", refuse)
    twin = tmp_path / "twin"
    twin.mkdir()
    make_twin(pruned, twin)
    assert not (twin / "model.onnx.data").samefile(pruned / "model.onnx.data")


def test_a_graph_that_gives_every_position_has_no_twin(tmp_path: Path) -> None:
    twin = tmp_path / "twin"
    twin.mkdir()
    with pytest.raises(errors.GraphMismatchError, match="head of the graph") as caught:
        make_twin(save(model(), tmp_path / "all"), twin)
    assert "every position" in caught.value.why


def _weight(made: ir.Model) -> None:
    value = made.graph.initializers["table"]
    value.const_value = ir.tensor(np.zeros((10, 4), np.float32), name="table")


def _attribute(made: ir.Model) -> None:
    next(node for node in made.graph if node.op_type == "Gather").attributes.add(ir.AttrInt64("axis", 1))


def _table_within(made: ir.Model) -> None:
    branch = next(node for node in made.graph if node.op_type == "If").attributes["then_branch"].as_graph()
    branch[0].attributes.add(ir.AttrTensor("value", ir.tensor(np.ones((128, 4), np.float32))))


def _input(made: ir.Model) -> None:
    made.graph.inputs[2].name = "longer"


def _node(made: ir.Model) -> None:
    gather = next(node for node in made.graph if node.op_type == "Gather")
    extra = ir.node("Identity", inputs=[gather.outputs[0]], name="/extra")
    made.graph.append(extra)


def _opset(made: ir.Model) -> None:
    made.graph.opset_imports[""] = 22


@pytest.mark.parametrize(
    ("change", "part", "name"),
    [
        (_weight, "file", "model.onnx.data"),
        (_attribute, "node", "/embed"),
        (_table_within, "node", "/rope/If/then_branch//cos_large/Constant"),
        (_input, "input", "longer"),
        (_node, "node", "/extra"),
        (_opset, "model", "header"),
    ],
)
def test_any_other_difference_is_found_and_refused(
    tmp_path: Path, change: Callable[[ir.Model], None], part: str, name: str
) -> None:
    changed = model()
    change(changed)
    found = graph_difference(save(model(), tmp_path / "a") / "model.onnx", save(changed, tmp_path / "b") / "model.onnx")
    assert (part, name) in {(item.part, item.name) for item in found}
    with pytest.raises(errors.GraphMismatchError, match="twin's graph") as caught:
        check_twin(found, ())
    assert name in caught.value.why


def test_a_missing_difference_is_refused_too() -> None:
    known = Difference("output", "logits", "shape", "[1]", "[n]")
    check_twin((known,), (known,))
    with pytest.raises(errors.GraphMismatchError):
        check_twin((), (known,))


def test_a_head_of_another_make_is_refused() -> None:
    made = model()
    made.graph.outputs[0].name = "scores"
    with pytest.raises(errors.GraphMismatchError):
        prune_head(made)


def test_tables_move_out_of_branches(tmp_path: Path) -> None:
    made = model()
    assert move_tables_out(made) == 2 * 512 * 4
    folder = save(made, tmp_path / "moved")
    read = ir.load(folder / "model.onnx")
    assert {node.op_type for node in read.graph.all_nodes()} == {"If", "Gather", "MatMul", "Identity"}
    tensor = read.graph.initializers["model.rotary.cos_large"].const_value
    assert isinstance(tensor, ir.ExternalTensor)
    np.testing.assert_array_equal(tensor.numpy().ravel(), np.arange(512, dtype=np.float32) + 7)
    assert (folder / "model.onnx").stat().st_size < 2048
    assert move_tables_out(made) == 0
