"""Write the nodes of a graph one after the other, with the types and shapes that an NPU's compiler asks for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

from phiforge.activations import CODES
from phiforge.graph.bind import CONTRIB

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from phiforge.activations import Range

# DequantizeLinear takes int4, blocks and uint16 from this version on.
OPSET, IR_VERSION = 21, 10
CODE = ir.DataType.UINT16

# A size, or the name of one that is not fixed.
Dims = Sequence[int | str | ir.SymbolicDim]


@dataclass
class Emitter:
    """The nodes, constants, inputs and outputs of one graph in the making; every value has a name, type and shape."""

    nodes: list[ir.Node] = field(default_factory=list)
    constants: dict[str, ir.Value] = field(default_factory=dict)
    inputs: list[ir.Value] = field(default_factory=list)
    outputs: list[ir.Value] = field(default_factory=list)

    def input(self, name: str, dtype: ir.DataType, shape: Dims) -> ir.Value:
        """Add a graph input."""
        value = ir.Value(name=name, type=ir.TensorType(dtype), shape=ir.Shape(shape))
        self.inputs.append(value)
        return value

    def output(self, value: ir.Value, name: str) -> None:
        """Make a value a graph output under this name."""
        value.name = name
        self.outputs.append(value)

    def constant(self, name: str, array: NDArray[np.generic]) -> ir.Value:
        """A small constant; one that is there under the name is given again."""
        return self.tensor(name, ir.tensor(array, name=name))

    def tensor(self, name: str, tensor: ir.TensorProtocol) -> ir.Value:
        """A constant of any kind, also one that is read when it is written out."""
        if name not in self.constants:
            self.constants[name] = ir.Value(
                name=name, type=ir.TensorType(tensor.dtype), shape=ir.Shape(tensor.shape.numpy()), const_value=tensor
            )
        return self.constants[name]

    def node(
        self,
        operator: str,
        inputs: Sequence[ir.Value | None],
        name: str,
        dtype: ir.DataType,
        shape: Dims,
        **attributes: int | float | str,
    ) -> ir.Value:
        """Add a node with one output, which has the node's name."""
        node = ir.node(operator, inputs=list(inputs), attributes=attributes, name=name)
        self.nodes.append(node)
        return _typed(node.outputs[0], name, dtype, shape)

    def contrib(
        self,
        operator: str,
        inputs: Sequence[ir.Value | None],
        name: str,
        outputs: Sequence[tuple[str, ir.DataType, Dims]],
        attributes: dict[str, int | float | str],
    ) -> tuple[ir.Value, ...]:
        """Add a node of onnxruntime's own operators."""
        node = ir.node(
            operator, inputs=list(inputs), attributes=attributes, name=name, domain=CONTRIB, num_outputs=len(outputs)
        )
        self.nodes.append(node)
        return tuple(_typed(value, *told) for value, told in zip(node.outputs, outputs, strict=True))

    def float_of(self, codes: ir.Value, quantizer: tuple[float, int], name: str) -> ir.Value:
        """The floats that codes stand for."""
        assert codes.shape is not None
        scale, zero = self._parameters(quantizer, name)
        return self.node(
            "DequantizeLinear", [codes, scale, zero], f"{name}/DequantizeLinear", ir.DataType.FLOAT, codes.shape.dims
        )

    def codes_of(self, value: ir.Value, quantizer: tuple[float, int], name: str) -> ir.Value:
        """The codes of floats."""
        assert value.shape is not None
        scale, zero = self._parameters(quantizer, name)
        return self.node("QuantizeLinear", [value, scale, zero], f"{name}/QuantizeLinear", CODE, value.shape.dims)

    def _parameters(self, quantizer: tuple[float, int], name: str) -> tuple[ir.Value, ir.Value]:
        scale, zero = quantizer
        return (
            self.constant(f"{name}/scale", np.float32(scale)),  # type: ignore[arg-type]
            self.constant(f"{name}/zero_point", np.uint16(zero)),  # type: ignore[arg-type]
        )

    def model(self, name: str) -> ir.Model:
        """The finished model; constants that nothing reads are left out."""
        graph = ir.Graph(
            self.inputs,
            self.outputs,
            nodes=self.nodes,
            initializers=[value for value in self.constants.values() if value.uses()],
            opset_imports={"": OPSET, CONTRIB: 1},
            name=name,
        )
        return ir.Model(graph, ir_version=IR_VERSION, producer_name="phiforge")


@dataclass(frozen=True)
class Quantizers:
    """How activations are stored: by the ranges of a calibration, but for those that are switched `off`.

    What is off stays float32, as in a graph that is to show what the quantization of one tensor costs.
    """

    ranges: dict[str, Range]
    headroom: float = 1.0
    off: frozenset[str] = frozenset()

    def of(self, name: str) -> tuple[float, int] | None:
        """(scale, zero point) of an activation; None for one that stays float."""
        return None if name in self.off else self.ranges[name].quantizer(self.headroom)

    def store(self, emitter: Emitter, value: ir.Value, name: str) -> ir.Value:
        """The value as it comes back from storage."""
        quantizer = self.of(name)
        if quantizer is None:
            return value
        return emitter.float_of(emitter.codes_of(value, quantizer, name), quantizer, name)


def activation_codes(values: NDArray[np.float32], quantizer: tuple[float, int]) -> NDArray[np.uint16]:
    """The 16-bit codes of values, as QuantizeLinear makes them."""
    scale, zero = quantizer
    codes: NDArray[np.uint16] = np.clip(np.rint(values / np.float32(scale)) + zero, 0, CODES).astype(np.uint16)
    return codes


def save_model(model: ir.Model, path: Path, data: str | None = None) -> None:
    """Write a model with its large constants in a data file beside it, read one at a time; None for one without."""
    if data is None:
        ir.save(model, path)
    else:
        ir.save(model, path, external_data=data, size_threshold_bytes=1024)


def save_model_on(model: ir.Model, path: Path, stored: Path) -> None:
    """Write a model whose large constants are those, by name, of the model `stored` in the same folder."""
    graph = ir.load(stored).graph
    for name, value in model.graph.initializers.items():
        held = graph.initializers.get(name)
        if held is not None and isinstance(held.const_value, ir.ExternalTensor):
            value.const_value = held.const_value
    ir.save(model, path)


def _typed(value: ir.Value, name: str, dtype: ir.DataType, shape: Dims) -> ir.Value:
    value.name, value.type, value.shape = name, ir.TensorType(dtype), ir.Shape(shape)
    return value
