"""k-quant: never worse than round to nearest, and the search is the one of the reference."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from phiforge.quantize.kquant import quantize_kquant
from phiforge.quantize.rtn import quantize_rtn
from phiforge.quantize.spec import Quantized, QuantSpec, dequantize
from unit.quantize.reference import Result, blocks_of, kquant_block, weighted_error
from unit.quantize.strategies import specs, weights_for


def results_of(quantized: Quantized) -> list[Result]:
    spec = quantized.spec
    codes = quantized.codes.reshape(-1, spec.block_size).tolist()
    scales = quantized.scales.ravel().tolist()
    zeros = quantized.zero_points
    zero_list = [spec.middle_code] * len(scales) if zeros is None else zeros.ravel().tolist()
    return list(zip(codes, scales, zero_list, strict=True))


def errors_of(weight: NDArray[np.float32], quantized: Quantized) -> NDArray[np.float64]:
    pairs = zip(blocks_of(weight, quantized.spec.block_size), results_of(quantized), strict=True)
    return np.array([weighted_error(block, result) for block, result in pairs])


@given(st.data(), specs)
def test_no_block_is_worse_than_round_to_nearest(data: st.DataObject, spec: QuantSpec) -> None:
    weight = data.draw(weights_for(spec))
    plain = errors_of(weight, quantize_rtn(weight, spec))
    searched = errors_of(weight, quantize_kquant(weight, spec))

    # Which is better is decided in single precision; errors near its resolution are the same thing.
    resolution = 1e-11 * np.array(
        [weighted_error(b, ([0] * len(b), 0.0, 0)) for b in blocks_of(weight, spec.block_size)]
    )
    assert (searched <= plain * (1 + 1e-4) + resolution).all()


@settings(max_examples=30)
@given(st.integers(0, 2**32 - 1), specs)
def test_is_as_good_as_the_reference(seed: int, spec: QuantSpec) -> None:
    weight = np.random.default_rng(seed).standard_normal((2, 4 * spec.block_size), dtype=np.float32)
    found = errors_of(weight, quantize_kquant(weight, spec))
    blocks = blocks_of(weight, spec.block_size)
    expected = [weighted_error(b, kquant_block(b, spec.bits, symmetric=spec.symmetric)) for b in blocks]

    # Candidates that are equally good to seven digits are told apart by rounding; 8 bits leave little more than that.
    assert found.sum() == pytest.approx(sum(expected), rel=0.01 if spec.bits == 4 else 0.06)


def test_equals_the_reference_code_for_code() -> None:
    weight = np.random.default_rng(1).standard_normal((4, 128), dtype=np.float32)
    for symmetric in (False, True):
        spec = QuantSpec(4, 32, symmetric)
        results = results_of(quantize_kquant(weight, spec))
        expected = [kquant_block(block, 4, symmetric=symmetric) for block in blocks_of(weight, 32)]

        assert [codes for codes, _, _ in results] == [codes for codes, _, _ in expected]
        assert [zero for _, _, zero in results] == [zero for _, _, zero in expected]
        np.testing.assert_allclose([s for _, s, _ in results], [s for _, s, _ in expected], rtol=1e-5)


@pytest.mark.parametrize(("bits", "symmetric"), [(4, False), (4, True), (8, False), (8, True)])
def test_lowers_the_error_of_bell_shaped_weights_by_a_tenth(bits: int, symmetric: bool) -> None:
    weight = np.random.default_rng(2).standard_normal((16, 1024), dtype=np.float32)
    spec = QuantSpec(bits, 32, symmetric)
    plain = errors_of(weight, quantize_rtn(weight, spec)).sum()

    assert errors_of(weight, quantize_kquant(weight, spec)).sum() < 0.9 * plain


@given(specs)
def test_a_block_of_zeros_becomes_exact_zeros(spec: QuantSpec) -> None:
    weight = np.zeros((1, 2 * spec.block_size), np.float32)
    weight[0, spec.block_size :] = 1.0
    quantized = quantize_kquant(weight, spec)

    assert quantized.scales.all()
    assert not dequantize(quantized)[0, : spec.block_size].any()


@given(specs, st.sampled_from((1e-30, 1e15, 1e30)))
def test_stays_finite_where_squares_leave_the_range(spec: QuantSpec, magnitude: float) -> None:
    random = np.random.default_rng(3)
    weight = (random.standard_normal((2, 2 * spec.block_size)) * magnitude).astype(np.float32)
    quantized = quantize_kquant(weight, spec)

    assert np.isfinite(dequantize(quantized)).all()
    assert np.abs(dequantize(quantized) - weight).max() < 0.5 * np.abs(weight).max()


def test_refuses_values_that_are_not_finite() -> None:
    weight = np.ones((2, 32), np.float32)
    weight[1, 0] = np.nan

    with pytest.raises(ValueError, match=r"rows 0 to 1 .* not finite"):
        quantize_kquant(weight, QuantSpec(4, 32, symmetric=False))
