"""Specifications, and the arrays that must fit them."""

from __future__ import annotations

import numpy as np
import pytest

from phiforge.quantize.spec import Quantized, QuantSpec, bits_per_weight, dequantize, distinct_bits_per_weight


@pytest.mark.parametrize(
    ("bits", "block_size", "message"),
    [(3, 32, "bits is 3"), (4, 8, "block_size is 8"), (4, 48, "block_size is 48"), (4, 512, "block_size is 512")],
)
def test_refuses_what_no_kernel_runs(bits: int, block_size: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        QuantSpec(bits, block_size, symmetric=True)


@pytest.mark.parametrize(
    ("spec", "scale_bits", "expected"),
    [
        (QuantSpec(4, 32, symmetric=True), 32, 5.0),
        (QuantSpec(4, 32, symmetric=False), 32, 5.125),
        (QuantSpec(4, 128, symmetric=False), 16, 4.15625),
        (QuantSpec(8, 32, symmetric=False), 16, 8.75),
    ],
)
def test_counts_bits_with_scales_and_zero_points(spec: QuantSpec, scale_bits: int, expected: float) -> None:
    assert bits_per_weight(spec, scale_bits) == expected


def test_counts_distinct_bits_with_one_scale_a_row_per_channel() -> None:
    per_channel = QuantSpec(4, 32, symmetric=False, per_channel=True)

    assert bits_per_weight(per_channel) == 5.125
    assert distinct_bits_per_weight(per_channel, 1024) == 4 + 36 / 1024
    assert distinct_bits_per_weight(QuantSpec(4, 32, symmetric=False), 1024) == 5.125


@pytest.mark.parametrize("symmetric", [True, False])
def test_dequantize_by_hand(symmetric: bool) -> None:
    codes = np.arange(16, dtype=np.uint8).reshape(1, 16)
    zeros = None if symmetric else np.array([[3]], np.uint8)
    weight = dequantize(Quantized(codes, np.array([[0.5]], np.float32), zeros, QuantSpec(4, 16, symmetric)))

    assert weight.dtype == np.float32
    assert weight[0].tolist() == [(code - (8 if symmetric else 3)) * 0.5 for code in range(16)]


def test_refuses_arrays_that_do_not_fit() -> None:
    codes = np.zeros((2, 32), np.uint8)
    scales = np.ones((2, 2), np.float32)
    zeros = np.zeros((2, 2), np.uint8)
    symmetric, asymmetric = QuantSpec(4, 16, symmetric=True), QuantSpec(4, 16, symmetric=False)

    with pytest.raises(ValueError, match="zero points belong"):
        Quantized(codes, scales, zeros, symmetric)
    with pytest.raises(ValueError, match="zero points belong"):
        Quantized(codes, scales, None, asymmetric)
    with pytest.raises(ValueError, match="scales have shape"):
        Quantized(codes, scales[:1], None, symmetric)
    with pytest.raises(ValueError, match="zero points have shape"):
        Quantized(codes, scales, zeros[:, :1], asymmetric)
    with pytest.raises(ValueError, match="no multiple of the block size"):
        Quantized(codes[:, :20], scales, None, symmetric)
    with pytest.raises(ValueError, match="a matrix"):
        Quantized(codes[0], scales, None, symmetric)
