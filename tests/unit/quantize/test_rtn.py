"""Round to nearest, against the formula."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from phiforge.quantize.rtn import quantize_rtn
from phiforge.quantize.spec import QuantSpec, dequantize
from unit.quantize.reference import blocks_of, nearest_codes, rtn_block
from unit.quantize.strategies import specs, weights_for


@given(st.data(), specs)
def test_equals_the_reference(data: st.DataObject, spec: QuantSpec) -> None:
    weight = data.draw(weights_for(spec))
    quantized = quantize_rtn(weight, spec)

    zeros = quantized.zero_points
    own_zeros = [spec.middle_code] * quantized.scales.size if zeros is None else zeros.ravel().tolist()
    all_codes = quantized.codes.reshape(-1, spec.block_size).tolist()
    scales = quantized.scales.ravel().tolist()
    for block, codes, scale, own_zero in zip(
        blocks_of(weight, spec.block_size), all_codes, scales, own_zeros, strict=True
    ):
        _, expected_scale, expected_zero = rtn_block(block, spec.bits, symmetric=spec.symmetric)
        assert scale == pytest.approx(expected_scale, rel=1e-6)
        # In the very middle between two codes single precision may fall on either side.
        exact_zero = expected_zero if spec.symmetric else -min([*block, 0.0]) / expected_scale
        assert own_zero == expected_zero or abs(own_zero - exact_zero) < 0.501 or not any(block)
        for value, code, expected in zip(
            block, codes, nearest_codes(block, expected_scale, own_zero, spec.bits), strict=True
        ):
            assert code == expected or abs(value / expected_scale + own_zero - code) < 0.501


@given(st.data(), specs)
def test_error_is_at_most_half_a_scale(data: st.DataObject, spec: QuantSpec) -> None:
    weight = data.draw(weights_for(spec))
    quantized = quantize_rtn(weight, spec)

    # The zero point is rounded too, so a block that has only one sign may lose half a step at its far end. In
    # symmetric blocks the value opposite to the extreme would need the code 2^bits, and gets the one below.
    half = np.abs(quantized.scales).repeat(spec.block_size, axis=1) / 2
    error = np.abs(weight - dequantize(quantized))
    inside = (quantized.codes > 0) & (quantized.codes < spec.max_code)
    assert (error <= half * 1.0001)[inside].all()
    assert (error <= half * 2.0001).all()


def test_uses_the_whole_range_of_a_simple_block() -> None:
    weight = np.arange(16, dtype=np.float32).reshape(1, 16) - 5
    quantized = quantize_rtn(weight, QuantSpec(4, 16, symmetric=False))

    assert quantized.scales.tolist() == [[1.0]]
    assert quantized.zero_points is not None
    assert quantized.zero_points.tolist() == [[5]]
    assert quantized.codes.tolist() == [list(range(16))]


def test_symmetric_puts_the_extreme_on_code_zero() -> None:
    weight = np.zeros((2, 16), np.float32)
    weight[0, 3], weight[0, 4] = 4.0, -3.5
    weight[1, 3], weight[1, 4] = -4.0, 3.5
    quantized = quantize_rtn(weight, QuantSpec(4, 16, symmetric=True))

    assert quantized.scales.tolist() == [[-0.5], [0.5]]
    assert quantized.codes[:, 3].tolist() == [0, 0]
    assert quantized.codes[:, 4].tolist() == [15, 15]
    np.testing.assert_array_equal(dequantize(quantized), weight)


@given(specs, st.sampled_from((0.0, 1e-45, -1e-42)))
def test_a_block_of_nothing_becomes_exact_zeros(spec: QuantSpec, value: float) -> None:
    weight = np.full((2, 2 * spec.block_size), value, np.float32)
    weight[1, spec.block_size :] = 1.0
    quantized = quantize_rtn(weight, spec)

    assert np.isfinite(quantized.scales).all()
    assert quantized.scales.all()
    assert not dequantize(quantized)[0].any()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("symmetric", [True, False])
def test_refuses_values_that_are_not_finite(value: float, symmetric: bool) -> None:
    weight = np.ones((4, 32), np.float32)
    weight[2, 5] = value

    with pytest.raises(ValueError, match="not finite"):
        quantize_rtn(weight, QuantSpec(4, 32, symmetric))


def test_leaves_the_weight_alone() -> None:
    weight = np.random.default_rng(0).standard_normal((4, 64), dtype=np.float32)
    before = weight.copy()
    quantize_rtn(weight, QuantSpec(4, 32, symmetric=False))

    np.testing.assert_array_equal(weight, before)


def test_takes_a_strided_view() -> None:
    weight = np.random.default_rng(0).standard_normal((64, 8), dtype=np.float32)
    spec = QuantSpec(4, 32, symmetric=False)

    np.testing.assert_array_equal(quantize_rtn(weight.T, spec).codes, quantize_rtn(weight.T.copy(), spec).codes)


def test_refuses_another_dtype() -> None:
    weight = np.ones((2, 32), np.float64)

    with pytest.raises(ValueError, match="float64"):
        quantize_rtn(weight, QuantSpec(4, 32, symmetric=False))  # type: ignore[arg-type]
