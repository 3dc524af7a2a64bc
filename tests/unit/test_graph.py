"""Binding weights to a graph, and finding out when a graph is not the planned one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from numpy.typing import NDArray

from broken.checkpoints import make_checkpoint
from phiforge import errors
from phiforge.checkpoint.config import ModelConfig, load_config
from phiforge.checkpoint.layout import Writer
from phiforge.graph.bind import bind_weights, weights_of
from phiforge.graph.inspect import check_graph, inspect_graph
from phiforge.graph.sources import source_of
from phiforge.plan import WeightPlan
from phiforge.quantize import QuantSpec, pack, quantize_rows

SPEC = QuantSpec(4, 32, symmetric=False)


@pytest.fixture
def config(tmp_path: Path) -> ModelConfig:
    return load_config(make_checkpoint(tmp_path / "ckpt"))


def test_a_fused_weight_is_split_into_all_its_rows(config: ModelConfig) -> None:
    parts = [source_of(f"model.layers.1.attn.{part}_proj.MatMul.weight", config) for part in "qkv"]
    whole = source_of("model.layers.1.attn.qkv_proj.MatMul.weight", config)
    assert {part.module for part in parts} == {whole.module} == {"model.layers.1.self_attn.qkv_proj"}
    assert [part.start for part in parts] == [0, parts[0].stop, parts[1].stop]
    assert parts[2].stop == whole.stop
    gate, up = (source_of(f"model.layers.0.mlp.{part}_proj.MatMul.weight", config) for part in ("gate", "up"))
    assert (gate.start, gate.stop, up.start, up.stop) == (
        0, config.intermediate_size, config.intermediate_size, 2 * config.intermediate_size,
    )  # fmt: skip


def test_a_tied_head_comes_from_the_embedding(config: ModelConfig) -> None:
    head = "lm_head.MatMul.weight"
    assert source_of(head, replace(config, tied_embeddings=True)).module == "model.embed_tokens"
    assert source_of(head, replace(config, tied_embeddings=False)).module == "lm_head"


@pytest.mark.parametrize("name", ["model.layers.0.attn.gate.weight", "vision.weight", "model.layers.9.mlp.x.weight"])
def test_an_unknown_weight_is_refused(config: ModelConfig, name: str) -> None:
    with pytest.raises(errors.GraphMismatchError, match="no checkpoint tensor"):
        source_of(name, config)


def _graph_without_weights(names: list[str], columns: int, rows: int) -> ir.Model:
    """One MatMul on a placeholder for each name, as the builder leaves them."""
    value = ir.Value(name="x", type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape([1, columns]))
    graph = ir.Graph([value], [], nodes=[], opset_imports={"": 22, "com.microsoft": 1}, name="g")
    for name in names:
        shape = ir.Shape([columns, rows])
        weight = ir.Value(name=name, type=ir.TensorType(ir.DataType.FLOAT), shape=shape)
        weight.const_value = ir.LazyTensor(lambda: ir.tensor(0), dtype=ir.DataType.FLOAT, shape=shape, name=name)
        graph.register_initializer(weight)
        node = ir.node("MatMul", inputs=[value, weight], name=f"/{name}")
        node.outputs[0].name = f"out:{name}"
        graph.append(node)
        graph.outputs.append(node.outputs[0])
    return ir.Model(graph, ir_version=10)


def _down_projections(folder: Path, config: ModelConfig) -> tuple[Path, dict[str, QuantSpec]]:
    """A quantized checkpoint of down projections alone."""
    rows, columns = config.hidden_size, config.intermediate_size
    modules = [f"model.layers.{layer}.mlp.down_proj" for layer in range(config.layer_count)]
    weight = np.random.default_rng(0).standard_normal((rows, columns), dtype=np.float32)
    done = quantize_rows(weight, SPEC, "rtn")
    assert done.zero_points is not None
    parts: dict[str, NDArray[Any]] = {
        "qweight": pack(done.codes, 4),
        "scales": done.scales,
        "qzeros": pack(done.zero_points, 4),
    }
    kinds = {"qweight": "U8", "scales": "F32", "qzeros": "U8"}
    path = folder / "model.safetensors"
    shapes = {f"{m}.{part}": (kinds[part], parts[part].shape) for m in modules for part in parts}
    with Writer(path, shapes) as writer:
        for module in modules:
            for part, rows_of in parts.items():
                writer.write(f"{module}.{part}", 0, rows_of)
    return path, dict.fromkeys(modules, SPEC)


def _names(config: ModelConfig) -> list[str]:
    return [f"model.layers.{layer}.mlp.down_proj.MatMul.weight" for layer in range(config.layer_count)]


def test_bound_weights_are_the_files_bytes(tmp_path: Path, config: ModelConfig) -> None:
    path, specs = _down_projections(tmp_path, config)
    model = _graph_without_weights(_names(config), config.intermediate_size, config.hidden_size)
    bind_weights(model, weights_of(path), specs, config, accuracy_level=4)
    ir.save(model, tmp_path / "model.onnx", external_data="model.onnx.data", size_threshold_bytes=0)
    facts = inspect_graph(tmp_path / "model.onnx")
    assert facts.operators == {"MatMulNBits": config.layer_count}
    plan = [WeightPlan(module=m, rows=config.hidden_size, columns=config.intermediate_size, spec=SPEC) for m in specs]
    check_graph(facts, plan, tied=False)
    with pytest.raises(errors.GraphMismatchError, match="what the plan says"):
        check_graph(facts, plan[:1], tied=False)
    eight = [replace(weight, spec=QuantSpec(8, 32, symmetric=False)) for weight in plan]
    with pytest.raises(errors.GraphMismatchError, match="what the plan says"):
        check_graph(facts, eight, tied=False)


def test_a_weight_left_over_is_an_error(tmp_path: Path, config: ModelConfig) -> None:
    path, specs = _down_projections(tmp_path, config)
    model = _graph_without_weights(_names(config)[:1], config.intermediate_size, config.hidden_size)
    with pytest.raises(errors.GraphMismatchError, match="unused in the graph, or used twice"):
        bind_weights(model, weights_of(path), specs, config, accuracy_level=4)


def test_missing_external_data_is_an_error(tmp_path: Path, config: ModelConfig) -> None:
    path, specs = _down_projections(tmp_path, config)
    model = _graph_without_weights(_names(config), config.intermediate_size, config.hidden_size)
    bind_weights(model, weights_of(path), specs, config, accuracy_level=4)
    ir.save(model, tmp_path / "model.onnx", external_data="model.onnx.data", size_threshold_bytes=0)
    data = tmp_path / "model.onnx.data"
    data.write_bytes(data.read_bytes()[:-8])
    with pytest.raises(errors.GraphMismatchError, match="incomplete"):
        inspect_graph(tmp_path / "model.onnx")


def test_a_file_that_is_no_model_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(b"\xff" * 64)
    with pytest.raises(errors.GraphMismatchError, match="cannot be read"):
        inspect_graph(path)
