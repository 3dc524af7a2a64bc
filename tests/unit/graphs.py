"""Graphs under construction, typed and with weights that cannot be read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NoReturn

import numpy as np
import onnx_ir as ir

MICROSOFT = "com.microsoft"
HALF, LONG, INT, BYTE, BOOL = (
    ir.DataType.FLOAT16,
    ir.DataType.INT64,
    ir.DataType.INT32,
    ir.DataType.UINT8,
    ir.DataType.BOOL,
)


class Graph:
    """A graph under construction; `node` gives the first output of what it adds."""

    def __init__(self, **inputs: ir.DataType) -> None:
        self.inputs = {name: ir.Value(name=name, type=ir.TensorType(dtype)) for name, dtype in inputs.items()}
        self.graph = ir.Graph(list(self.inputs.values()), [], nodes=[], opset_imports={MICROSOFT: 1}, name="graph")
        self.whole = ir.Model(self.graph, ir_version=10)

    def __getitem__(self, name: str) -> ir.Value:
        return self.inputs[name]

    def weight(self, dtype: ir.DataType, *shape: int) -> ir.Value:
        """A placeholder that cannot be read."""
        name = f"weight{len(self.graph.initializers)}"
        tensor = ir.LazyTensor(unreadable, dtype=dtype, shape=ir.Shape(shape), name=name)
        value = ir.Value(name=name, type=ir.TensorType(dtype), shape=ir.Shape(shape), const_value=tensor)
        self.graph.register_initializer(value)
        return value

    def constant(self, value: Any) -> ir.Value:
        return self.node("Constant", [], LONG, value=ir.tensor(np.asarray(value, np.int64)))

    def node(
        self,
        operator: str,
        inputs: Sequence[ir.Value | None],
        *dtypes: ir.DataType | None,
        domain: str = "",
        **attributes: Any,
    ) -> ir.Value:
        name = f"{operator}{len(self.graph)}"
        outputs = [
            ir.Value(name=f"{name}/{place}", type=None if dtype is None else ir.TensorType(dtype))
            for place, dtype in enumerate(dtypes)
        ]
        self.graph.append(ir.node(operator, inputs, attributes, domain=domain, outputs=outputs, name=name))
        return outputs[0]

    def model(self, opset: int = 22) -> ir.Model:
        self.graph.opset_imports[""] = opset
        return self.whole


def unreadable() -> NoReturn:
    raise AssertionError("a weight was read")
