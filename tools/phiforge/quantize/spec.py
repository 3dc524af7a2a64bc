"""What a quantized weight is: its specification, its arrays, and the way back to float32."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

BITS = (4, 8)
BLOCK_SIZES = (16, 32, 64, 128, 256)


@dataclass(frozen=True)
class QuantSpec:
    """How a weight [N, K] is quantized: every `block_size` neighbours of a row share one scale, or the whole row does.

    Attributes:
        bits: Width of a code, 4 or 8.
        block_size: Weights that share a scale; a power of two from 16 to 256.
        symmetric: True when every block has the implied zero point 2^(bits-1), False when each block stores its own.
        per_channel: True when all blocks of a row share one scale and one zero point, taken over the whole row.
            `block_size` then only says how they are stored: once for every block, as MatMulNBits reads them.
        positive: True when no scale of a symmetric block may be negative, as for QNN, which takes a negative one for
            its magnitude. The lowest code then goes unused where the largest weight is positive.

    Raises:
        ValueError: A field is outside these ranges.
    """

    bits: int
    block_size: int
    symmetric: bool
    per_channel: bool = False
    positive: bool = False

    def __post_init__(self) -> None:
        if self.bits not in BITS:
            raise ValueError(f"bits is {self.bits}; it must be one of {BITS}")
        if self.block_size not in BLOCK_SIZES:
            raise ValueError(f"block_size is {self.block_size}; it must be one of {BLOCK_SIZES}")

    @property
    def max_code(self) -> int:
        """The largest code, 15 or 255."""
        return int(2**self.bits - 1)

    @property
    def middle_code(self) -> int:
        """The zero point of a symmetric block, 8 or 128."""
        return int(2 ** (self.bits - 1))


@dataclass(frozen=True)
class Quantized:
    """A quantized weight [N, K] in blocks of g = spec.block_size; a weight is (code - zero point) * scale.

    Attributes:
        codes: uint8 [N, K], one code a byte whatever the bits (see `packing`).
        scales: float32 [N, K/g], finite and not zero; negative ones are possible where the specification is symmetric.
        zero_points: uint8 [N, K/g], or None where the specification is symmetric.
        spec: How the arrays are to be read.

    Raises:
        ValueError: The arrays do not fit each other or the specification.
    """

    codes: NDArray[np.uint8]
    scales: NDArray[np.float32]
    zero_points: NDArray[np.uint8] | None
    spec: QuantSpec

    def __post_init__(self) -> None:
        rows, columns = check_shape(self.codes.shape, self.spec)
        blocks = (rows, columns // self.spec.block_size)
        if self.scales.shape != blocks:
            raise ValueError(f"scales have shape {self.scales.shape}; codes {self.codes.shape} call for {blocks}")
        if self.spec.symmetric != (self.zero_points is None):
            raise ValueError("zero points belong to asymmetric blocks, and only to those")
        if self.zero_points is not None and self.zero_points.shape != blocks:
            raise ValueError(
                f"zero points have shape {self.zero_points.shape}; codes {self.codes.shape} call for {blocks}"
            )


def check_shape(shape: tuple[int, ...], spec: QuantSpec) -> tuple[int, int]:
    """Checks that a weight of this shape can be cut into whole blocks.

    Returns:
        The shape as (N, K).

    Raises:
        ValueError: The weight is not two-dimensional, is empty, or K is no multiple of the block size.
    """
    if len(shape) != 2 or 0 in shape:
        raise ValueError(f"the weight has shape {shape}; a matrix with at least one row and column is needed")
    rows, columns = shape
    if columns % spec.block_size:
        raise ValueError(f"the weight has {columns} columns, which is no multiple of the block size {spec.block_size}")
    return rows, columns


def dequantize(quantized: Quantized) -> NDArray[np.float32]:
    """Gives the weights that the codes stand for: float32 [N, K], (code - zero point) * scale."""
    spec = quantized.spec
    rows, columns = quantized.codes.shape
    weight = quantized.codes.astype(np.float32).reshape(rows, columns // spec.block_size, spec.block_size)
    if quantized.zero_points is None:
        weight -= np.float32(spec.middle_code)
    else:
        weight -= quantized.zero_points.astype(np.float32)[..., None]
    weight *= quantized.scales[..., None]
    return weight.reshape(rows, columns)


def bits_per_weight(spec: QuantSpec, scale_bits: int = 32) -> float:
    """Counts the stored bits per weight: the code and its share of the block's scale and zero point.

    Args:
        spec: The specification. Per channel, scale and zero point are stored once a block like any others.
        scale_bits: Width of a stored scale: 32, or 16 where the target keeps scales in half precision.
    """
    return _bits_with_share(spec, scale_bits, spec.block_size)


def distinct_bits_per_weight(spec: QuantSpec, columns: int, scale_bits: int = 32) -> float:
    """Counts the bits per weight that say something new: per channel, one scale and zero point a row of `columns`.

    Otherwise the same as `bits_per_weight`.
    """
    return _bits_with_share(spec, scale_bits, columns if spec.per_channel else spec.block_size)


def _bits_with_share(spec: QuantSpec, scale_bits: int, sharers: int) -> float:
    zero_bits = 0 if spec.symmetric else spec.bits
    return spec.bits + (scale_bits + zero_bits) / sharers
