"""Small quantized parts of a decoder, as the NPU gets them: uint16 activations, int4 weights, the attention whole."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import ml_dtypes
import numpy as np
import onnx
from numpy.typing import ArrayLike, NDArray
from onnx import TensorProto, helper, numpy_helper

HIDDEN, HEADS, KV_HEADS, HEAD_SIZE, CONTEXT, LAYERS = 64, 2, 1, 32, 64, 2
PAST_TOKENS = 20
CODES, ZERO_POINT = 65535, 32768
KV_SHAPE = [1, KV_HEADS, CONTEXT, HEAD_SIZE]
GRAPH_NAME = "part"

Attention = Literal["cpu", "npu"]


class Part:
    """A graph under construction; `take` and the others append nodes and return the name of what they compute."""

    def __init__(self, tokens: int) -> None:
        self.random = np.random.default_rng(0)
        self.nodes: list[onnx.NodeProto] = []
        self.weights: dict[str, onnx.TensorProto] = {}
        self.inputs = [
            helper.make_tensor_value_info("h_in", TensorProto.UINT16, [1, tokens, HIDDEN]),
            helper.make_tensor_value_info("past_seq_len", TensorProto.INT32, [1, 1]),
            helper.make_tensor_value_info("total_seq_len", TensorProto.INT32, []),
        ]
        self.outputs: list[onnx.ValueInfoProto] = []
        self.tokens = tokens

    def weight(self, name: str, values: ArrayLike) -> str:
        self.weights[name] = numpy_helper.from_array(np.asarray(values), name)
        return name

    def node(self, operator: str, inputs: list[str], output: str, **attributes: Any) -> str:
        self.nodes.append(helper.make_node(operator, inputs, [output], name=f"{output}_node", **attributes))
        return output

    def codes(self, name: str, reach: float) -> list[str]:
        scale = self.weight(f"{name}_scale", np.float32(2 * reach / CODES))
        return [scale, self.weight(f"{name}_zero", np.uint16(ZERO_POINT))]

    def quantized(self, name: str, reach: float) -> str:
        codes = self.codes(name, reach)
        self.node("QuantizeLinear", [name, *codes], f"{name}_q")
        return self.node("DequantizeLinear", [f"{name}_q", *codes], f"{name}_d")

    def linear(self, value: str, name: str, columns: int) -> str:
        codes = self.random.integers(-7, 8, size=(HIDDEN, columns), dtype=np.int8).astype(ml_dtypes.int4)
        scales = (HIDDEN**-0.5 / 7 * 2 * self.random.uniform(0.8, 1.2, columns)).astype(np.float32)
        zeros = np.zeros(columns, np.int8).astype(ml_dtypes.int4)
        parts = [self.weight(f"{name}.{kind}", v) for kind, v in (("w", codes), ("scale", scales), ("zero", zeros))]
        self.node("DequantizeLinear", parts, f"{name}.weight", axis=1)
        return self.quantized(self.node("MatMul", [value, f"{name}.weight"], name), 12)

    def attend(self, value: str, layer: int, rotary: tuple[str, str]) -> str:
        half = self.node("Cast", [value], f"l{layer}_qkv_half", to=TensorProto.FLOAT16)
        past, present = ([f"{tense}.{layer}.{kind}" for kind in ("key", "value")] for tense in ("past", "present"))
        self.inputs += [helper.make_tensor_value_info(name, TensorProto.FLOAT16, KV_SHAPE) for name in past]
        self.outputs += [helper.make_tensor_value_info(name, TensorProto.FLOAT16, KV_SHAPE) for name in present]
        out = f"l{layer}_attended_half"
        attention = helper.make_node(
            "GroupQueryAttention", [half, "", "", *past, "past_seq_len", "total_seq_len", *rotary], [out, *present],
            name=f"l{layer}_attention", domain="com.microsoft", num_heads=HEADS, kv_num_heads=KV_HEADS,
            scale=HEAD_SIZE**-0.5, do_rotary=1,
        )  # fmt: skip
        self.nodes.append(attention)
        return self.quantized(self.node("Cast", [out], f"l{layer}_attended", to=TensorProto.FLOAT), 12)

    def save(self, path: Path, last: str) -> Path:
        self.outputs.append(helper.make_tensor_value_info(last, TensorProto.UINT16, [1, self.tokens, HIDDEN]))
        graph = helper.make_graph(self.nodes, GRAPH_NAME, self.inputs, self.outputs, list(self.weights.values()))
        opsets = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
        path.parent.mkdir(parents=True, exist_ok=True)
        model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
        onnx.save(model, path, save_as_external_data=True, location=f"{path.name}.data", size_threshold=256)
        return path


def write_part(path: Path, *, tokens: int = 16, attention: Attention = "cpu", odd: str | None = None) -> Path:
    """Write a part of two layers; `odd` is an operator of one input put between them, such as one QNN does not know."""
    part = Part(tokens)
    rotary = _rotary(part, attention)
    x = part.node("DequantizeLinear", ["h_in", *part.codes("h_in", 10)], "h_in_d")
    for layer in range(LAYERS):
        qkv = part.linear(x, f"l{layer}_qkv", (HEADS + 2 * KV_HEADS) * HEAD_SIZE)
        attended = part.linear(part.attend(qkv, layer, rotary), f"l{layer}_o", HIDDEN)
        x = part.quantized(part.node("Add", [x, attended], f"l{layer}_sum"), 30)
        if odd and layer == 0:
            x = part.quantized(part.node(odd, [x], "odd"), 30)
    return part.save(path, x.removesuffix("d") + "q")


def _rotary(part: Part, attention: Attention) -> tuple[str, str]:
    """Cosines and sines: partial rotary on the CPU; padded to full rotary on the NPU, which knows no other."""
    turned = HEAD_SIZE // 2 if attention == "npu" else HEAD_SIZE // 4
    angles = np.arange(CONTEXT)[:, None] / 10000 ** (np.arange(turned) / turned)
    return (
        part.weight("cos", np.cos(angles).astype(np.float16)),
        part.weight("sin", np.sin(angles).astype(np.float16)),
    )


def feed(tokens: int) -> dict[str, NDArray[Any]]:
    """Inputs of a part: PAST_TOKENS in the cache, `tokens` new ones."""
    random = np.random.default_rng(1)
    hidden = ZERO_POINT + random.normal(size=(1, tokens, HIDDEN)) * 6000
    total = PAST_TOKENS + tokens
    values: dict[str, NDArray[Any]] = {
        "h_in": hidden.clip(0, CODES).astype(np.uint16),
        "past_seq_len": np.array([[total - 1]], np.int32),
        "total_seq_len": np.array(total, np.int32),
    }
    for layer in range(LAYERS):
        for kind in ("key", "value"):
            past = np.zeros(KV_SHAPE, np.float16)
            past[:, :, :PAST_TOKENS] = random.normal(size=(1, KV_HEADS, PAST_TOKENS, HEAD_SIZE))
            values[f"past.{layer}.{kind}"] = past
    return values
