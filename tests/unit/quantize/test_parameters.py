"""Parameters of given blocks: those of the quantizers, and a search that minds the importance it is given."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from phiforge.quantize.algorithms import quantize_rows
from phiforge.quantize.blocks import encode
from phiforge.quantize.parameters import Search, block_parameters
from phiforge.quantize.spec import QuantSpec
from unit.quantize.strategies import specs, weights_for

SEARCHES: tuple[Search, ...] = ("rtn", "k-quant")


def weighted_errors(
    columns: NDArray[np.float32],
    importance: NDArray[np.float32],
    parameters: tuple[NDArray[np.float32], NDArray[np.float32]],
    spec: QuantSpec,
) -> NDArray[np.float64]:
    scales, zeros = parameters
    difference = (encode(columns, scales, zeros, spec) - zeros).astype(np.float64) * scales - columns
    errors: NDArray[np.float64] = (importance * difference**2).sum(axis=0)
    return errors


@pytest.mark.parametrize("search", SEARCHES)
@given(st.data(), specs)
def test_are_those_of_the_quantizer(search: Search, data: st.DataObject, spec: QuantSpec) -> None:
    weight = data.draw(weights_for(spec))
    columns = weight.reshape(-1, spec.block_size).T
    scales, zeros = block_parameters(columns, spec, search)
    quantized = quantize_rows(weight, spec, search)

    assert scales.dtype == zeros.dtype == np.float32
    np.testing.assert_array_equal(scales, quantized.scales.ravel())
    codes = encode(columns, scales, zeros, spec)
    np.testing.assert_array_equal(codes, quantized.codes.reshape(-1, spec.block_size).T)
    stored = quantized.zero_points
    np.testing.assert_array_equal(zeros, spec.middle_code if stored is None else stored.ravel())


@given(st.data(), specs)
def test_search_lowers_the_error_that_it_is_given(data: st.DataObject, spec: QuantSpec) -> None:
    columns = data.draw(weights_for(spec)).reshape(-1, spec.block_size).T
    seed = data.draw(st.integers(0, 2**32 - 1))
    importance = np.random.default_rng(seed).random(columns.shape, dtype=np.float32) ** 4
    plain = weighted_errors(columns, importance, block_parameters(columns, spec, "rtn"), spec)
    searched = weighted_errors(columns, importance, block_parameters(columns, spec, "k-quant", importance), spec)

    resolution = 1e-11 * (importance * columns.astype(np.float64) ** 2).sum(axis=0)
    assert (searched <= plain * (1 + 1e-4) + resolution).all()


def test_the_important_weights_get_the_smaller_error() -> None:
    random = np.random.default_rng(0)
    columns = random.standard_normal((32, 200), dtype=np.float32)
    importance = np.ones_like(columns)
    importance[:8] = 1000
    spec = QuantSpec(4, 32, symmetric=False)
    chosen = np.zeros_like(columns)
    chosen[:8] = 1

    own = weighted_errors(columns, chosen, block_parameters(columns, spec, "k-quant"), spec).sum()
    given_importance = block_parameters(columns, spec, "k-quant", importance)
    assert weighted_errors(columns, chosen, given_importance, spec).sum() < 0.8 * own


def test_where_nothing_is_important_the_range_decides() -> None:
    columns = np.random.default_rng(0).standard_normal((16, 5), dtype=np.float32)
    spec = QuantSpec(4, 16, symmetric=False)

    found = block_parameters(columns, spec, "k-quant", np.zeros_like(columns))
    np.testing.assert_array_equal(found, block_parameters(columns, spec, "rtn"))


def test_refuses_what_does_not_fit() -> None:
    spec = QuantSpec(4, 32, symmetric=False)

    with pytest.raises(ValueError, match="multiple of 4"):
        block_parameters(np.ones((10, 2), np.float32), spec, "rtn")
    with pytest.raises(ValueError, match="float64"):
        block_parameters(np.ones((32, 2)), spec, "rtn")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="importance has shape"):
        block_parameters(np.ones((32, 2), np.float32), spec, "k-quant", np.ones((32, 1), np.float32))
