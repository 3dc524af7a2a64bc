"""The byte layout of one safetensors file: written block by block, read as file offsets.

The safetensors library writes a file only from tensors that are all in memory, and does not tell where a tensor's bytes
lie. Here a file is laid out first and filled in any order, so that no step holds more than a block of rows; and an
exporter can refer to the bytes without reading them. Format: https://github.com/huggingface/safetensors#format.
"""

from __future__ import annotations

import json
import math
import os
import struct
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

ITEM_BYTES = {"U8": 1, "F32": 4, "BF16": 2, "F16": 2}


@dataclass(frozen=True, kw_only=True)
class Slot:
    """Where one tensor lies: dtype by its safetensors name, offset from the start of the file, length in bytes."""

    dtype: str
    shape: tuple[int, ...]
    offset: int
    length: int

    @property
    def row_bytes(self) -> int:
        """Bytes of one row, a slice of the first dimension."""
        return self.length // self.shape[0]


def lay_out(tensors: Mapping[str, tuple[str, Sequence[int]]]) -> tuple[bytes, dict[str, Slot]]:
    """Return the file's header bytes and every tensor's slot, in the order given.

    Args:
        tensors: Name to (safetensors dtype, shape).
    """
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    begin = 0
    for name, (dtype, shape) in tensors.items():
        end = begin + math.prod(shape) * ITEM_BYTES[dtype]
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, end]}
        begin = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    prefix = struct.pack("<Q", len(text)) + text
    return prefix, _slots(header, len(prefix))


def read_layout(path: Path) -> dict[str, Slot]:
    """Return every tensor's slot of a safetensors file that is known to be sound."""
    with path.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        return _slots(json.loads(file.read(length)), 8 + length)


def _slots(header: Mapping[str, Any], start: int) -> dict[str, Slot]:
    return {
        name: Slot(
            dtype=entry["dtype"],
            shape=tuple(entry["shape"]),
            offset=start + entry["data_offsets"][0],
            length=entry["data_offsets"][1] - entry["data_offsets"][0],
        )
        for name, entry in header.items()
        if name != "__metadata__"
    }


class Writer:
    """Fills a laid-out safetensors file with blocks of rows, in any order. Use as a context manager.

    The caller renames the file into place; a file that was not filled to the end is the caller's to remove.
    """

    def __init__(self, path: Path, tensors: Mapping[str, tuple[str, Sequence[int]]]) -> None:
        prefix, self.slots = lay_out(tensors)
        self._file = path.open("wb")
        self._file.write(prefix)
        self._file.truncate(len(prefix) + sum(slot.length for slot in self.slots.values()))

    def write(self, name: str, first_row: int, rows: NDArray[np.generic]) -> None:
        """Write rows of one tensor, bytes as they are; `rows` has the slot's dtype."""
        slot = self.slots[name]
        data = np.ascontiguousarray(rows)
        if first_row * slot.row_bytes + data.nbytes > slot.length:
            raise ValueError(f"{name}: rows from {first_row} overrun the tensor")
        self._file.seek(slot.offset + first_row * slot.row_bytes)
        self._file.write(data.reshape(-1).view(np.uint8).data)

    def __enter__(self) -> Writer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self._file.flush()
            os.fsync(self._file.fileno())
        self._file.close()
