"""What is asked of a node or a value of a graph, whether its weights are there or not."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    import onnx_ir as ir


def domain_of(node: ir.Node) -> str:
    """The domain, "" for ONNX's own."""
    return "" if node.domain in (None, "ai.onnx") else node.domain


def operator_of(node: ir.Node) -> str:
    """The operator with its domain, as com.microsoft.MatMulNBits."""
    return f"{domain_of(node)}.{node.op_type}".removeprefix(".")


def dtype_of(value: ir.Value) -> ir.DataType | None:
    """The dtype as far as the graph tells."""
    return value.dtype or (value.const_value.dtype if value.const_value is not None else None)


def given(values: Sequence[ir.Value | None]) -> list[tuple[int, ir.Value]]:
    """The values that are there, with their places; an absent one is None or has no name."""
    return [(place, value) for place, value in enumerate(values) if value is not None and value.name != ""]


def is_constant(node: ir.Node) -> bool:
    """Whether a node is a constant; onnxruntime makes it an initializer before it looks for kernels."""
    return node.op_type == "Constant" and domain_of(node) == ""


def constant_elements(value: ir.Value) -> int | None:
    """The number of elements of a constant; None for what is computed or fed."""
    producer = value.producer()
    if producer is None:
        return value.const_value.size if value.is_initializer() and value.const_value is not None else None
    if not is_constant(producer):
        return None
    (attribute,) = producer.attributes.values()
    if hasattr(attribute.value, "size"):
        return int(attribute.value.size)
    return len(attribute.value) if isinstance(attribute.value, (list, tuple)) else 1
