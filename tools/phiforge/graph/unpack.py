"""A quantized embedding table read by plain operators, for a provider without a kernel for GatherBlockQuantized.

The rows of codes, scales and zero points are gathered as they are stored, and only they become floats, so the table
stays as small as it was quantized. Two codes of 4 bits lie in a byte, the first one low; floor and multiplication take
them apart, which is exact in float16 because a byte is at most 255:

    high = floor(byte / 16), low = byte - 16 high, row = (code - zero point) * scale
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

if TYPE_CHECKING:
    from collections.abc import Sequence

    from phiforge.quantize.spec import QuantSpec

PREFIX = "/model/embed_tokens/unpacked/"
_CODES, _SCALES, _ZERO_POINTS = f"{PREFIX}codes/Gather", f"{PREFIX}scales/Gather", f"{PREFIX}zero_points/Gather"
_NUMPY = {ir.DataType.FLOAT: np.float32, ir.DataType.FLOAT16: np.float16}


@dataclass(frozen=True, kw_only=True)
class Table:
    """A quantized table's initializers: codes [rows, bytes], scales [rows, blocks] and zero points, packed, or None."""

    codes: ir.Value
    scales: ir.Value
    zero_points: ir.Value | None
    spec: QuantSpec
    columns: int

    @property
    def blocks(self) -> int:
        """Blocks of a row."""
        return self.columns // self.spec.block_size


@dataclass(frozen=True, kw_only=True)
class UnpackedTable:
    """What a graph's unpacked table holds: [rows, columns] in `bits`, a scale for every `block_size` columns."""

    rows: int
    columns: int
    bits: int
    block_size: int
    symmetric: bool


def unpack_rows(table: Table, ids: ir.Value, dtype: ir.DataType) -> list[ir.Node]:
    """Return the nodes that give the rows of token ids [batch, sequence], in order; the last one's output has them.

    Args:
        table: The quantized table; `dtype` is the type of its scales.
        ids: Token ids, int64.
        dtype: FLOAT or FLOAT16, that of the rows.
    """
    writer = _Writer(dtype=dtype, sequence=ids.shape)
    codes = writer.codes(_gathered(writer, _CODES, table.codes, ids), table.spec.bits, "codes")
    codes = writer.reshape(codes, (0, 0, table.blocks, table.spec.block_size), "codes/Reshape")
    if table.zero_points is None:
        zero = writer.number(2 ** (table.spec.bits - 1), "zero_point")
    else:
        packed = _gathered(writer, _ZERO_POINTS, table.zero_points, ids)
        zeros = writer.codes(packed, table.spec.bits, "zero_points")
        zeros = writer.first(zeros, table.blocks, of=_count(table.zero_points) * 8 // table.spec.bits)
        zero = writer.reshape(zeros, (0, 0, table.blocks, 1), "zero_points/Reshape")
    scales = writer.reshape(_gathered(writer, _SCALES, table.scales, ids), (0, 0, table.blocks, 1), "scales/Reshape")
    centred = writer.node("Sub", [codes, zero], "Sub")
    scaled = writer.node("Mul", [centred, scales], "Mul")
    writer.reshape(scaled, (0, 0, table.columns), "Reshape")
    return writer.nodes


def find_unpacked(graph: ir.Graph) -> UnpackedTable | None:
    """Return what the graph's unpacked table holds, read off its shapes; None without one."""
    nodes = {node.name: node for node in graph}
    if _CODES not in nodes:
        return None
    rows, row_bytes = _shape(nodes[_CODES].inputs[0])
    blocks = _shape(nodes[_SCALES].inputs[0])[1]
    constant = nodes[f"{PREFIX}Reshape/shape"].attributes["value_ints"].as_ints()
    columns = constant[-1]
    return UnpackedTable(
        rows=rows,
        columns=columns,
        bits=row_bytes * 8 // columns,
        block_size=columns // blocks,
        symmetric=_ZERO_POINTS not in nodes,
    )


@dataclass(kw_only=True)
class _Writer:
    """Collects nodes; every float value has `dtype`."""

    dtype: ir.DataType
    sequence: ir.Shape | None
    nodes: list[ir.Node] = field(default_factory=list)

    def node(
        self,
        operator: str,
        inputs: Sequence[ir.Value],
        name: str,
        dtype: ir.DataType | None = None,
        **attributes: object,
    ) -> ir.Value:
        """Add a node called PREFIX + name and return its output."""
        full = name if name.startswith(PREFIX) else f"{PREFIX}{name}"
        node = ir.node(operator, inputs=list(inputs), attributes=attributes, name=full)  # type: ignore[arg-type]
        output = node.outputs[0]
        output.name, output.type = f"{full}/output_0", ir.TensorType(dtype or self.dtype)
        self.nodes.append(node)
        return output

    def number(self, value: float, name: str) -> ir.Value:
        """Add a constant of the float type."""
        tensor = ir.tensor(np.array(value, dtype=_NUMPY[self.dtype]))
        return self.node("Constant", [], f"{name}/value", value=tensor)

    def integers(self, values: Sequence[int], name: str) -> ir.Value:
        """Add a constant of int64."""
        return self.node("Constant", [], name, ir.DataType.INT64, value_ints=list(values))

    def reshape(self, value: ir.Value, shape: Sequence[int], name: str) -> ir.Value:
        """Add a Reshape; 0 keeps a dimension."""
        return self.node("Reshape", [value, self.integers(shape, f"{name}/shape")], name)

    def codes(self, packed: ir.Value, bits: int, name: str) -> ir.Value:
        """Return the codes in packed bytes [batch, sequence, n], as floats [batch, sequence, 8 n / bits]."""
        found = self.node("Cast", [packed], f"{name}/Cast", to=int(self.dtype))
        if bits == 8:
            return found
        sixteenth = self.node("Mul", [found, self.number(1 / 16, f"{name}/sixteenth")], f"{name}/sixteenth/Mul")
        high = self.node("Floor", [sixteenth], f"{name}/high/Floor")
        above = self.node("Mul", [high, self.number(16, f"{name}/sixteen")], f"{name}/above/Mul")
        low = self.node("Sub", [found, above], f"{name}/low/Sub")
        axis = self.integers([3], f"{name}/axis")
        pair = [self.node("Unsqueeze", [each, axis], f"{name}/{part}/Unsqueeze") for part, each in
                (("low", low), ("high", high))]  # fmt: skip
        both = self.node("Concat", pair, f"{name}/Concat", axis=3)
        return self.reshape(both, (0, 0, -1), f"{name}/both/Reshape")

    def first(self, value: ir.Value, count: int, *, of: int) -> ir.Value:
        """Return the first `count` of the last dimension's `of`."""
        if count == of:
            return value
        ends = [self.integers([number], f"zero_points/{part}") for part, number in
                (("start", 0), ("stop", count), ("last", 2))]  # fmt: skip
        return self.node("Slice", [value, *ends], "zero_points/Slice")


def _gathered(writer: _Writer, name: str, data: ir.Value, ids: ir.Value) -> ir.Value:
    return writer.node("Gather", [data, ids], name, data.dtype)


def _count(value: ir.Value) -> int:
    return _shape(value)[1]


def _shape(value: ir.Value | None) -> tuple[int, ...]:
    assert value is not None and value.shape is not None
    return tuple(value.shape.numpy())
