"""One decoder layer as a graph of an NPU: int4 or int8 weights, 16-bit activations, attention on the CPU or on the NPU.

Between two operators a value is stored as 16-bit codes (QuantizeLinear, DequantizeLinear), from which the compiler
makes integer kernels. GroupQueryAttention works on floats: on the CPU with a cache in float16 or in int8, on the NPU in
float16, to which a cache in int8 is widened for it.

QNN's own GroupQueryAttention (2.51) rotates wrongly where only a part of each head is rotated (docs/log.md). With the
elements of every query and key head in another order, and ones and zeros for the angles of those that are not rotated,
a full rotation does the same: element i of the first half is rotated with element i of the second half.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

from phiforge.activations import Range, layer_site
from phiforge.graph.npu.emit import activation_codes

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from phiforge.graph.npu.emit import Dims, Emitter, Quantizers
    from phiforge.graph.npu.weights import NpuWeights

    Floats = NDArray[np.float32]

FLOAT, HALF = ir.DataType.FLOAT, ir.DataType.FLOAT16
INT8_MAX = 127
CACHE_CODE = ir.DataType.INT8
KEY_VALUE = ("key", "value")
PAST_LENGTH, TOTAL_LENGTH = "past_seq_len", "total_seq_len"
CACHE_LENGTH = "cache_length"


@dataclass(frozen=True, kw_only=True)
class DecoderShape:
    """What the graphs of a decoder need to know of it.

    Attributes:
        epsilon: Of the norms.
        cosines: Of the rotary embedding, float32 [context, half the rotated elements of a head].
        sines: The same.
        kv_cache_bits: 8 or 16; 16 is float16.
        attention: "cpu" or "npu".
    """

    hidden_size: int
    intermediate_size: int
    head_count: int
    kv_head_count: int
    head_size: int
    vocab_size: int
    layer_count: int
    epsilon: float
    cosines: Floats
    sines: Floats
    kv_cache_bits: int
    attention: str

    @property
    def on_npu(self) -> bool:
        """Whether attention is computed on the NPU."""
        return self.attention == "npu"

    @property
    def context(self) -> int:
        """The most tokens of a sequence."""
        return len(self.cosines)

    @property
    def qkv_size(self) -> int:
        """Rows of the weight that makes queries, keys and values."""
        return (self.head_count + 2 * self.kv_head_count) * self.head_size

    @property
    def attention_size(self) -> int:
        """What attention gives for one token."""
        return self.head_count * self.head_size


@dataclass(frozen=True, kw_only=True)
class LayerWriter:
    """Writes layers into one graph, which takes `tokens` tokens at a time."""

    emitter: Emitter
    shape: DecoderShape
    weights: NpuWeights
    quantizers: Quantizers
    tokens: int
    lengths: tuple[ir.Value, ir.Value]

    def write(self, index: int, hidden: ir.Value) -> ir.Value:
        """Write one layer; `hidden` and the result are float32 [1, tokens, hidden size]."""
        shape, module = self.shape, f"model.layers.{index}"
        normed = self._norm(index, hidden, "input_layernorm", "input_norm")
        rows = head_order(shape) if shape.on_npu else np.arange(shape.qkv_size)
        qkv = self._linear(index, normed, f"{module}.self_attn.qkv_proj", rows, "qkv")
        attended = self._store(index, self._attend(index, qkv), "attention")
        wide = np.arange(shape.hidden_size)
        made = self._linear(index, attended, f"{module}.self_attn.o_proj", wide, "attention_output")
        hidden = self._binary("Add", index, hidden, made, "attention_residual")
        normed = self._norm(index, hidden, "post_attention_layernorm", "post_attention_norm")
        inner = np.arange(shape.intermediate_size)
        gate = self._linear(index, normed, f"{module}.mlp.gate_up_proj", inner, "gate")
        up = self._linear(index, normed, f"{module}.mlp.gate_up_proj", inner + len(inner), "up")
        name = layer_site(index, "sigmoid")
        sigmoid = self._store(
            index, self.emitter.node("Sigmoid", [gate], name, FLOAT, self._dims(len(inner))), "sigmoid"
        )
        silu = self._binary("Mul", index, gate, sigmoid, "silu")
        product = self._binary("Mul", index, silu, up, "product")
        made = self._linear(index, product, f"{module}.mlp.down_proj", wide, "mlp_output")
        name = layer_site(index, "residual")
        return self.emitter.node("Add", [hidden, made], name, FLOAT, self._dims(shape.hidden_size))

    def _dims(self, width: int) -> tuple[int, int, int]:
        return (1, self.tokens, width)

    def _store(self, index: int, value: ir.Value, site: str) -> ir.Value:
        return self.quantizers.store(self.emitter, value, layer_site(index, site))

    def _binary(self, operator: str, index: int, left: ir.Value, right: ir.Value, site: str) -> ir.Value:
        assert left.shape is not None
        value = self.emitter.node(operator, [left, right], layer_site(index, site), FLOAT, left.shape.dims)
        return self._store(index, value, site)

    def _norm(self, index: int, hidden: ir.Value, module: str, site: str) -> ir.Value:
        weight = self.weights.floats(f"model.layers.{index}.{module}.weight")
        name = layer_site(index, site)
        value = write_norm(self.emitter, hidden, weight, self.shape.epsilon, name)
        return self._store(index, value, site)

    def _linear(self, index: int, value: ir.Value, module: str, rows: NDArray[np.int64], site: str) -> ir.Value:
        name = layer_site(index, site)
        weight = self.weights.matrix(self.emitter, module, rows, name)
        found = self.emitter.node("MatMul", [value, weight], name, FLOAT, self._dims(len(rows)))
        return self._store(index, found, site)

    def _attend(self, index: int, qkv: ir.Value) -> ir.Value:
        """Attention with its cache, which is an input and an output of the graph."""
        shape, emitter, name = self.shape, self.emitter, layer_site(index, "attention")
        half = shape.kv_cache_bits == 16 or shape.on_npu
        dtype = HALF if half else FLOAT
        if half:
            qkv = emitter.node("Cast", [qkv], f"{name}/qkv/Cast", HALF, self._dims(shape.qkv_size), to=int(HALF))
        dims = (1, shape.kv_head_count, shape.context if shape.on_npu else CACHE_LENGTH, shape.head_size)
        told: dict[str, int | float | str] = {
            "num_heads": shape.head_count,
            "kv_num_heads": shape.kv_head_count,
            "scale": shape.head_size**-0.5,
            "do_rotary": 1,
        }
        past = [self._past(index, part, dims) for part in KEY_VALUE]
        inputs: list[ir.Value | None] = [qkv, None, None, *past, *self.lengths, *self._rotary(half)]
        if not half:
            told |= {"kv_cache_bit_width": 8, "k_quant_type": "PER_TENSOR", "v_quant_type": "PER_TENSOR"}
            inputs += [None, None, None, *(self._cache_scale(index, part) for part in KEY_VALUE)]
        kept = HALF if half else CACHE_CODE
        found, *present = emitter.contrib(
            "GroupQueryAttention",
            inputs,
            name if not half else f"{name}/GroupQueryAttention",
            [
                (name if not half else f"{name}/half", dtype, self._dims(shape.attention_size)),
                *((f"{name}/{part}", kept, dims) for part in KEY_VALUE),
            ],
            told,
        )
        for part, value in zip(KEY_VALUE, present, strict=True):
            emitter.output(self._present(index, part, value), f"present.{index}.{part}")
        if not half:
            return found
        return emitter.node("Cast", [found], name, FLOAT, self._dims(shape.attention_size), to=int(FLOAT))

    def _past(self, index: int, part: str, dims: Dims) -> ir.Value:
        """The cache as attention reads it."""
        name = f"past_key_values.{index}.{part}"
        value = self.emitter.input(name, HALF if self.shape.kv_cache_bits == 16 else CACHE_CODE, dims)
        if not self._is_widened:
            return value
        quantizer = self._cache_quantizer(index, part)
        return self.emitter.node("DequantizeLinear", [value, *quantizer], f"{name}/half", HALF, dims)

    def _present(self, index: int, part: str, value: ir.Value) -> ir.Value:
        """The cache as it is kept."""
        if not self._is_widened:
            return value
        assert value.shape is not None
        name = f"present.{index}.{part}/codes"
        quantizer = self._cache_quantizer(index, part)
        return self.emitter.node("QuantizeLinear", [value, *quantizer], name, CACHE_CODE, value.shape.dims)

    @property
    def _is_widened(self) -> bool:
        """Whether a cache of 8 bits is made float16 for attention and codes again after it.

        QNN's GroupQueryAttention takes no integers. Codes that go there and back stay what they are.
        """
        return self.shape.on_npu and self.shape.kv_cache_bits == 8

    def _rotary(self, half: bool) -> list[ir.Value]:
        tables = rotary_tables(self.shape)
        kinds = np.float16 if half else np.float32
        return [
            self.emitter.constant(f"{name}_cache", table.astype(kinds))
            for name, table in zip(("cos", "sin"), tables, strict=True)
        ]

    def _cache_scale(self, index: int, part: str) -> ir.Value:
        scale = np.array([self._cache_step(index, part)], dtype=np.float32)
        return self.emitter.constant(f"layers.{index}.{part}_cache/scale", scale)

    def _cache_quantizer(self, index: int, part: str) -> tuple[ir.Value, ir.Value]:
        scale, zero = np.float16(self._cache_step(index, part)), np.int8(0)
        return (
            self.emitter.constant(f"layers.{index}.{part}_cache/scale", scale),  # type: ignore[arg-type]
            self.emitter.constant(f"layers.{index}.{part}_cache/zero_point", zero),  # type: ignore[arg-type]
        )

    def _cache_step(self, index: int, part: str) -> float:
        return self.quantizers.ranges[layer_site(index, part)].magnitude * self.quantizers.headroom / INT8_MAX


def write_norm(emitter: Emitter, hidden: ir.Value, weight: Floats, epsilon: float, name: str) -> ir.Value:
    """Write a root-mean-square norm; its weight is stored in 16 bits like an activation, exact where it is all ones."""
    assert hidden.shape is not None
    quantizer = Range(float(weight.min()), float(weight.max())).quantizer()
    codes = activation_codes(weight, quantizer)
    held = emitter.float_of(emitter.constant(f"{name}/weight", codes), quantizer, f"{name}/weight")
    return emitter.node(
        "SimplifiedLayerNormalization", [hidden, held], name, FLOAT, hidden.shape.dims, epsilon=epsilon, axis=-1
    )


def head_order(shape: DecoderShape) -> NDArray[np.int64]:
    """Rows of the query-key-value weight, with the elements of each query and key head in the order of a full rotation.

    With r pairs rotated of p = head size / 2 pairs, a head's elements 0 to r - 1 and r to 2r - 1 belong together, and
    2r to the end are not rotated. The order is: the first of each pair, then half of the rest; the second of each pair,
    then the other half.
    """
    rotated, size = shape.cosines.shape[1], shape.head_size
    rest = size // 2 - rotated
    first = np.concatenate([np.arange(rotated), 2 * rotated + np.arange(rest)])
    second = np.concatenate([rotated + np.arange(rotated), 2 * rotated + rest + np.arange(rest)])
    head = np.concatenate([first, second])
    turned = shape.head_count + shape.kv_head_count
    heads = (np.arange(turned)[:, None] * size + head).reshape(-1)
    return np.concatenate([heads, np.arange(turned * size, shape.qkv_size)])


def rotary_tables(shape: DecoderShape) -> tuple[Floats, Floats]:
    """Cosines and sines as the graph's attention takes them; on the NPU for a full rotation (see `head_order`)."""
    if not shape.on_npu:
        return shape.cosines, shape.sines
    rest = (shape.context, shape.head_size // 2 - shape.cosines.shape[1])
    return (
        np.concatenate([shape.cosines, np.ones(rest, np.float32)], axis=1),
        np.concatenate([shape.sines, np.zeros(rest, np.float32)], axis=1),
    )
