"""The weights of a quantized checkpoint as an NPU's graph takes them: signed codes [K, N], transposed on the way out.

A MatMul of QNN wants its weight [inputs, outputs] in signed integers whose zero point is 0, so a code c of the
checkpoint, which stands for (c - 2^(bits-1)) * scale, becomes c - 2^(bits-1). Each is read, turned and written alone.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import ml_dtypes
import numpy as np
import onnx_ir as ir

from phiforge.checkpoint.layout import Slot, read_layout
from phiforge.graph.npu.emit import activation_codes
from phiforge.quantize.packing import unpack

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    from phiforge.decoder.rows import Rows
    from phiforge.graph.npu.emit import Emitter
    from phiforge.quantize.spec import QuantSpec

    Index = NDArray[np.int64]

# Rows of a weight that are turned at once.
TURNED_ROWS = 4096
_DTYPES = {4: (ml_dtypes.int4, ir.DataType.INT4), 8: (np.int8, ir.DataType.INT8)}
_ITEMS = {"U8": np.uint8, "F32": np.float32}


@dataclass(frozen=True)
class NpuWeights:
    """A quantized checkpoint's weights, read when they are asked for.

    Attributes:
        file: The quantized checkpoint's safetensors file.
        slots: Its layout.
        specs: Quantization by module.
        originals: Where the weights before quantization are read, for modules that are switched off.
        off: Modules whose weights stay float32.
        used: Rows of each tensor that were asked for.
    """

    file: Path
    slots: Mapping[str, Slot]
    specs: Mapping[str, QuantSpec]
    originals: Rows | None = None
    off: frozenset[str] = frozenset()
    used: dict[str, set[int]] = field(default_factory=dict)

    @staticmethod
    def of(
        file: Path,
        specs: Mapping[str, QuantSpec],
        *,
        originals: Rows | None = None,
        off: frozenset[str] = frozenset(),
    ) -> NpuWeights:
        """Read the file's layout."""
        return NpuWeights(file, read_layout(file), specs, originals, off)

    def floats(self, name: str) -> NDArray[np.float32]:
        """A tensor that is not quantized."""
        self._use(name, np.arange(self.slots[name].shape[0]))
        return np.array(self._map(name), dtype=np.float32)

    def matrix(self, emitter: Emitter, module: str, rows: Index, name: str) -> ir.Value:
        """Put rows of a module's weight into a graph, transposed: the float32 value [K, rows] of a DequantizeLinear."""
        self._use(module, rows)
        columns = self._columns(module)
        shape = (columns, len(rows))
        if module in self.off:
            return emitter.tensor(f"{name}.weight", self._lazy_floats(module, rows, shape))
        numpy_type, dtype = _DTYPES[self.specs[module].bits]
        codes = ir.LazyTensor(
            lambda: ir.tensor(self._turned_codes(module, rows, numpy_type)),
            dtype=dtype, shape=ir.Shape(shape), name=f"{name}.codes",
        )  # fmt: skip
        scales = self.scales(module, rows)
        zeros = np.zeros(scales.shape, dtype=np.int8).astype(numpy_type)
        blocks: dict[str, int] = {"axis": 1} if scales.ndim == 1 else {"axis": 0, "block_size": columns // len(scales)}
        return emitter.node(
            "DequantizeLinear",
            [
                emitter.tensor(f"{name}.codes", codes),
                emitter.constant(f"{name}.scales", scales),
                emitter.constant(f"{name}.zero_points", zeros),
            ],
            f"{name}/weight/DequantizeLinear",
            ir.DataType.FLOAT,
            shape,
            **blocks,
        )

    def table(self, emitter: Emitter, module: str, quantizer: tuple[float, int] | None, name: str) -> ir.Value:
        """Put a whole weight [rows, K] into a graph as 16-bit codes of an activation, or as float32 for None."""
        rows = np.arange(self.slots[f"{module}.qweight"].shape[0])
        self._use(module, rows)
        dtype = ir.DataType.FLOAT if quantizer is None else ir.DataType.UINT16
        values = ir.LazyTensor(
            lambda: ir.tensor(self._stored_rows(module, rows, quantizer)),
            dtype=dtype, shape=ir.Shape((len(rows), self._columns(module))), name=name,
        )  # fmt: skip
        return emitter.tensor(name, values)

    def blocks(self, emitter: Emitter, module: str, *, matmul: bool) -> list[ir.Value]:
        """Put a whole module into a graph as MatMulNBits or GatherBlockQuantized take it: codes and scales."""
        self._use(module, np.arange(self.slots[f"{module}.qweight"].shape[0]))
        spec, (rows, width) = self.specs[module], self.slots[f"{module}.qweight"].shape
        blocks = self._columns(module) // spec.block_size
        shapes: dict[str, tuple[int, ...]] = {"qweight": (rows, blocks, width // blocks) if matmul else (rows, width)}
        shapes["scales"] = (rows, blocks)
        return [
            emitter.tensor(f"{module}.{part}", self._mapped(f"{module}.{part}", shape))
            for part, shape in shapes.items()
        ]

    def codes(self, module: str, rows: Index) -> NDArray[np.int8]:
        """Signed codes of rows: int8 [rows, K]."""
        spec = self.specs[module]
        packed = np.asarray(self._map(f"{module}.qweight")[rows], dtype=np.uint8)
        codes = unpack(packed, spec.bits, self._columns(module))
        codes -= np.uint8(spec.middle_code)  # a code below the middle wraps to what int8 calls negative
        return codes.view(np.int8)

    def scales(self, module: str, rows: Index) -> NDArray[np.float32]:
        """Scales of rows as DequantizeLinear takes them: [rows] where a row's blocks share one, or [blocks, rows]."""
        scales = np.array(self._map(f"{module}.scales")[rows], dtype=np.float32)
        one = bool((scales == scales[:, :1]).all())
        return np.ascontiguousarray(scales[:, 0] if one else scales.T)

    def unused(self) -> list[str]:
        """Modules and tensors of which rows were never asked for."""
        found = []
        for tensor, slot in self.slots.items():
            name = tensor.removesuffix(".qweight").removesuffix(".scales")
            if len(self.used.get(name, ())) != slot.shape[0]:
                found.append(tensor)
        return found

    def _turned_codes(self, module: str, rows: Index, kind: type[np.generic]) -> NDArray[np.generic]:
        """Signed codes [K, rows], turned some rows at a time: a head has as many bytes as it has weights."""
        found = np.empty((self._columns(module), len(rows)), dtype=kind)
        for start in range(0, len(rows), TURNED_ROWS):
            part = slice(start, start + TURNED_ROWS)
            found[:, part] = self.codes(module, rows[part]).T
        return found

    def _stored_rows(self, module: str, rows: Index, quantizer: tuple[float, int] | None) -> NDArray[np.generic]:
        """What rows stand for, as codes of an activation or as float32, some rows at a time."""
        found = np.empty((len(rows), self._columns(module)), dtype=np.float32 if quantizer is None else np.uint16)
        for start in range(0, len(rows), TURNED_ROWS):
            part = slice(start, start + TURNED_ROWS)
            values = self._dequantized(module, rows[part])
            found[part] = values if quantizer is None else activation_codes(values, quantizer)
        return found

    def _dequantized(self, module: str, rows: Index) -> NDArray[np.float32]:
        if module in self.off:
            assert self.originals is not None, "weights switched off need the originals"
            return self.originals.read_rows(f"{module}.weight", int(rows[0]), int(rows[-1]) + 1)
        scales = np.array(self._map(f"{module}.scales")[rows], dtype=np.float32)
        codes = self.codes(module, rows).astype(np.float32)
        return (codes.reshape(*scales.shape, -1) * scales[..., None]).reshape(codes.shape)

    def _lazy_floats(self, module: str, rows: Index, shape: tuple[int, int]) -> ir.LazyTensor:
        originals = self.originals
        assert originals is not None, "weights switched off need the originals"
        return ir.LazyTensor(
            lambda: ir.tensor(np.ascontiguousarray(originals.read(f"{module}.weight")[rows].T)),
            dtype=ir.DataType.FLOAT, shape=ir.Shape(shape), name=f"{module}.weight",
        )  # fmt: skip

    def _mapped(self, tensor: str, shape: tuple[int, ...]) -> ir.TensorProtocol:
        """A tensor's bytes as a mapped file; onnx_ir refuses to refer to a file with more than one hard link."""
        return ir.tensor(self._map(tensor).reshape(shape), name=tensor)

    def _columns(self, module: str) -> int:
        return self.slots[f"{module}.qweight"].shape[1] * 8 // self.specs[module].bits

    def _map(self, name: str) -> NDArray[np.generic]:
        slot = self.slots[name]
        return np.memmap(self.file, dtype=_ITEMS[slot.dtype], mode="r", offset=slot.offset, shape=slot.shape)

    def _use(self, name: str, rows: Index) -> None:
        self.used.setdefault(name, set()).update(rows.tolist())
