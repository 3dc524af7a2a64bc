"""The graphs of an NPU's stages: heads in another order, norms, weights, and the check of what was written."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from phiforge import errors
from phiforge.activations import Range, expected_names
from phiforge.checkpoint.layout import Writer
from phiforge.graph.npu.check import check_stages
from phiforge.graph.npu.emit import Emitter, Quantizers, activation_codes, save_model, save_model_on
from phiforge.graph.npu.layer import FLOAT, DecoderShape, head_order, rotary_tables, write_norm
from phiforge.graph.npu.stages import EMBEDDING_MODULE, HEAD_MODULE, StageWriter
from phiforge.graph.npu.weights import NpuWeights
from phiforge.plan import NpuPlan, WeightPlan
from phiforge.quantize import Quantized, QuantSpec, dequantize, pack, quantize_rows

Floats = NDArray[np.float32]

ROWS_A_CHANNEL = QuantSpec(4, 16, symmetric=True, per_channel=True, positive=True)
BLOCKS = QuantSpec(8, 16, symmetric=True, positive=True)
TOKENS = 64


def shape_of(pairs: int = 6, rotated: int = 4, heads: int = 2, kv_heads: int = 1, context: int = 128) -> DecoderShape:
    """A small decoder's shape, attention on the NPU; of a head's `pairs` pairs `rotated` are rotated."""
    angles = np.arange(context)[:, None] / 100 ** (np.arange(rotated) / rotated)
    return DecoderShape(
        hidden_size=32,
        intermediate_size=48,
        head_count=heads,
        kv_head_count=kv_heads,
        head_size=2 * pairs,
        vocab_size=40,
        layer_count=2,
        epsilon=1e-5,
        cosines=np.cos(angles).astype(np.float32),
        sines=np.sin(angles).astype(np.float32),
        kv_cache_bits=16,
        attention="npu",
    )


def rotate(heads: Floats, cosines: Floats, sines: Floats) -> Floats:
    """The rotary embedding of Phi-3, of the first 2 r elements of each head: [tokens, heads, size] by [tokens, r]."""
    count = cosines.shape[1]
    first, second, rest = np.split(heads, [count, 2 * count], axis=2)
    cosine, sine = cosines[:, None], sines[:, None]
    return np.concatenate([first * cosine - second * sine, second * cosine + first * sine, rest], axis=2)


@given(st.data())
def test_a_full_rotation_of_heads_in_order_is_the_partial_one(data: st.DataObject) -> None:
    pairs = data.draw(st.integers(1, 12))
    rotated, heads, kv_heads = (
        data.draw(st.integers(1, pairs)),
        data.draw(st.integers(1, 4)),
        data.draw(st.integers(1, 2)),
    )
    shape = shape_of(pairs, rotated, heads, kv_heads, context=8)
    random = np.random.default_rng(data.draw(st.integers(0, 100)))
    made = random.normal(size=(shape.context, shape.qkv_size)).astype(np.float32)
    order, turned = head_order(shape), heads + kv_heads

    assert sorted(order) == list(range(shape.qkv_size))
    np.testing.assert_array_equal(
        order[turned * shape.head_size :], np.arange(turned * shape.head_size, shape.qkv_size)
    )
    as_heads = (shape.context, heads + 2 * kv_heads, shape.head_size)
    plain = rotate(made.reshape(as_heads)[:, :turned], shape.cosines, shape.sines)
    full = rotate(made[:, order].reshape(as_heads)[:, :turned], *rotary_tables(shape))
    same = plain.reshape(shape.context, -1)[:, order[: turned * shape.head_size]]
    np.testing.assert_array_equal(full.reshape(shape.context, -1), same)
    for query in range(heads):
        before, after = (found[:, query] @ found[:, heads].T for found in (plain, full))
        np.testing.assert_allclose(before, after, rtol=1e-4, atol=1e-4)


def test_tables_are_as_they_are_where_the_cpu_rotates_or_all_is_rotated() -> None:
    for shape in (replace(shape_of(), attention="cpu"), shape_of(pairs=4, rotated=4)):
        for found, given_table in zip(rotary_tables(shape), (shape.cosines, shape.sines), strict=True):
            np.testing.assert_array_equal(found, given_table)


@pytest.mark.parametrize("weight", [np.ones(8), np.linspace(-0.5, 2, 8), np.linspace(0.2, 0.3, 8), -np.ones(8)])
def test_a_norms_weight_is_stored_in_16_bits(weight: NDArray[np.float64]) -> None:
    emitter = Emitter()
    hidden = emitter.input("hidden", FLOAT, (1, 2, 8))
    normed = write_norm(emitter, hidden, weight.astype(np.float32), 1e-6, "norm")
    norm, widen = normed.producer(), emitter.nodes[0]
    assert norm is not None and norm.op_type == "SimplifiedLayerNormalization"
    assert norm.attributes["epsilon"].as_float() == pytest.approx(1e-6)
    codes, scale, zero = (constant(value) for value in widen.inputs)
    assert codes.dtype == np.uint16
    held = (codes.astype(np.float64) - float(zero)) * float(scale)
    np.testing.assert_allclose(held, weight, atol=0.51 * float(scale))
    if abs(weight).min() == abs(weight).max():
        np.testing.assert_array_equal(held.astype(np.float32), weight.astype(np.float32))


def constant(value: ir.Value | None) -> NDArray[np.generic]:
    assert value is not None and value.const_value is not None
    found: NDArray[np.generic] = value.const_value.numpy()
    return found


def test_an_activation_that_is_off_is_stored_as_it_is() -> None:
    quantizers = Quantizers({"a": Range(-1, 1), "b": Range(-1, 1)}, 2.0, frozenset({"b"}))
    emitter = Emitter()
    value = emitter.input("x", FLOAT, (1, 4))
    assert quantizers.store(emitter, value, "b") is value
    assert quantizers.of("b") is None
    assert not emitter.nodes
    stored = quantizers.store(emitter, value, "a")
    assert [node.op_type for node in emitter.nodes] == ["QuantizeLinear", "DequantizeLinear"]
    assert stored.dtype == FLOAT
    scale, _ = quantizers.of("a") or (0, 0)
    assert scale == pytest.approx(4 / 65535)


# A decoder's weights as `quantize_checkpoint` stores them, with what they stand for.
class Stored:
    def __init__(self, path: Path, specs: dict[str, QuantSpec], shapes: dict[str, tuple[int, int]]) -> None:
        self.specs, self.file = specs, path
        self.quantized = {name: quantize_rows(made(name, shape), specs[name], "rtn") for name, shape in shapes.items()}
        norms = {f"{name}.weight": made(name, (1, 32))[0] for name in NORMS}
        tensors = {f"{name}.{part}": value for name, item in self.quantized.items() for part, value in parts(item)}
        everything: dict[str, NDArray[np.generic]] = {**tensors, **norms}
        kinds = {np.dtype(np.uint8): "U8", np.dtype(np.float32): "F32"}
        with Writer(path, {name: (kinds[value.dtype], value.shape) for name, value in everything.items()}) as writer:
            for name, value in everything.items():
                writer.write(name, 0, value)

    def weights(self) -> NpuWeights:
        return NpuWeights.of(self.file, self.specs)

    def plan(self) -> list[WeightPlan]:
        shapes = {name: item.codes.shape for name, item in self.quantized.items()}
        return [
            WeightPlan(module=name, rows=rows, columns=columns, spec=self.specs[name], row_scales=True)
            for name, (rows, columns) in shapes.items()
        ]


NORMS = [f"model.layers.{i}.{part}_layernorm" for i in (0, 1) for part in ("input", "post_attention")] + ["model.norm"]


def made(name: str, shape: tuple[int, int]) -> Floats:
    return np.random.default_rng(len(name)).normal(size=shape).astype(np.float32)


def parts(item: Quantized) -> list[tuple[str, NDArray[np.generic]]]:
    return [("qweight", pack(item.codes, item.spec.bits)), ("scales", item.scales)]


@pytest.fixture
def stored(tmp_path: Path) -> Stored:
    shape = shape_of()
    shapes = {EMBEDDING_MODULE: (40, 32), HEAD_MODULE: (40, 32)}
    for layer in range(2):
        module = f"model.layers.{layer}"
        shapes[f"{module}.self_attn.qkv_proj"] = (shape.qkv_size, 32)
        shapes[f"{module}.self_attn.o_proj"] = (32, 32)
        shapes[f"{module}.mlp.gate_up_proj"] = (96, 32)
        shapes[f"{module}.mlp.down_proj"] = (32, 48)
    in_layers = {name: ROWS_A_CHANNEL for name in shapes if "layers" in name}
    return Stored(tmp_path / "w.safetensors", {EMBEDDING_MODULE: BLOCKS, HEAD_MODULE: BLOCKS, **in_layers}, shapes)


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("per_channel", [True, False])
def test_a_matrix_is_the_quantized_weight_turned(bits: int, per_channel: bool, tmp_path: Path) -> None:
    spec = QuantSpec(bits, 16, symmetric=True, per_channel=per_channel, positive=True)
    stored = Stored(tmp_path / "w.safetensors", {"m": spec}, {"m": (24, 64)})
    rows = np.random.default_rng(0).permutation(24)[:20]
    emitter = Emitter()
    found = stored.weights().matrix(emitter, "m", rows, "site").producer()
    assert found is not None
    codes, scales, zeros = (constant(value).astype(np.float32) for value in found.inputs)
    assert scales.shape == zeros.shape == ((20,) if per_channel else (4, 20))
    assert found.attributes["axis"].as_int() == (1 if per_channel else 0)
    assert not zeros.any()
    wide = scales if per_channel else np.repeat(scales, found.attributes["block_size"].as_int(), axis=0)
    np.testing.assert_array_equal((codes * wide).T, dequantize(stored.quantized["m"])[rows])


def test_rows_that_nobody_asked_for_are_told(stored: Stored) -> None:
    weights, module = stored.weights(), "model.layers.0.self_attn.o_proj"
    weights.matrix(Emitter(), module, np.arange(31), "site")
    assert f"{module}.qweight" in weights.unused()
    weights.matrix(Emitter(), module, np.arange(31, 32), "other")
    assert not [name for name in weights.unused() if name.startswith(module)]


def writer_of(stored: Stored, *, off: frozenset[str] = frozenset(), embedding_on_npu: bool = False) -> StageWriter:
    ranges = dict.fromkeys(expected_names(2), Range(-3.0, 3.0))
    return StageWriter(
        shape=shape_of(),
        weights=stored.weights(),
        quantizers=Quantizers(ranges, 1.0, off),
        tied=False,
        pad_id=0,
        embedding_on_npu=embedding_on_npu,
    )


@pytest.mark.parametrize("off", [frozenset[str](), frozenset(expected_names(2))])
def test_a_table_on_the_npu_holds_the_codes_of_the_embedding(stored: Stored, off: frozenset[str]) -> None:
    writer = writer_of(stored, off=off, embedding_on_npu=True)
    graph = writer.part((0, 1), TOKENS).graph
    assert [(value.name, value.dtype) for value in graph.inputs][:1] == [("input_ids", ir.DataType.INT32)]
    expected = dequantize(stored.quantized[EMBEDDING_MODULE])
    table = constant(graph.initializers["embedding.table"])
    quantizer = writer.quantizers.of("embedding")
    np.testing.assert_array_equal(table, expected if quantizer is None else activation_codes(expected, quantizer))
    # The runtime gives all stages ids of one type.
    for other in (writer.head(), writer.selection()):
        assert {value.dtype for value in other.graph.inputs if value.name == "input_ids"} == {ir.DataType.INT32}


@pytest.mark.parametrize("off", [frozenset[str](), frozenset(expected_names(2))])
def test_a_head_on_the_npu_is_three_stages(stored: Stored, off: frozenset[str]) -> None:
    """What one gives the next takes under the same name, type and width."""
    writer = writer_of(stored, off=off)
    stages = [writer.part((1, 2), 1), writer.selection(), writer.npu_head(), writer.logits()]
    for before, after in pairwise(stages):
        given_value, taken = before.graph.outputs[-1], after.graph.inputs[0]
        assert (given_value.name, given_value.dtype) == (taken.name, taken.dtype)
        assert given_value.shape is not None and taken.shape is not None
        assert given_value.shape[2] == taken.shape[2]
    assert stages[-1].graph.outputs[0].dtype == FLOAT


def test_a_cache_of_8_bits_is_widened_for_attention_on_the_npu(stored: Stored) -> None:
    writer = writer_of(stored)
    graph = replace(writer, shape=replace(writer.shape, kv_cache_bits=8)).part((0, 2), 1).graph
    caches = [
        value for value in (*graph.inputs, *graph.outputs) if "key" in str(value.name) or ".value" in str(value.name)
    ]
    assert len(caches) == 8 and {value.dtype for value in caches} == {ir.DataType.INT8}
    for node in graph:
        if node.op_type == "GroupQueryAttention":
            for value in (*node.inputs[3:5], *node.outputs[1:]):
                assert value is not None and value.dtype == ir.DataType.FLOAT16


@pytest.fixture
def plan() -> NpuPlan:
    return NpuPlan(
        soc_model=60,
        architecture="v73",
        confirmed=False,
        context_tokens=128,
        window_tokens=TOKENS,
        kv_cache_bits=16,
        attention="npu",
        parts=((0, 1), (1, 2)),
    )


def write(writer: StageWriter, folder: Path, plan: NpuPlan, *, head_on_npu: bool = False) -> Path:
    folder.mkdir()
    ends = [] if writer.embedding_on_npu else [("embedding", writer.embedding())]
    if head_on_npu:
        ends += [("selection", writer.selection()), ("head", writer.npu_head()), ("logits", writer.logits())]
    else:
        ends += [("head", writer.head())]
    for name, model in ends:
        save_model(model, folder / f"{name}.onnx", f"{name}.data")
    for number, layers in enumerate(plan.parts):
        save_model(writer.part(layers, TOKENS), folder / f"prefill_{number}.onnx", f"part_{number}.data")
        save_model_on(writer.part(layers, 1), folder / f"decode_{number}.onnx", folder / f"prefill_{number}.onnx")
    return folder


@pytest.mark.parametrize("embedding", [True, False])
@pytest.mark.parametrize("head", [True, False])
def test_stages_that_hold_the_planned_weights_pass(
    stored: Stored, plan: NpuPlan, embedding: bool, head: bool, tmp_path: Path
) -> None:
    writer = writer_of(stored, embedding_on_npu=embedding)
    folder = write(writer, tmp_path / "qdq", plan, head_on_npu=head)
    operators = check_stages(folder, stored.plan(), plan, tied=False)
    assert operators["GroupQueryAttention"] == 2
    assert not writer.weights.unused()


@pytest.mark.parametrize(
    ("module", "spec", "named"),
    [
        ("model.layers.1.mlp.down_proj", BLOCKS, "The prefill graphs do not hold"),
        ("model.layers.0.self_attn.qkv_proj", replace(ROWS_A_CHANNEL, per_channel=False), "The prefill graphs"),
        (HEAD_MODULE, None, "Embedding and head do not hold"),
    ],
)
def test_stages_that_hold_other_weights_are_refused(
    stored: Stored, plan: NpuPlan, module: str, spec: QuantSpec | None, named: str, tmp_path: Path
) -> None:
    folder = write(writer_of(stored), tmp_path / "qdq", plan)
    weights = [replace(item, spec=spec or item.spec) if item.module == module else item for item in stored.plan()]
    if spec is None:
        weights = [item for item in weights if item.module != module]
    with pytest.raises(errors.GraphMismatchError, match=named):
        check_stages(folder, weights, plan, tied=False)


@pytest.mark.parametrize("damage", ["absent", "no-onnx", "other-decode"])
def test_stages_that_cannot_be_read_or_differ_by_length_are_refused(
    stored: Stored, plan: NpuPlan, damage: str, tmp_path: Path
) -> None:
    folder = write(writer_of(stored), tmp_path / "qdq", plan)
    broken = folder / "decode_1.onnx"
    if damage == "absent":
        broken.unlink()
    elif damage == "no-onnx":
        broken.write_bytes(b"\xff" * 100)
    else:
        save_model(writer_of(stored).part((1, 1), 1), broken, "other.data")
    with pytest.raises(errors.GraphMismatchError, match="decode"):
        check_stages(folder, stored.plan(), plan, tied=False)
