"""Give a graph without weights its quantized weights, as references into the quantized checkpoint's file.

Every MatMul on a weight becomes a MatMulNBits and the embedding's Gather a GatherBlockQuantized, or the plain operators
of `graph.unpack`. Initializers are external tensors over the safetensors file, so that saving the graph copies bytes
from file to file and holds none; in a float16 graph scales and norms are read and rounded one by one.
Operators: https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Literal, NoReturn

import numpy as np
import onnx_ir as ir

from phiforge import errors
from phiforge.checkpoint.layout import Slot, read_layout
from phiforge.graph.sources import EMBEDDING_INITIALIZER, HEAD_INITIALIZER, Source, source_of
from phiforge.graph.unpack import Table, unpack_rows

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from phiforge.checkpoint.config import ModelConfig
    from phiforge.quantize.spec import QuantSpec

    Embedding = Literal["quantized", "unpacked"]

CONTRIB = "com.microsoft"
_DTYPES = {"U8": ir.DataType.UINT8, "F32": ir.DataType.FLOAT}


@dataclass(frozen=True, kw_only=True)
class QuantizedWeights:
    """Where quantized weights lie: slots of a safetensors file. Without the file there is nothing to read in them."""

    slots: Mapping[str, Slot]
    file: Path | None


@dataclass(kw_only=True)
class _Binder:
    """What binding one graph needs to know, and which rows of which tensor it has used."""

    graph: ir.Graph
    weights: QuantizedWeights
    specs: Mapping[str, QuantSpec]
    config: ModelConfig
    accuracy_level: int
    embedding: Embedding
    floats: ir.DataType
    used: dict[str, list[tuple[int, int]]] = field(default_factory=dict)

    @property
    def slots(self) -> Mapping[str, Slot]:
        """Every tensor's place."""
        return self.weights.slots

    def value(self, name: str, tensor: str, source: Source, shape: tuple[int, ...]) -> ir.Value:
        """Register an initializer over rows of a checkpoint tensor, seen in another shape of as many bytes."""
        existing = self.graph.initializers.get(name)
        if existing is not None:
            return existing
        slot = self.slots[tensor]
        part = Slot(
            dtype=slot.dtype,
            shape=shape,
            offset=slot.offset + source.start * slot.row_bytes,
            length=(source.stop - source.start) * slot.row_bytes,
        )
        external = _tensor(self.weights.file, part, name, self.floats)
        value = ir.Value(name=name, type=ir.TensorType(external.dtype), shape=ir.Shape(shape), const_value=external)
        self.graph.register_initializer(value)
        self.used.setdefault(tensor, []).append((source.start, source.stop))
        return value

    def quantized(self, stem: str, source: Source) -> list[ir.Value]:
        """Codes, scales and, unless symmetric, zero points of rows, shaped as MatMulNBits takes them."""
        spec = self.specs[source.module]
        rows = source.stop - source.start
        columns = self.slots[f"{source.module}.qweight"].shape[1] * 8 // spec.bits
        blocks = columns // spec.block_size
        shapes = {
            "qweight": (rows, blocks, spec.block_size * spec.bits // 8),
            "scales": (rows, blocks),
            "qzeros": (rows, math.ceil(blocks * spec.bits / 8)),
        }
        parts = [part for part in shapes if part != "qzeros" or not spec.symmetric]
        return [self.value(f"{stem}.{part}", f"{source.module}.{part}", source, shapes[part]) for part in parts]


def weights_of(file: Path) -> QuantizedWeights:
    """The quantized weights in a safetensors file that is known to be sound."""
    return QuantizedWeights(slots=read_layout(file), file=file)


def bind_weights(
    model: ir.Model,
    weights: QuantizedWeights,
    specs: Mapping[str, QuantSpec],
    config: ModelConfig,
    *,
    accuracy_level: int,
    embedding: Embedding = "quantized",
) -> None:
    """Replace every weight of the graph, in place, by references into `weights`.

    Args:
        model: The builder's graph in float32 or float16, its weights without content.
        weights: The quantized checkpoint's. Without a file the graph can be examined, and not saved.
        specs: Quantization by module name.
        config: The checkpoint's configuration.
        accuracy_level: MatMulNBits' attribute; 4 multiplies in int8.
        embedding: How the table is read: by GatherBlockQuantized, or by plain operators.

    Raises:
        GraphMismatchError: A checkpoint tensor is unused, or used twice, or the graph holds an unknown weight.
        WeightsNotFiniteError: When the graph is saved, and a scale or a norm's weight is too large for float16.
    """
    binder = _Binder(
        graph=model.graph,
        weights=weights,
        specs=specs,
        config=config,
        accuracy_level=accuracy_level,
        embedding=embedding,
        floats=_floats(model.graph),
    )
    empty = [name for name, value in model.graph.initializers.items() if _is_empty(value)]
    for node in list(model.graph):
        if node.op_type == "MatMul" and _weight_name(node, 1) is not None:
            _bind_matmul(binder, node)
    for node in list(model.graph):
        if node.op_type == "Gather" and _weight_name(node, 0) == EMBEDDING_INITIALIZER:
            _bind_embedding(binder, node)
    for name in empty:
        if name in model.graph.initializers:
            _bind_float(binder, name)
    model.graph.sort()
    _account(binder)


def _bind_matmul(binder: _Binder, node: ir.Node) -> None:
    name = str(_weight_name(node, 1))
    source = source_of(name, binder.config)
    spec = binder.specs[source.module]
    inputs = [node.inputs[0], *binder.quantized(_stem(name), source)]
    codes = inputs[1]
    assert codes is not None and codes.shape is not None
    rows, blocks, _ = codes.shape.numpy()
    attributes = {
        "K": blocks * spec.block_size,
        "N": rows,
        "bits": spec.bits,
        "block_size": spec.block_size,
        "accuracy_level": binder.accuracy_level,
    }
    _replace(binder, node, "MatMulNBits", inputs, attributes)
    del binder.graph.initializers[name]


def _bind_embedding(binder: _Binder, node: ir.Node) -> None:
    """Replace the embedding's Gather; a tied table is the head's codes, seen as a matrix by a Reshape."""
    source = source_of(EMBEDDING_INITIALIZER, binder.config)
    spec = binder.specs[source.module]
    stem = _stem(HEAD_INITIALIZER) if binder.config.tied_embeddings else _stem(EMBEDDING_INITIALIZER)
    codes, *others = binder.quantized(stem, source)
    row_bytes = binder.slots[f"{source.module}.qweight"].shape[1]
    # A Constant node, because shape inference does not read external data.
    shape = ir.node(
        "Constant",
        inputs=[],
        attributes={"value_ints": [source.stop, row_bytes]},
        name="/model/embed_tokens/shape/Constant",
    )
    reshape = ir.node("Reshape", inputs=[codes, shape.outputs[0]], name="/model/embed_tokens/Reshape")
    shape.outputs[0].type, matrix = ir.TensorType(ir.DataType.INT64), reshape.outputs[0]
    matrix.type, matrix.shape = ir.TensorType(ir.DataType.UINT8), ir.Shape([source.stop, row_bytes])
    binder.graph.insert_before(node, [shape, reshape])
    if binder.embedding == "quantized":
        attributes = {"bits": spec.bits, "block_size": spec.block_size, "gather_axis": 0, "quantize_axis": 1}
        _replace(binder, node, "GatherBlockQuantized", [matrix, node.inputs[1], *others], attributes)
    else:
        ids = node.inputs[1]
        assert ids is not None
        scales, *zero_points = others
        table = Table(
            codes=matrix,
            scales=scales,
            zero_points=zero_points[0] if zero_points else None,
            spec=spec,
            columns=row_bytes * 8 // spec.bits,
        )
        _replace_by(binder, node, unpack_rows(table, ids, binder.floats))
    del binder.graph.initializers[EMBEDDING_INITIALIZER]


def _bind_float(binder: _Binder, name: str) -> None:
    source = source_of(name, binder.config)
    tensor = f"{source.module}.weight"
    uses = list(binder.graph.initializers[name].uses())
    del binder.graph.initializers[name]
    value = binder.value(name, tensor, source, binder.slots[tensor].shape)
    for node, index in uses:
        node.replace_input_with(index, value)


def _replace(
    binder: _Binder, node: ir.Node, operator: str, inputs: list[ir.Value | None], attributes: Mapping[str, int]
) -> None:
    new = ir.node(operator, inputs=inputs, attributes=dict(attributes), domain=CONTRIB, name=f"{node.name}_{operator}")
    _replace_by(binder, node, [new])


def _replace_by(binder: _Binder, node: ir.Node, nodes: list[ir.Node]) -> None:
    """Put nodes in the place of one; the last one's output is what the old one's was."""
    old_output, new_output = node.outputs[0], nodes[-1].outputs[0]
    new_output.name, new_output.type, new_output.shape = old_output.name, old_output.type, old_output.shape
    binder.graph.insert_before(node, nodes)
    old_output.replace_all_uses_with(new_output, replace_graph_outputs=True)
    binder.graph.remove(node, safe=True)


def _floats(graph: ir.Graph) -> ir.DataType:
    """The type of the graph's weights."""
    return next(value.dtype for value in graph.initializers.values() if _is_empty(value) and value.dtype)


def _tensor(file: Path | None, slot: Slot, name: str, floats: ir.DataType) -> ir.TensorProtocol:
    """A tensor over bytes of the file, as they are, or read and rounded to float16 when it is asked for."""
    rounded = slot.dtype == "F32" and floats is ir.DataType.FLOAT16
    dtype, shape = floats if rounded else _DTYPES[slot.dtype], ir.Shape(slot.shape)
    if file is None:
        return ir.LazyTensor(_absent, dtype=dtype, shape=shape, name=name)
    if rounded:
        return ir.LazyTensor(partial(_float16, file, slot, name), dtype=dtype, shape=shape, name=name)
    return ir.ExternalTensor(
        location=file.name, base_dir=file.parent, offset=slot.offset, length=slot.length, dtype=dtype, shape=shape,
        name=name,
    )  # fmt: skip


def _float16(file: Path, slot: Slot, name: str) -> ir.TensorProtocol:
    values = np.memmap(file, dtype=np.float32, mode="r", offset=slot.offset, shape=slot.shape)
    largest = float(np.abs(values).max(initial=0))
    if not largest <= float(np.finfo(np.float16).max):  # NaN too
        raise errors.WeightsNotFiniteError(
            f"Float16 cannot hold {name}.",
            why=f"Its largest value is {largest:.4g}; float16 ends at 65504.",
            fix="Build for a provider that computes in float32, as the CPU does.",
        )
    return ir.tensor(values.astype(np.float16), name=name)


def _absent() -> NoReturn:
    raise RuntimeError("a weight was read of a graph that was bound without a file")


def _account(binder: _Binder) -> None:
    """Check that every row of every checkpoint tensor is used exactly once."""
    faults = []
    for tensor, slot in binder.slots.items():
        reach = 0
        for start, stop in sorted(binder.used.get(tensor, [])):
            if start != reach:
                faults.append(f"{tensor}: rows {min(start, reach)} to {max(start, reach)}")
            reach = stop
        if reach != slot.shape[0]:
            faults.append(f"{tensor}: rows {reach} to {slot.shape[0]}")
    if faults:
        raise errors.GraphMismatchError(
            f"{len(faults)} row ranges of the checkpoint are unused in the graph, or used twice.",
            why="; ".join(faults[:4]),
            fix="Install the pinned versions; if they are, report it with the checkpoint's config.json.",
        )


def _weight_name(node: ir.Node, index: int) -> str | None:
    value = node.inputs[index]
    return value.name if value is not None and _is_empty(value) else None


def _is_empty(value: ir.Value) -> bool:
    return isinstance(value.const_value, ir.LazyTensor)


def _stem(initializer: str) -> str:
    return initializer.removesuffix(".weight").removesuffix(".MatMul")
