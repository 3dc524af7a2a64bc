"""How a quantized weight is stored in Olive's checkpoint format."""

from __future__ import annotations

from typing import TYPE_CHECKING

from phiforge.quantize import pack
from phiforge.quantize.algorithms import Packed

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    import numpy as np
    from numpy.typing import NDArray

    from phiforge.quantize.spec import Quantized, QuantSpec

    Entry = tuple[str, tuple[str, tuple[int, ...]]]


def stored_tensors(module: str, packed: Packed) -> dict[str, NDArray[np.generic]]:
    """The tensors of one module: codes packed along the input dimension, scales and zero points one entry a block."""
    tensors: dict[str, NDArray[np.generic]] = {f"{module}.qweight": packed.codes, f"{module}.scales": packed.scales}
    if packed.zero_points is not None:
        tensors[f"{module}.qzeros"] = packed.zero_points
    return tensors


def pack_quantized(quantized: Quantized) -> Packed:
    """Pack the codes and zero points of a quantized weight."""
    bits, zeros = quantized.spec.bits, quantized.zero_points
    return Packed(pack(quantized.codes, bits), quantized.scales, None if zeros is None else pack(zeros, bits))


def entries(expected: Mapping[str, tuple[int, ...]], specs: Mapping[str, QuantSpec]) -> Iterator[Entry]:
    """Name, dtype and shape of every tensor. Norm weights become float32, the type the CPU graph wants."""
    for name, shape in expected.items():
        module = name.removesuffix(".weight")
        spec = specs.get(module)
        if spec is None:
            yield name, ("F32", shape)
            continue
        rows, columns = shape
        blocks = columns // spec.block_size
        yield f"{module}.qweight", ("U8", (rows, columns * spec.bits // 8))
        yield f"{module}.scales", ("F32", (rows, blocks))
        if not spec.symmetric:
            yield f"{module}.qzeros", ("U8", (rows, -(-blocks * spec.bits // 8)))
