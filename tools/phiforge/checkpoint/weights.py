"""The weights of a checkpoint, read a few rows at a time and never all at once.

Only safetensors files are read. The safetensors library validates the headers and maps the files, so that reading rows
touches the bytes of those rows alone.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from phiforge.checkpoint.config import require_folder
from phiforge.checkpoint.disagreements import EMBEDDING, HEAD
from phiforge.checkpoint.fields import RepeatedKeysError, read_json_object
from phiforge.checkpoint.layout import Slot, read_layout
from phiforge.errors import (
    PickleWeightsError,
    TensorMissingError,
    UnsafePathError,
    WeightsDuplicateError,
    WeightsHeaderError,
    WeightsTruncatedError,
)

SINGLE_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
FLOAT_DTYPES = ("bfloat16", "float16", "float32")

# By their safetensors names. NumPy, and with it the safetensors library, knows bfloat16 by name only once ml_dtypes is
# imported.
_DTYPES = {"BF16": np.dtype(ml_dtypes.bfloat16), "F16": np.dtype(np.float16), "F32": np.dtype(np.float32)}
_DTYPE_BYTES = {dtype.name: dtype.itemsize for dtype in _DTYPES.values()}
_PICKLE_SUFFIXES = (".bin", ".pt", ".pth")
_HEADER_LIMIT = 100_000_000  # The library refuses longer headers.


@dataclass(frozen=True, kw_only=True)
class TensorInfo:
    """Where a tensor is and what it looks like.

    Attributes:
        name: Its name in the file.
        shape: Its shape as stored.
        dtype: bfloat16, float16 or float32; any other type by its safetensors name, such as I64.
        file: Name of the file in the checkpoint folder.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    file: str


class Weights:
    """The tensors of a checkpoint.

    Every read maps its file anew, so nothing needs closing.
    """

    def __init__(self, folder: Path, infos: Mapping[str, TensorInfo]) -> None:
        self.folder = folder
        self._infos = dict(infos)
        self._layouts: dict[str, dict[str, Slot]] = {}
        self._stored_as: dict[str, str] = {}

    @property
    def names(self) -> tuple[str, ...]:
        """All tensor names, file by file, in the order in which they are stored."""
        return tuple(self._infos)

    def with_own_head(self) -> Weights:
        """The same weights with the embedding table as a head beside it: a tied model seen as an untied one."""
        found = Weights(self.folder, {**self._infos, HEAD: replace(self.info(EMBEDDING), name=HEAD)})
        found._stored_as = {HEAD: EMBEDDING}
        return found

    def info(self, name: str) -> TensorInfo:
        """Describes a tensor.

        Raises:
            TensorMissingError: No file holds it.
        """
        if name not in self._infos:
            raise TensorMissingError(
                f"The checkpoint {self.folder} holds no tensor {name}.",
                why=f"None of its {len(self._infos)} tensors has this name.",
                fix="Download the checkpoint again, or use one of the same architecture.",
            )
        return self._infos[name]

    def read_rows(self, name: str, start: int, stop: int) -> NDArray[np.float32]:
        """Reads rows `start` to `stop`, without `stop`, as float32 [stop - start, ...]; of a vector, its elements.

        Raises:
            TensorMissingError: No file holds the tensor.
            ValueError: The tensor has no such rows, or its values are no floating-point numbers.
        """
        return widen(self.map_rows(name, start, stop))

    def map_rows(self, name: str, start: int, stop: int) -> NDArray[Any]:
        """Maps rows `start` to `stop`, without `stop`, as stored: read-only, in pages the system may drop again.

        Raises:
            TensorMissingError: No file holds the tensor.
            ValueError: The tensor has no such rows, or its values are no floating-point numbers.
        """
        info = self.info(name)
        if info.dtype not in FLOAT_DTYPES:
            raise ValueError(f"{name} has dtype {info.dtype}; {', '.join(FLOAT_DTYPES)} can be read")
        if not info.shape or not 0 <= start <= stop <= info.shape[0]:
            raise ValueError(f"{name} has shape {info.shape}; it has no rows {start} to {stop}")
        if info.file not in self._layouts:
            self._layouts[info.file] = read_layout(self.folder / info.file)
        slot = self._layouts[info.file][self._stored_as.get(name, name)]
        shape = (stop - start, *info.shape[1:])
        if 0 in shape:
            return np.empty(shape, info.dtype)
        offset = slot.offset + start * slot.row_bytes
        return np.memmap(self.folder / info.file, dtype=info.dtype, mode="r", offset=offset, shape=shape)

    def read(self, name: str) -> NDArray[np.float32]:
        """Reads a whole tensor as float32.

        Raises:
            TensorMissingError: No file holds the tensor.
            ValueError: It is a scalar, or its values are no floating-point numbers.
        """
        shape = self.info(name).shape
        return self.read_rows(name, 0, shape[0] if shape else 0)


def widen(rows: NDArray[Any]) -> NDArray[np.float32]:
    """Gives float32 of what is stored, in memory of its own.

    A bfloat16 is the upper half of a float32; shifting its bits is several times faster than ml_dtypes' conversion.
    """
    if rows.dtype != _DTYPES["BF16"]:
        return np.array(rows, dtype=np.float32)
    wide = np.asarray(rows).view(np.uint16).astype(np.uint32)
    wide <<= 16
    return wide.view(np.float32)


def open_weights(folder: Path) -> Weights:
    """Reads the headers of all weights files.

    Args:
        folder: The checkpoint, with model.safetensors or with model.safetensors.index.json and the files it names.

    Raises:
        CheckpointNotFoundError: The folder does not exist.
        PickleWeightsError: It has pickle weights and no safetensors.
        TensorMissingError: It has no weights at all, or files or tensors that the index names are absent.
        UnsafePathError: The index names a file outside the folder.
        WeightsDuplicateError: Two files hold the same tensor, or the index lists one twice.
        WeightsHeaderError: A header or the index cannot be read.
        WeightsTruncatedError: A file is shorter than its header says.
    """
    infos: dict[str, TensorInfo] = {}
    twice: dict[tuple[str, str], list[str]] = {}
    for path in weight_files(folder):
        for info in _read_header(path):
            if info.name in infos:
                twice.setdefault((infos[info.name].file, info.file), []).append(info.name)
            infos[info.name] = info
    if twice:
        raise _two_places(folder, twice)
    if not (folder / SINGLE_FILE).is_file():
        _check_index(folder, infos)
    return Weights(folder, infos)


def weight_files(folder: Path) -> tuple[Path, ...]:
    """Lists the safetensors files of a checkpoint, sorted by name.

    Where there are both, model.safetensors is read and the index is not, as in transformers.

    Raises:
        CheckpointNotFoundError, PickleWeightsError, TensorMissingError, UnsafePathError, WeightsDuplicateError,
            WeightsHeaderError: As for `open_weights`.
    """
    require_folder(folder)
    if (folder / SINGLE_FILE).is_file():
        return (folder / SINGLE_FILE,)
    if not (folder / INDEX_FILE).is_file():
        raise _no_weights(folder)
    weight_map = _read_index(folder)
    for tensor, name in weight_map.items():
        # Links are left alone: a Hugging Face cache is made of links that lead out of the folder.
        if name in ("", ".", "..") or any(character in name for character in "/\\:\0"):
            raise UnsafePathError(
                f"{folder / INDEX_FILE} looks for the tensor {tensor} in {name!r}.",
                why="A weights file must lie in the checkpoint folder itself, and this name leads elsewhere.",
                fix="Do not use this checkpoint unless you know who wrote the index; get it from the publisher again.",
            )
    names = sorted(set(weight_map.values()))
    absent = [name for name in names if not (folder / name).is_file()]
    if absent:
        lost = sum(name in absent for name in weight_map.values())
        raise TensorMissingError(
            f"The checkpoint {folder} lacks {len(absent)} of its {len(names)} weights files: {', '.join(absent)}.",
            why=f"{INDEX_FILE} looks for {lost} tensors in them.",
            fix="Download these files into the checkpoint folder.",
        )
    return tuple(folder / name for name in names)


def _no_weights(folder: Path) -> PickleWeightsError | TensorMissingError:
    pickles = sorted(path.name for path in folder.iterdir() if path.suffix in _PICKLE_SUFFIXES)
    if pickles:
        return PickleWeightsError(
            f"The checkpoint {folder} has its weights in {', '.join(pickles)} and in no safetensors file.",
            why="These are pickle files: loading one runs whatever code it contains.",
            fix="Use the safetensors form of the checkpoint, or convert it on a machine you can do without.",
        )
    return TensorMissingError(
        f"The checkpoint {folder} has neither {SINGLE_FILE} nor {INDEX_FILE}.",
        why="Without one of them there are no weights to read.",
        fix="Download the weights into the checkpoint folder.",
    )


def _read_index(folder: Path) -> dict[str, str]:
    path = folder / INDEX_FILE
    try:
        weight_map = read_json_object(path, unique=True).get("weight_map")
        if not isinstance(weight_map, dict) or not weight_map:
            raise ValueError("it has no weight_map")
        wrong = [name for name, file in weight_map.items() if not isinstance(file, str)]
        if wrong:
            raise ValueError(f"its weight_map gives no file name for {wrong[0]}")
    except RepeatedKeysError as error:
        raise WeightsDuplicateError(
            f"{path} lists {_some(error.keys)} more than once.",
            why="Which of the files it then names is meant is not clear; JSON readers silently take the last.",
            fix=f"Restore {INDEX_FILE} from the model's publisher.",
        ) from error
    except ValueError as error:
        raise WeightsHeaderError(
            f"{path} cannot be read.",
            why=f"The reader says: {error}.",
            fix=f"Restore {INDEX_FILE} from the model's publisher.",
        ) from error
    return dict(weight_map)


def _two_places(folder: Path, twice: Mapping[tuple[str, str], list[str]]) -> WeightsDuplicateError:
    places = [
        f"{_some(names)} in {one} and again in {other}"
        + (", which is the same file" if (folder / one).samefile(folder / other) else "")
        for (one, other), names in twice.items()
    ]
    return WeightsDuplicateError(
        f"The checkpoint {folder} has tensors twice: {'; '.join(places)}.",
        why="It is not clear which of the two is meant, and they may differ.",
        fix="Download the checkpoint again into an empty folder.",
    )


def _some(names: list[str]) -> str:
    return names[0] + (f" and {len(names) - 1} more" if len(names) > 1 else "")


def _check_index(folder: Path, infos: Mapping[str, TensorInfo]) -> None:
    for tensor, file in _read_index(folder).items():
        if tensor not in infos or infos[tensor].file != file:
            raise TensorMissingError(
                f"The weights file {folder / file} does not hold the tensor {tensor}.",
                why=f"{INDEX_FILE} promises it there, so the index and the files are not of one release.",
                fix="Download the checkpoint again into an empty folder.",
            )


def _read_header(path: Path) -> list[TensorInfo]:
    try:
        with safe_open(path, framework="np") as file:
            slices = [(name, file.get_slice(name)) for name in file.offset_keys()]
            return [
                TensorInfo(
                    name=name,
                    shape=tuple(part.get_shape()),
                    dtype=_dtype_name(part.get_dtype()),
                    file=path.name,
                )
                for name, part in slices
            ]
    except SafetensorError as error:
        raise _header_error(path, str(error)) from error


def _dtype_name(code: str) -> str:
    return _DTYPES[code].name if code in _DTYPES else code


def _header_error(path: Path, message: str) -> WeightsTruncatedError | WeightsHeaderError:
    size, expected = path.stat().st_size, _promised_bytes(path)
    if expected is not None and size < expected:
        return WeightsTruncatedError(
            f"The weights file {path} has {size} bytes, but at least {expected} are needed.",
            why="The file is shorter than its header says; an interrupted download leaves such a file.",
            fix=f"Download {path.name} again.",
        )
    return WeightsHeaderError(
        f"The header of the weights file {path} cannot be read.",
        why=f"The safetensors library says: {message}.",
        fix=f"Download {path.name} again; if that does not help, the published file is damaged.",
    )


def _promised_bytes(path: Path) -> int | None:
    """Counts the bytes the file should have by what is readable of its header; None where that makes no sense.

    Layout: 8 bytes with the header's length, little-endian; the header, JSON; the data, at offsets from the header's
    end (github.com/huggingface/safetensors, "Format").
    """
    with path.open("rb") as file:
        prefix = file.read(8)
        if len(prefix) < 8:
            return 8
        (header_bytes,) = struct.unpack("<Q", prefix)
        if header_bytes > _HEADER_LIMIT:
            return None
        header = file.read(header_bytes)
    if len(header) < header_bytes:
        return 8 + int(header_bytes)
    try:
        entries: dict[str, dict[str, list[int]]] = json.loads(header)
        ends = [entry["data_offsets"][1] for name, entry in entries.items() if name != "__metadata__"]
        return 8 + int(header_bytes) + max(ends, default=0)
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError):
        return None


def tensor_bytes(info: TensorInfo) -> int:
    """Counts the bytes a floating-point tensor takes in its file."""
    return math.prod(info.shape) * int(_DTYPE_BYTES[info.dtype])
