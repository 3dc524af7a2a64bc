"""Packing of codes into bytes: the layout that Olive's quantized checkpoints and MatMulNBits share.

Two 4-bit codes go into a byte along the last axis, the earlier code into the low nibble; an odd count is padded with a
zero code. 8-bit codes are their own bytes. Source: olive/common/quant/utils.py, `pack_to_uint8` (Olive 0.13.0).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]


def pack(codes: Bytes, bits: int) -> Bytes:
    """Packs codes along the last axis.

    Args:
        codes: uint8 [..., count], each below 2^bits.
        bits: 4 or 8.

    Returns:
        uint8 [..., ceil(count * bits / 8)]; with 8 bits a copy.

    Raises:
        ValueError: `bits` is neither 4 nor 8, or a code does not fit.
    """
    _check_bits(bits)
    if bits == 8:
        return codes.copy()
    if codes.size and int(codes.max()) > 15:
        raise ValueError(f"code {int(codes.max())} does not fit into 4 bits")
    count = codes.shape[-1]
    if count % 2:
        codes = np.concatenate([codes, np.zeros((*codes.shape[:-1], 1), np.uint8)], axis=-1)
    # Two codes as one little-endian number, high << 8 | low: three times as fast as taking every second byte.
    pairs = np.ascontiguousarray(codes).view("<u2")
    packed = np.empty(pairs.shape, np.uint8)
    np.bitwise_or(pairs, pairs >> 4, out=packed, casting="unsafe")
    return packed


def unpack(packed: Bytes, bits: int, count: int) -> Bytes:
    """Undoes `pack`.

    Args:
        packed: uint8 [..., ceil(count * bits / 8)].
        bits: 4 or 8.
        count: Codes along the last axis.

    Returns:
        uint8 [..., count], a copy.

    Raises:
        ValueError: `bits` is neither 4 nor 8, or the last axis has another length than `count` calls for.
    """
    _check_bits(bits)
    expected = packed_length(count, bits)
    if packed.shape[-1] != expected:
        raise ValueError(f"{count} codes of {bits} bits fill {expected} bytes, but there are {packed.shape[-1]}")
    if bits == 8:
        return packed.copy()
    codes = np.empty((*packed.shape[:-1], count), np.uint8)
    codes[..., 0::2] = packed & 0x0F
    codes[..., 1::2] = packed[..., : count // 2] >> 4
    return codes


def packed_length(count: int, bits: int) -> int:
    """Counts the bytes that `count` codes of 4 or 8 bits fill along the last axis."""
    return count if bits == 8 else (count + 1) // 2


def _check_bits(bits: int) -> None:
    if bits not in (4, 8):
        raise ValueError(f"codes of {bits} bits cannot be packed; 4 and 8 can")
