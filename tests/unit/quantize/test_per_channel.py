"""One scale a row: the whole row is a block, and its scale is stored for every block of the specification."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from phiforge.quantize.algorithms import ALGORITHMS, quantize_rows
from phiforge.quantize.spec import Quantized, QuantSpec, dequantize
from unit.quantize.reference import Result, kquant_block, nearest_codes, rtn_block, weighted_error
from unit.quantize.strategies import weights_for

specs = st.builds(
    QuantSpec,
    bits=st.sampled_from((4, 8)),
    block_size=st.sampled_from((16, 32)),
    symmetric=st.booleans(),
    per_channel=st.just(True),
)


def rows_of(quantized: Quantized) -> list[Result]:
    zeros = quantized.zero_points
    zero_list = [quantized.spec.middle_code] * len(quantized.codes) if zeros is None else zeros[:, 0].tolist()
    return list(zip(quantized.codes.tolist(), quantized.scales[:, 0].tolist(), zero_list, strict=True))


def errors_of(weight: NDArray[np.float32], quantized: Quantized) -> NDArray[np.float64]:
    pairs = zip(weight.tolist(), rows_of(quantized), strict=True)
    return np.array([weighted_error(row, result) for row, result in pairs])


@given(st.data(), specs)
def test_rtn_equals_the_reference_with_the_row_as_its_block(data: st.DataObject, spec: QuantSpec) -> None:
    weight = data.draw(weights_for(spec))
    for row, (codes, scale, zero) in zip(weight.tolist(), rows_of(quantize_rows(weight, spec, "rtn")), strict=True):
        _, expected_scale, expected_zero = rtn_block(row, spec.bits, symmetric=spec.symmetric)
        exact_zero = expected_zero if spec.symmetric else -min([*row, 0.0]) / expected_scale

        assert scale == pytest.approx(expected_scale, rel=1e-6)
        # In the very middle between two codes single precision may fall on either side.
        assert zero == expected_zero or abs(zero - exact_zero) < 0.501 or not any(row)
        for value, code, expected in zip(row, codes, nearest_codes(row, expected_scale, zero, spec.bits), strict=True):
            assert code == expected or abs(value / expected_scale + zero - code) < 0.501


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@given(st.data(), specs)
def test_all_blocks_of_a_row_store_the_same(algorithm: str, data: st.DataObject, spec: QuantSpec) -> None:
    quantized = quantize_rows(data.draw(weights_for(spec)), spec, algorithm)

    assert (quantized.scales == quantized.scales[:, :1]).all()
    if quantized.zero_points is not None:
        assert (quantized.zero_points == quantized.zero_points[:, :1]).all()


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("columns", [16, 64, 256])
@pytest.mark.parametrize("symmetric", [False, True])
def test_is_a_block_as_long_as_the_row(algorithm: str, columns: int, symmetric: bool) -> None:
    weight = np.random.default_rng(0).standard_normal((70, columns), dtype=np.float32)
    per_channel = quantize_rows(weight, QuantSpec(4, 16, symmetric, per_channel=True), algorithm)
    one_block = quantize_rows(weight, QuantSpec(4, columns, symmetric), algorithm)

    np.testing.assert_array_equal(per_channel.codes, one_block.codes)
    np.testing.assert_array_equal(per_channel.scales[:, :1], one_block.scales)
    np.testing.assert_array_equal(dequantize(per_channel), dequantize(one_block))


@given(st.data(), specs)
def test_search_is_not_worse_than_round_to_nearest(data: st.DataObject, spec: QuantSpec) -> None:
    weight = data.draw(weights_for(spec))
    plain = errors_of(weight, quantize_rows(weight, spec, "rtn"))
    searched = errors_of(weight, quantize_rows(weight, spec, "k-quant"))

    resolution = 1e-11 * np.array([weighted_error(row, ([0] * len(row), 0.0, 0)) for row in weight.tolist()])
    assert (searched <= plain * (1 + 1e-4) + resolution).all()


@settings(max_examples=20)
@given(st.integers(0, 2**32 - 1), st.booleans())
def test_search_is_as_good_as_the_reference(seed: int, symmetric: bool) -> None:
    # 160 is five times a power of two: its sums do not end in pairs.
    weight = np.random.default_rng(seed).standard_normal((3, 160), dtype=np.float32)
    found = errors_of(weight, quantize_rows(weight, QuantSpec(4, 32, symmetric, per_channel=True), "k-quant"))
    expected = [weighted_error(row, kquant_block(row, 4, symmetric=symmetric)) for row in weight.tolist()]

    assert found.sum() == pytest.approx(sum(expected), rel=0.01)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("symmetric", [False, True])
def test_costs_accuracy_against_blocks(algorithm: str, symmetric: bool) -> None:
    weight = np.random.default_rng(1).standard_normal((8, 2048), dtype=np.float32)

    def square_error(*, per_channel: bool) -> float:
        quantized = quantize_rows(weight, QuantSpec(4, 32, symmetric, per_channel), algorithm)
        return float(((dequantize(quantized) - weight) ** 2).sum())

    assert square_error(per_channel=True) > 1.5 * square_error(per_channel=False)


def test_a_row_of_nothing_becomes_exact_zeros() -> None:
    weight = np.zeros((2, 64), np.float32)
    weight[1] = 1
    for algorithm in ALGORITHMS:
        quantized = quantize_rows(weight, QuantSpec(4, 32, symmetric=False, per_channel=True), algorithm)

        assert not dequantize(quantized)[0].any()
        np.testing.assert_allclose(dequantize(quantized)[1], 1, rtol=1e-6)
