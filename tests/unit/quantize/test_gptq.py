"""GPTQ: the codes of the paper's algorithm, and outputs that are closer than those of rounding to nearest."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from phiforge.quantize import gptq
from phiforge.quantize.gptq import factorize, quantize_gptq, quantize_with
from phiforge.quantize.parameters import Search
from phiforge.quantize.rtn import quantize_rtn
from phiforge.quantize.spec import Quantized, QuantSpec, dequantize
from unit.quantize import reference_calibrated as reference
from unit.quantize.strategies import specs, weights_for

Floats = NDArray[np.float32]
seeds = st.integers(0, 2**32 - 1)
SPECS = [
    QuantSpec(bits, size, symmetric, per_channel)
    for bits in (4, 8)
    for size in (16, 64)
    for symmetric in (False, True)
    for per_channel in (False, True)
]
SEARCHES: tuple[Search, ...] = ("rtn", "k-quant")
TILE = 32


@pytest.fixture(scope="module", autouse=True)
def small_tiles() -> Iterator[None]:
    """A tile is always filled up, which takes long for the few rows of a test."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gptq, "ROW_TILE", TILE)
        yield


def correlated(tokens: int, size: int, seed: int) -> Floats:
    """Inputs that depend on each other, as those of real layers do."""
    random = np.random.default_rng(seed)
    hidden = random.standard_normal((tokens, size)) * np.arange(1, size + 1) ** -0.5
    return (hidden @ random.standard_normal((size, size)) + 0.1 * random.standard_normal((tokens, size))).astype(
        np.float32
    )


def heavy_tailed(rows: int, size: int, seed: int) -> Floats:
    return (np.random.default_rng(seed).standard_t(5, (rows, size)) * 0.02).astype(np.float32)


def assert_same(one: Quantized, other: Quantized) -> None:
    np.testing.assert_array_equal(one.codes, other.codes)
    np.testing.assert_array_equal(one.scales, other.scales)
    np.testing.assert_equal(one.zero_points, other.zero_points)


@pytest.mark.parametrize("act_order", [False, True])
@pytest.mark.parametrize("spec", SPECS, ids=str)
def test_equals_the_reference(spec: QuantSpec, act_order: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    # Several blocks of every kind: K = 192 in factors of 80 columns and pushes of 64.
    monkeypatch.setattr(gptq, "_FACTOR_COLUMNS", 80)
    monkeypatch.setattr(gptq, "_PUSH_COLUMNS", 64)
    weight, inputs = heavy_tailed(6, 192, 1), correlated(600, 192, 1)
    quantized = quantize_gptq(weight, inputs.T @ inputs, spec, act_order=act_order)
    exact = inputs.astype(np.float64)
    codes, values = reference.gptq(weight.astype(np.float64), exact, spec, act_order=act_order, damping=0.01)

    # A weight between two codes may go to either, and then decides about those after it in its row.
    same = quantized.codes == codes
    assert same.all(axis=1).sum() >= 5
    expected = reference.output_error(weight, values, exact)
    assert reference.output_error(weight, dequantize(quantized), exact) == pytest.approx(expected, rel=0.05)


@settings(max_examples=30, deadline=None)
@given(seeds, st.booleans(), st.sampled_from(SEARCHES))
def test_outputs_are_closer_than_those_of_rounding_to_nearest(seed: int, act_order: bool, search: Search) -> None:
    weight, inputs = heavy_tailed(16, 128, seed), correlated(512, 128, seed)
    for spec in (QuantSpec(4, 32, False), QuantSpec(4, 16, True, per_channel=True), QuantSpec(8, 64, True)):
        plain = dequantize(quantize_rtn(weight, spec))
        found = dequantize(quantize_gptq(weight, inputs.T @ inputs, spec, act_order=act_order, search=search))

        exact = inputs.astype(np.float64)
        assert reference.output_error(weight, found, exact) < 0.9 * reference.output_error(weight, plain, exact)


@settings(max_examples=40, deadline=None)
@given(st.data(), specs, st.booleans(), st.sampled_from((1e-6, 1.0, 1e6)))
def test_independent_inputs_leave_rounding_to_nearest(
    data: st.DataObject, spec: QuantSpec, per_channel: bool, magnitude: float
) -> None:
    spec = replace(spec, per_channel=per_channel)
    weight = data.draw(weights_for(spec))
    hessian = np.eye(weight.shape[1], dtype=np.float32) * np.float32(magnitude)

    assert_same(quantize_gptq(weight, hessian, spec), quantize_rtn(weight, spec))
    assert_same(quantize_gptq(weight, hessian, spec, act_order=True), quantize_rtn(weight, spec))


@settings(max_examples=30, deadline=None)
@given(st.data(), specs, st.booleans(), st.booleans(), st.sampled_from(SEARCHES))
def test_awkward_weights_and_inputs_stay_in_range(
    data: st.DataObject, spec: QuantSpec, per_channel: bool, act_order: bool, search: Search
) -> None:
    spec = replace(spec, per_channel=per_channel)
    weight = data.draw(weights_for(spec))
    size = weight.shape[1]
    # Fewer tokens than channels, one channel a hundred times as large, one that is never fed.
    inputs = correlated(size // 2, size, data.draw(seeds))
    inputs[:, 1] *= 100
    inputs[:, 2] = 0
    quantized = quantize_gptq(weight, inputs.T @ inputs, spec, act_order=act_order, search=search)

    assert int(quantized.codes.max()) <= spec.max_code
    assert quantized.scales.all()
    assert np.isfinite(dequantize(quantized)).all()
    assert not per_channel or (quantized.scales == quantized.scales[:, :1]).all()


@pytest.mark.parametrize("magnitude", [1e-30, 1e30])
@pytest.mark.parametrize("symmetric", [False, True])
def test_stays_finite_where_squares_leave_the_range(magnitude: float, symmetric: bool) -> None:
    weight = (heavy_tailed(4, 64, 0) * np.float32(magnitude)).astype(np.float32)
    inputs = correlated(200, 64, 0)
    spec = QuantSpec(4, 32, symmetric)
    found = dequantize(quantize_gptq(weight, inputs.T @ inputs, spec, search="k-quant"))

    assert np.isfinite(found).all()
    assert np.abs(found - weight).max() < np.abs(weight).max()


@pytest.mark.parametrize("act_order", [False, True])
@pytest.mark.parametrize("search", SEARCHES)
def test_slices_equal_the_whole(act_order: bool, search: Search) -> None:
    weight, inputs = heavy_tailed(2 * TILE + 10, 96, 2), correlated(300, 96, 2)
    spec = QuantSpec(4, 32, symmetric=False)
    factor = factorize(inputs.T @ inputs, act_order=act_order)
    whole = quantize_with(factor, weight, spec, search=search)
    slices = [slice(0, TILE), slice(TILE, None)]
    parts = [quantize_with(factor, weight[part], spec, search=search) for part in slices]

    np.testing.assert_array_equal(np.concatenate([part.codes for part in parts]), whole.codes)
    np.testing.assert_array_equal(np.concatenate([part.scales for part in parts]), whole.scales)
    assert_same(quantize_gptq(weight, inputs.T @ inputs, spec, act_order=act_order, search=search), whole)


def test_rows_do_not_depend_on_each_other() -> None:
    weight, inputs = heavy_tailed(40, 64, 3), correlated(300, 64, 3)
    factor = factorize(inputs.T @ inputs)
    spec = QuantSpec(4, 32, symmetric=False)
    whole = quantize_with(factor, weight, spec)
    alone = np.concatenate([quantize_with(factor, weight[row : row + 1], spec).codes for row in range(40)])

    # On some processors the last bits depend on the row's place, and a weight between two codes on those.
    assert (alone == whole.codes).mean() > 0.99


def test_the_order_follows_the_inputs() -> None:
    hessian = np.diag(np.array([2, 5, 0, 5], np.float32))

    factor = factorize(hessian, act_order=True)
    assert factor.order is not None
    assert factor.order.tolist() == [1, 3, 0, 2]
    np.testing.assert_allclose(factor.importance, np.diag(hessian) + 0.03)
    assert factorize(hessian).order is None


def test_act_order_helps_where_inputs_differ() -> None:
    weight, inputs = heavy_tailed(32, 256, 4), correlated(1000, 256, 4)
    inputs *= np.exp(np.random.default_rng(4).standard_normal(256)).astype(np.float32)
    spec, exact = QuantSpec(4, 32, symmetric=False), inputs.astype(np.float64)
    errors = [
        reference.output_error(
            weight, dequantize(quantize_gptq(weight, inputs.T @ inputs, spec, act_order=order)), exact
        )
        for order in (False, True)
    ]

    assert errors[1] < 0.95 * errors[0]


@pytest.mark.parametrize("spec", SPECS, ids=str)
def test_the_search_lowers_the_weighted_error_of_every_block(spec: QuantSpec) -> None:
    # With independent inputs the output error is the sum of the weighted errors of the weights.
    random = np.random.default_rng(5)
    weight, importance = heavy_tailed(8, 256, 5), np.exp(2 * random.standard_normal(256)).astype(np.float32)
    factor = factorize(np.diag(importance), damping=1e-6)
    size = 256 if spec.per_channel else spec.block_size

    def errors(search: Search) -> NDArray[np.float64]:
        difference = dequantize(quantize_with(factor, weight, spec, search=search)).astype(np.float64) - weight
        weighted = difference**2 * importance
        return np.asarray(weighted.reshape(8, -1, size).sum(axis=2))

    assert (errors("k-quant") <= errors("rtn") * (1 + 1e-4)).all()
    assert errors("k-quant").sum() < (0.6 if spec.bits == 4 else 0.95) * errors("rtn").sum()


def test_a_channel_that_was_never_fed_is_rounded_to_nearest() -> None:
    weight, inputs = heavy_tailed(8, 64, 6), correlated(300, 64, 6)
    inputs[:, [0, 40]] = 0
    spec = QuantSpec(4, 64, symmetric=True, per_channel=True)
    quantized = quantize_gptq(weight, inputs.T @ inputs, spec)

    np.testing.assert_array_equal(quantized.codes[:, [0, 40]], quantize_rtn(weight, spec).codes[:, [0, 40]])


def test_no_inputs_at_all_leave_rounding_to_nearest() -> None:
    weight, spec = heavy_tailed(4, 64, 7), QuantSpec(4, 32, symmetric=False)

    assert_same(quantize_gptq(weight, np.zeros((64, 64), np.float32), spec), quantize_rtn(weight, spec))


@pytest.mark.parametrize("size", [16, 255, 256, 257, 700])
def test_the_factor_gives_the_hessian_back(size: int) -> None:
    inputs = correlated(2 * size, size, 8)
    inputs[:, 3] *= 100
    hessian = inputs.T @ inputs
    triangle = np.triu(factorize(hessian).triangle).astype(np.float64)
    damped = hessian + 0.01 * hessian.diagonal().mean() * np.eye(size)

    np.testing.assert_allclose(triangle @ triangle.T, damped, atol=1e-5 * float(np.abs(damped).max()))


def test_what_cannot_be_factorized_is_damped_more() -> None:
    # Eigenvalues 1 - c and 1 + c; with c = 1.05 the smaller is -0.05, so that 0.01 does not suffice and 0.1 does.
    hessian = np.array([[1, 1.05], [1.05, 1]], np.float32)
    assert factorize(hessian).damping == pytest.approx(0.1)
    assert factorize(np.eye(2, dtype=np.float32)).damping == 0.01

    hessian[0, 1] = hessian[1, 0] = 20
    with pytest.raises(ValueError, match="no Cholesky factor, even with a damping of 10"):
        factorize(hessian)


def test_arguments_stay_as_they_are() -> None:
    weight, inputs = heavy_tailed(4, 64, 9), correlated(100, 64, 9)
    hessian = inputs.T @ inputs
    before = weight.copy(), hessian.copy()
    weight.flags.writeable = hessian.flags.writeable = False
    quantize_gptq(weight, hessian, QuantSpec(4, 32, symmetric=False), search="k-quant")

    np.testing.assert_array_equal(weight, before[0])
    np.testing.assert_array_equal(hessian, before[1])


def test_refuses_hessians_that_are_none() -> None:
    for hessian, message in (
        (np.ones((2, 3), np.float32), r"float32 \(2, 3\)"),
        (np.eye(2), "float64"),
        (np.full((2, 2), np.nan, np.float32), "not finite"),
    ):
        with pytest.raises(ValueError, match=message):
            factorize(hessian)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="damping is 0"):
        factorize(np.eye(2, dtype=np.float32), damping=0)


def test_refuses_weights_that_do_not_fit() -> None:
    factor, spec = factorize(np.eye(64, dtype=np.float32)), QuantSpec(4, 32, symmetric=False)
    weight = np.ones((TILE + 9, 64), np.float32)
    weight[TILE + 3, 5] = np.inf

    with pytest.raises(ValueError, match=f"rows {TILE} to {TILE + 8} .* not finite"):
        quantize_with(factor, weight, spec)
    with pytest.raises(ValueError, match="32 columns, but the Hessian has 64"):
        quantize_with(factor, weight[:, :32], spec)
    with pytest.raises(ValueError, match="float64"):
        quantize_with(factor, weight.astype(np.float64), spec)
    with pytest.raises(ValueError, match="no multiple of the block size"):
        quantize_with(factor, weight[:, :40], spec)
