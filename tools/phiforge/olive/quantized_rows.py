"""The weights that a quantized checkpoint's codes stand for, read by rows like those of any checkpoint."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from phiforge.checkpoint.config import load_config
from phiforge.checkpoint.disagreements import EMBEDDING, HEAD
from phiforge.checkpoint.layout import read_layout
from phiforge.olive.checkpoint_files import WEIGHTS_FILE
from phiforge.olive.export_variant import read_specs
from phiforge.quantize.packing import unpack
from phiforge.quantize.spec import Quantized, dequantize

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from phiforge.quantize.spec import QuantSpec

    Floats = NDArray[np.float32]

_DTYPES: dict[str, np.dtype[Any]] = {"U8": np.dtype(np.uint8), "F32": np.dtype(np.float32)}


class QuantizedRows:
    """The weights of a checkpoint in Olive's format, as `quantize_checkpoint` writes it; a tied head is the table."""

    def __init__(self, folder: Path) -> None:
        """Read the configuration and the header of the weights file."""
        config = load_config(folder, quantized=True)
        self._file = folder / WEIGHTS_FILE
        self._slots = read_layout(self._file)
        self._specs = read_specs(folder, config)
        self._tied = config.tied_embeddings

    def read(self, name: str) -> Floats:
        """A whole tensor as float32."""
        stored = self._stored_name(name)
        module = stored.removesuffix(".weight")
        first = f"{module}.qweight" if module in self._specs else stored
        return self.read_rows(stored, 0, self._slots[first].shape[0])

    def read_rows(self, name: str, start: int, stop: int) -> Floats:
        """Rows of a tensor as float32; of a vector, its elements."""
        stored = self._stored_name(name)
        module = stored.removesuffix(".weight")
        if module in self._specs:
            return self._dequantize(module, self._specs[module], start, stop)
        return np.array(self._map(stored, start, stop), dtype=np.float32)

    def _stored_name(self, name: str) -> str:
        return EMBEDDING if self._tied and name == HEAD else name

    def _dequantize(self, module: str, spec: QuantSpec, start: int, stop: int) -> Floats:
        scales = self._map(f"{module}.scales", start, stop)
        blocks = scales.shape[1]
        zeros = None if spec.symmetric else unpack(self._map(f"{module}.qzeros", start, stop), spec.bits, blocks)
        codes = unpack(self._map(f"{module}.qweight", start, stop), spec.bits, blocks * spec.block_size)
        quantized = Quantized(codes=codes, scales=scales, zero_points=zeros, spec=spec)
        # A scale that is not finite is found and named by the ranges of what is computed with it.
        with np.errstate(invalid="ignore"):
            return dequantize(quantized)

    def _map(self, name: str, start: int, stop: int) -> NDArray[Any]:
        slot = self._slots[name]
        shape = (stop - start, *slot.shape[1:])
        offset = slot.offset + start * slot.row_bytes
        return np.memmap(self._file, dtype=_DTYPES[slot.dtype], mode="r", offset=offset, shape=shape)
