"""Which data files an ONNX file refers to, read from the protobuf wire format so that a bench needs no `onnx` package.

Field numbers: https://github.com/onnx/onnx/blob/main/onnx/onnx.proto; wire format:
https://protobuf.dev/programming-guides/encoding/.
"""

from __future__ import annotations

import mmap
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_MODEL_GRAPH = 7
_GRAPH_NODE, _GRAPH_INITIALIZER = 1, 5
_NODE_ATTRIBUTE = 5
_ATTRIBUTE_TENSOR, _ATTRIBUTE_GRAPH, _ATTRIBUTE_GRAPHS = 5, 6, 11
_TENSOR_EXTERNAL_DATA = 13
_ENTRY_KEY, _ENTRY_VALUE = 1, 2
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


def external_files(path: Path) -> dict[str, int]:
    """Return the data files an ONNX file refers to, each with the length in bytes it must at least have.

    The content of tensors is skipped, not read.

    Raises:
        OSError: The file cannot be read.
        ValueError: The file is empty or no ONNX protobuf.
    """
    needs: dict[str, int] = {}
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        graphs = [span for number, span in _fields(data, 0, len(data)) if number == _MODEL_GRAPH]
        if not graphs:
            raise ValueError("there is no graph in it")
        for graph in graphs:
            for tensor in _tensors(data, graph):
                _note(needs, _entries(data, tensor))
    return needs


def _note(needs: dict[str, int], entries: dict[str, str]) -> None:
    if "location" in entries:
        end = int(entries.get("offset", "0")) + int(entries.get("length", "0"))
        needs[entries["location"]] = max(end, needs.get(entries["location"], 0))


def _tensors(data: mmap.mmap, graph: tuple[int, int]) -> Iterator[tuple[int, int]]:
    """Yield the spans of all tensors of a graph and of the graphs inside its nodes."""
    for number, span in _fields(data, *graph):
        if number == _GRAPH_INITIALIZER:
            yield span
        elif number == _GRAPH_NODE:
            for attribute in (inner for field, inner in _fields(data, *span) if field == _NODE_ATTRIBUTE):
                for field, inner in _fields(data, *attribute):
                    if field == _ATTRIBUTE_TENSOR:
                        yield inner
                    elif field in (_ATTRIBUTE_GRAPH, _ATTRIBUTE_GRAPHS):
                        yield from _tensors(data, inner)


def _entries(data: mmap.mmap, tensor: tuple[int, int]) -> dict[str, str]:
    """Return the `external_data` entries of a tensor: location, offset, length."""
    found: dict[str, str] = {}
    for number, span in _fields(data, *tensor):
        if number == _TENSOR_EXTERNAL_DATA:
            parts = {field: data[start:stop].decode("utf-8") for field, (start, stop) in _fields(data, *span)}
            found[parts.get(_ENTRY_KEY, "")] = parts.get(_ENTRY_VALUE, "")
    return found


def _fields(data: mmap.mmap, start: int, stop: int) -> Iterator[tuple[int, tuple[int, int]]]:
    """Yield the length-delimited fields of a message as (field number, (start, stop)); other fields are skipped."""
    at = start
    while at < stop:
        tag, at = _varint(data, at, stop)
        number, wire = tag >> 3, tag & 7
        if wire == _VARINT:
            _, at = _varint(data, at, stop)
        elif wire == _FIXED64:
            at += 8
        elif wire == _FIXED32:
            at += 4
        elif wire == _BYTES:
            length, at = _varint(data, at, stop)
            if at + length > stop:
                raise ValueError("it is cut short")
            yield number, (at, at + length)
            at += length
        else:
            raise ValueError("it is no protobuf")


def _varint(data: mmap.mmap, at: int, stop: int) -> tuple[int, int]:
    value, shift = 0, 0
    while at < stop and shift < 64:
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at += 1
        if byte < 0x80:
            return value, at
        shift += 7
    raise ValueError("it is cut short")
