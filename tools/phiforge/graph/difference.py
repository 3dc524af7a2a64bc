"""How two ONNX models differ: every node, initializer, input, output and data file that is not the same, by name."""

from __future__ import annotations

import filecmp
import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import onnx_ir as ir

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

Part = Literal["model", "input", "output", "initializer", "node", "file"]
Described = dict[tuple[Part, str], dict[str, str]]
ABSENT = "absent"


@dataclass(frozen=True, order=True)
class Difference:
    """One field of one part that differs, as text; a part that one model lacks differs in its `presence`."""

    part: Part
    name: str
    field: str
    first: str
    second: str

    def __str__(self) -> str:
        return f"{self.part} {self.name}: {self.field} {self.first} and {self.second}"


def graph_difference(first: Path, second: Path) -> tuple[Difference, ...]:
    """Return all that differs between two ONNX files, in order; nothing differs in equal models.

    Nodes are matched by name, within subgraphs too; their order does not count. Initializers in data files are equal
    where they are the same bytes of equal files; of equal files the content is compared, unless they are one file.

    Args:
        first: An ONNX file.
        second: Another one; the data files of each are beside it.
    """
    described = [_described(ir.load(path)) for path in (first, second)]
    found = [
        Difference(*key, field, one.get(field, ABSENT), other.get(field, ABSENT))
        for key in sorted({*described[0], *described[1]})
        for one, other in [_both(described[0].get(key), described[1].get(key))]
        for field in sorted({*one, *other})
        if one.get(field) != other.get(field)
    ]
    names = sorted({name for model in described for part, name in model if part == "file"})
    unequal = [name for name in names if not _same_bytes(first.parent / name, second.parent / name)]
    return (*found, *(Difference("file", name, "content", "some bytes", "other bytes") for name in unequal))


def _both(one: dict[str, str] | None, other: dict[str, str] | None) -> tuple[dict[str, str], dict[str, str]]:
    """Both descriptions, or that one of them is absent."""
    if one is None or other is None:
        return tuple({"presence": ABSENT if side is None else "present"} for side in (one, other))  # type: ignore[return-value]
    return one, other


def _described(model: ir.Model) -> Described:
    found: Described = {
        ("model", "header"): {
            "operator sets": str(sorted(model.opset_imports.items())),
            "ir version": str(model.ir_version),
            "functions": str(sorted(map(str, model.functions))),
        }
    }
    for part, values in (("input", model.graph.inputs), ("output", model.graph.outputs)):
        for value in values:
            found[part, str(value.name)] = _typed(value)  # type: ignore[index]
    for key, fields in _within(model.graph, ""):
        if key in found:
            fields["duplicate"] = "of that name"
        found[key] = fields
    for value in model.graph.initializers.values():
        if isinstance(value.const_value, ir.ExternalTensor):
            found["file", str(value.const_value.location)] = {}
    return found


def _within(graph: ir.Graph, path: str) -> Iterator[tuple[tuple[Part, str], dict[str, str]]]:
    """The initializers and nodes of a graph and of the graphs in its nodes, named by their way from the top."""
    for name, value in graph.initializers.items():
        yield ("initializer", path + name), {**_typed(value), "content": _content(value.const_value)}
    for node in graph:
        name = path + str(node.name or node.outputs[0].name)
        fields = {
            "operator": f"{node.domain}:{node.op_type}",
            **{f"input {i}": str(value.name if value else None) for i, value in enumerate(node.inputs)},
            **{f"output {i}": str(value.name) for i, value in enumerate(node.outputs)},
            **{f"output {i} {key}": v for i, value in enumerate(node.outputs) for key, v in _typed(value).items()},
            **{f"attribute {key}": _attribute(attribute) for key, attribute in node.attributes.items()},
        }
        yield ("node", name), fields
        for key, attribute in node.attributes.items():
            if attribute.type is ir.AttributeType.GRAPH:
                yield from _within(attribute.as_graph(), f"{name}/{key}/")


def _typed(value: ir.Value) -> dict[str, str]:
    shape = None if value.shape is None else [str(getattr(dim, "value", dim)) for dim in value.shape]
    return {"type": str(value.type), "shape": "unknown" if shape is None else f"[{', '.join(shape)}]"}


def _attribute(attribute: ir.Attr) -> str:
    if attribute.type is ir.AttributeType.GRAPH:
        outputs = [str(value.name) for value in attribute.as_graph().outputs]
        return f"a graph with {len(attribute.as_graph())} nodes that gives {', '.join(outputs)}"
    if attribute.type is ir.AttributeType.TENSOR:
        return _content(attribute.as_tensor())
    return f"{attribute.type} {attribute.value!r}"


def _content(tensor: Any) -> str:
    """Where the bytes of a tensor are, or their hash."""
    if isinstance(tensor, ir.ExternalTensor):
        return f"bytes {tensor.offset} to {(tensor.offset or 0) + (tensor.length or 0)} of {tensor.location}"
    if tensor is None:
        return "none"
    return f"{tensor.dtype} {list(tensor.shape)} sha256 {hashlib.sha256(tensor.tobytes()).hexdigest()}"


def _same_bytes(one: Path, other: Path) -> bool:
    if not (one.is_file() and other.is_file()):
        return False
    return one.samefile(other) or filecmp.cmp(one, other, shallow=False)
