"""Graphs in float16: bound weights, the twins that compute more exactly, and what is computed on integers alone."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from numpy.typing import NDArray
from onnx.reference import ReferenceEvaluator

from broken.checkpoints import make_checkpoint
from phiforge import errors
from phiforge.checkpoint.config import ModelConfig, load_config
from phiforge.checkpoint.layout import Writer, lay_out, read_layout
from phiforge.graph.bind import QuantizedWeights, bind_weights, weights_of
from phiforge.graph.difference import graph_difference
from phiforge.graph.float32 import MAXIMUM, is_float16, make_exact_twin, make_float32_twin
from phiforge.graph.inspect import inspect_graph
from phiforge.graph.integers import integer_nodes
from phiforge.quantize import QuantSpec, pack

BITS, BLOCK = 4, 32
SPEC = QuantSpec(BITS, BLOCK, symmetric=False)
F16, F32, I64, U8 = ir.DataType.FLOAT16, ir.DataType.FLOAT, ir.DataType.INT64, ir.DataType.UINT8
Arrays = dict[str, NDArray[Any]]


@pytest.fixture
def config(tmp_path: Path) -> ModelConfig:
    return replace(load_config(make_checkpoint(tmp_path / "ckpt")), tied_embeddings=False)


def arrays(config: ModelConfig) -> Arrays:
    """A quantized checkpoint of embedding, last norm and head alone."""
    random = np.random.default_rng(0)
    rows, columns = config.vocab_size, config.hidden_size
    found: Arrays = {"model.norm.weight": random.normal(1, 1, columns).astype(np.float32)}
    for module in ("model.embed_tokens", "lm_head"):
        found |= {
            f"{module}.qweight": random.integers(0, 256, (rows, columns * BITS // 8), dtype=np.uint8),
            f"{module}.scales": random.lognormal(-7, 2, (rows, columns // BLOCK)).astype(np.float32),
            f"{module}.qzeros": pack(random.integers(0, 16, (rows, columns // BLOCK), dtype=np.uint8), BITS),
        }
    return found


def write(path: Path, made: Arrays) -> Path:
    with Writer(path, {name: (_kind(array), array.shape) for name, array in made.items()}) as writer:
        for name, array in made.items():
            writer.write(name, 0, array)
    return path


def _kind(array: NDArray[Any]) -> str:
    return "U8" if array.dtype == np.uint8 else "F32"


def _value(name: str, dtype: ir.DataType, shape: list[int | str]) -> ir.Value:
    return ir.Value(name=name, type=ir.TensorType(dtype), shape=ir.Shape(shape))


def _weight(graph: ir.Graph, name: str, *shape: int) -> ir.Value:
    """A weight without content, as the builder leaves them."""
    value = _value(name, F16, list(shape))
    value.const_value = ir.LazyTensor(lambda: ir.tensor(0), dtype=F16, shape=ir.Shape(shape), name=name)
    graph.register_initializer(value)
    return value


def _branch(value: float) -> ir.Graph:
    constant = _node("Constant", [], f"half-{value}", F16, value=ir.tensor(np.full((1,), value, np.float16)))
    length = _node("Constant", [], f"length-{value}", I64, value_ints=[int(value)])
    return ir.Graph([], [constant], nodes=[_producer(constant), _producer(length)], name=f"branch-{value}")


def _node(operator: str, inputs: list[ir.Value], name: str, dtype: ir.DataType, **attributes: Any) -> ir.Value:
    node = ir.node(operator, inputs=inputs, attributes=attributes, name=f"/{name}")
    output = node.outputs[0]
    output.name, output.type = name, ir.TensorType(dtype)
    return output


def _producer(value: ir.Value) -> ir.Node:
    node = value.producer()
    assert node is not None
    return node


def float16_model(config: ModelConfig) -> ir.Model:
    """Embedding, a factor by the length, last norm, head; float16 wherever a decoder has it."""
    ids, past = _value("input_ids", I64, ["batch", "sequence"]), _value("past", F16, ["batch", 1, "past", 4])
    graph = ir.Graph([ids, past], [], nodes=[], opset_imports={"": 21, "com.microsoft": 1}, name="g")
    table = _weight(graph, "model.embed_tokens.weight", config.vocab_size, config.hidden_size)
    norm = _weight(graph, f"model.layers.{config.layer_count}.final_norm_layernorm.weight", config.hidden_size)
    head = _weight(graph, "lm_head.MatMul.weight", config.hidden_size, config.vocab_size)
    rotary = _value("cos", F16, [8, 2])
    rotary.const_value = ir.tensor(np.linspace(-1, 1, 16, dtype=np.float16).reshape(8, 2), name="cos")
    graph.register_initializer(rotary)
    shape = _node("Shape", [ids], "shape", I64)
    is_long = _node("Greater", [shape, _node("Constant", [], "limit", I64, value_ints=[9])], "long", ir.DataType.BOOL)
    branches = {"then_branch": _branch(2.0), "else_branch": _branch(1.0)}
    factor = _node("If", [is_long], "factor", F16, **branches)
    hidden = _node("Gather", [table, ids], "hidden", F16)
    wide = _node("Cast", [hidden], "wide", F32, to=int(F32))
    narrow = _node("Cast", [wide], "narrow", F16, to=int(F16))
    normed = _node("Mul", [_node("Mul", [narrow, factor], "scaled", F16), norm], "normed", F16)
    logits, present = _node("MatMul", [normed, head], "logits", F16), _node("Identity", [past], "present", F16)
    values = [shape, is_long.producer().inputs[1], is_long, factor, hidden, wide, narrow, normed, logits, present]  # type: ignore[union-attr]
    values.insert(-3, normed.producer().inputs[0])  # type: ignore[union-attr]
    graph.extend([_producer(value) for value in values if value is not None])
    graph.outputs.extend([logits, present])
    return ir.Model(graph, ir_version=10)


def bound(config: ModelConfig, weights: QuantizedWeights, embedding: Any = "quantized", level: int = 4) -> ir.Model:
    model = float16_model(config)
    specs = dict.fromkeys(("model.embed_tokens", "lm_head"), SPEC)
    bind_weights(model, weights, specs, config, accuracy_level=level, embedding=embedding)
    return model


def save(model: ir.Model, folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    ir.save(model, folder / "model.onnx", external_data="model.onnx.data", size_threshold_bytes=0)
    return folder


@pytest.fixture
def variant(config: ModelConfig, tmp_path: Path) -> Path:
    """A complete variant folder; like the store's, its files have hard links."""
    weights = weights_of(write(tmp_path / "model.safetensors", arrays(config)))
    folder = save(bound(config, weights), tmp_path / "variant")
    options = {"session_options": {"provider_options": [{"dml": {"enable_graph_capture": "1"}}]}, "head_size": 4}
    (folder / "genai_config.json").write_text(json.dumps({"model": {"decoder": options}}), encoding="utf-8")
    (folder / "tokenizer.json").write_text("{}", encoding="utf-8")
    os.link(folder / "model.onnx.data", tmp_path / "linked.data")
    return folder


def stored(folder: Path, name: str) -> NDArray[Any]:
    """An initializer's content, read as the bytes its graph points at."""
    tensor = ir.load(folder / "model.onnx").graph.initializers[name].const_value
    assert isinstance(tensor, ir.ExternalTensor)
    data = (folder / tensor.location).read_bytes()[tensor.offset or 0 :][: tensor.length]
    return np.frombuffer(data, tensor.dtype.numpy()).reshape(tensor.shape.numpy())


@pytest.mark.parametrize("embedding", ["quantized", "unpacked"])
def test_scales_and_norms_are_rounded_as_numpy_does_and_codes_are_the_files_bytes(
    config: ModelConfig, tmp_path: Path, embedding: str
) -> None:
    made = arrays(config)
    folder = save(bound(config, weights_of(write(tmp_path / "q.safetensors", made)), embedding), tmp_path / "variant")
    norm = f"model.layers.{config.layer_count}.final_norm_layernorm.weight"
    names = {norm: "model.norm.weight"}
    for stem, module in (("lm_head", "lm_head"), ("model.embed_tokens", "model.embed_tokens")):
        names |= {f"{stem}.{part}": f"{module}.{part}" for part in ("qweight", "scales", "qzeros")}
    assert set(ir.load(folder / "model.onnx").graph.initializers) == {*names, "cos"}
    for name, tensor in names.items():
        expected = made[tensor] if made[tensor].dtype == np.uint8 else made[tensor].astype(np.float16)
        found = stored(folder, name)
        assert found.dtype == expected.dtype
        np.testing.assert_array_equal(found.ravel(), expected.ravel(), err_msg=name)
    assert (stored(folder, norm) != made["model.norm.weight"]).any()
    rows = {node.operator: (node.rows, node.columns) for node in inspect_graph(folder / "model.onnx").quantized}
    table = {"quantized": "GatherBlockQuantized", "unpacked": "Gather"}[embedding]
    assert set(rows) == {"MatMulNBits", table}
    assert set(rows.values()) == {(config.vocab_size, config.hidden_size)}


@pytest.mark.parametrize("value", [65505.0, -1e6, np.inf, np.nan])
@pytest.mark.parametrize("tensor", ["lm_head.scales", "model.norm.weight"])
def test_what_float16_cannot_hold_is_refused_by_name(
    config: ModelConfig, tmp_path: Path, tensor: str, value: float
) -> None:
    made = arrays(config)
    made[tensor].flat[-1] = value
    model = bound(config, weights_of(write(tmp_path / "q.safetensors", made)))
    with pytest.raises(errors.WeightsNotFiniteError, match="Float16 cannot hold") as caught:
        save(model, tmp_path / "variant")
    assert tensor.split(".")[-2].removeprefix("model.") in caught.value.what
    assert "65504" in caught.value.why


def test_the_largest_float16_is_kept(config: ModelConfig, tmp_path: Path) -> None:
    made = arrays(config)
    made["lm_head.scales"].flat[3] = -65504.0
    folder = save(bound(config, weights_of(write(tmp_path / "q.safetensors", made))), tmp_path / "variant")
    assert stored(folder, "lm_head.scales").flat[3] == -65504.0


@pytest.mark.parametrize("embedding", ["quantized", "unpacked"])
def test_without_a_file_the_graph_is_the_same_and_cannot_be_saved(
    config: ModelConfig, tmp_path: Path, embedding: str
) -> None:
    made = arrays(config)
    path = write(tmp_path / "q.safetensors", made)
    _, slots = lay_out({name: (_kind(array), array.shape) for name, array in made.items()})
    assert slots == read_layout(path)
    light = bound(config, QuantizedWeights(slots=slots, file=None), embedding)
    whole = bound(config, weights_of(path), embedding)

    def told(model: ir.Model) -> list[object]:
        graph = model.graph
        weights = [(name, value.dtype, str(value.shape)) for name, value in graph.initializers.items()]
        nodes = [(n.name, n.op_type, [v.name for v in n.inputs if v], [v.dtype for v in n.outputs]) for n in graph]
        return [weights, nodes]

    assert told(light) == told(whole)
    with pytest.raises(RuntimeError, match="without a file"):
        save(light, tmp_path / "light")


def _messages(message: Any) -> Iterator[Any]:
    """A protobuf message and all within it."""
    yield message
    for field, content in message.ListFields():
        if field.message_type is not None:
            repeated = content if not hasattr(content, "ListFields") else [content]
            for item in repeated:
                yield from _messages(item)


def float16_parts(path: Path) -> list[str]:
    """Whatever in an ONNX file says float16: types of values, tensors, casts."""
    half = onnx.TensorProto.FLOAT16
    found = []
    for item in _messages(onnx.load(path, load_external_data=False)):
        if isinstance(item, onnx.TypeProto.Tensor) and item.elem_type == half:
            found.append("a type")
        if isinstance(item, onnx.TensorProto) and item.data_type == half:
            found.append(f"the tensor {item.name}")
        if isinstance(item, onnx.NodeProto) and any(a.name == "to" and a.i == half for a in item.attribute):
            found.append(f"the cast {item.name}")
    return found


def test_nothing_in_the_float32_twin_is_float16(variant: Path, tmp_path: Path) -> None:
    before = float16_parts(variant / "model.onnx")
    assert {"a type", "the cast /narrow"} <= set(before)
    twin = tmp_path / "twin"
    twin.mkdir()
    assert make_float32_twin(variant, twin) == []
    assert float16_parts(twin / "model.onnx") == []
    assert is_float16(variant)
    assert not is_float16(twin)
    config = json.loads((twin / "genai_config.json").read_text(encoding="utf-8"))
    assert config["model"]["decoder"]["session_options"]["provider_options"] == []
    assert float16_parts(variant / "model.onnx") == before


def test_the_float32_twin_has_the_very_weights(variant: Path, tmp_path: Path) -> None:
    twin = tmp_path / "twin"
    twin.mkdir()
    make_float32_twin(variant, twin)
    assert (twin / "model.onnx.data").samefile(variant / "model.onnx.data")
    names = set(ir.load(variant / "model.onnx").graph.initializers)
    assert set(ir.load(twin / "model.onnx").graph.initializers) == names
    for name in names:
        ours, theirs = stored(variant, name), stored(twin, name)
        assert theirs.dtype == (np.uint8 if ours.dtype == np.uint8 else np.float32)
        np.testing.assert_array_equal(theirs, ours, err_msg=name)
    nodes = {str(node.name): node.attributes for node in ir.load(twin / "model.onnx").graph.all_nodes()}
    assert nodes["/half-2.0"]["value"].as_tensor().numpy().tolist() == [2.0]
    assert nodes["/logits_MatMulNBits"]["accuracy_level"].as_int() == 1


def test_the_float32_twin_gives_the_largest_of_every_float_a_node_makes(variant: Path, tmp_path: Path) -> None:
    twin = tmp_path / "twin"
    twin.mkdir()
    made = make_float32_twin(variant, twin, maxima=True)
    assert set(made) == {"factor", "hidden", "wide", "narrow", "scaled", "normed", "logits", "present"}
    outputs = {value.name: value.dtype for value in ir.load(twin / "model.onnx").graph.outputs}
    assert outputs == {"logits": F32, "present": F32, **{f"{MAXIMUM}{name}": F32 for name in made}}


def test_a_largest_is_what_float16_could_not_have_held(tmp_path: Path) -> None:
    source, twin = tmp_path / "variant", tmp_path / "twin"
    for folder in (source, twin):
        folder.mkdir()
    (source / "genai_config.json").write_text('{"model": {"decoder": {"session_options": {}}}}', encoding="utf-8")
    values = _value("x", F16, ["n"])
    squared = _node("Mul", [values, values], "squared", F16)
    turned = _node("Neg", [squared], "turned", F16)
    nodes = [_producer(squared), _producer(turned)]
    graph = ir.Graph([values], [turned], nodes=nodes, opset_imports={"": 21}, name="g")
    ir.save(ir.Model(graph, ir_version=10), source / "model.onnx")
    made = make_float32_twin(source, twin, maxima=True)
    session = ReferenceEvaluator(str(twin / "model.onnx"))
    found = session.run([f"{MAXIMUM}{name}" for name in made], {"x": np.array([3, -300, 0.5], np.float32)})
    assert dict(zip(made, map(float, found), strict=True)) == {"squared": 90000.0, "turned": 90000.0}


@pytest.mark.parametrize("level", [1, 4])
def test_the_exact_twin_differs_in_how_it_multiplies_alone(config: ModelConfig, tmp_path: Path, level: int) -> None:
    weights = weights_of(write(tmp_path / "q.safetensors", arrays(config)))
    source, twin = save(bound(config, weights, level=level), tmp_path / "variant"), tmp_path / "twin"
    twin.mkdir()
    (source / "genai_config.json").write_text('{"provider": "webgpu"}', encoding="utf-8")
    make_exact_twin(source, twin)
    found = graph_difference(source / "model.onnx", twin / "model.onnx")
    expected = [("/logits_MatMulNBits", "attribute accuracy_level", f"INT {level}", "INT 1")] if level != 1 else []
    assert [(item.name, item.field, item.first, item.second) for item in found] == expected
    for name in ("model.onnx.data", "genai_config.json"):
        assert (twin / name).samefile(source / name)


def test_a_twin_is_made_where_files_cannot_be_linked(
    variant: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError("another disk")

    monkeypatch.setattr(os, "link", refuse)
    make: list[Callable[[Path, Path], object]] = [make_float32_twin, make_exact_twin]
    for number, twin_of in enumerate(make):
        twin = tmp_path / f"twin-{number}"
        twin.mkdir()
        twin_of(variant, twin)
        assert not (twin / "model.onnx.data").samefile(variant / "model.onnx.data")
        np.testing.assert_array_equal(stored(twin, "lm_head.qweight"), stored(variant, "lm_head.qweight"))


def test_integer_nodes_are_those_that_give_no_float_and_no_code(variant: Path) -> None:
    """In branches too; Casts to float, codes of weights and an If that gives floats are none."""
    assert integer_nodes(variant / "model.onnx") == {
        "/shape", "/limit", "/long", "/length-2.0", "/length-1.0", "/model/embed_tokens/shape/Constant",
    }  # fmt: skip


def test_gathered_codes_are_no_integers_that_a_cpu_may_compute(config: ModelConfig, tmp_path: Path) -> None:
    weights = weights_of(write(tmp_path / "q.safetensors", arrays(config)))
    folder = save(bound(config, weights, "unpacked"), tmp_path / "variant")
    unpacked = {name for name in integer_nodes(folder / "model.onnx") if "unpacked" in name}
    nodes = {str(node.name): node for node in ir.load(folder / "model.onnx").graph}
    assert {nodes[name].op_type for name in unpacked} == {"Constant"}
    assert nodes["/model/embed_tokens/unpacked/codes/Gather"].outputs[0].dtype is U8
