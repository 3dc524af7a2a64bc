"""AWQ: scales and clips that are the best of their grids, by errors of the outputs themselves."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from phiforge.quantize.awq import awq_scales, output_error, quantize_clipped
from phiforge.quantize.rtn import quantize_rtn
from phiforge.quantize.spec import QuantSpec, dequantize
from unit.quantize import reference_calibrated as reference
from unit.quantize.strategies import specs, weights_for

Floats = NDArray[np.float32]
seeds = st.integers(0, 2**32 - 1)
SPECS = [QuantSpec(4, 16, False), QuantSpec(4, 32, True), QuantSpec(4, 16, True, per_channel=True)]


def uneven(tokens: int, size: int, seed: int) -> Floats:
    """Inputs with two channels much larger than the others, and some dependence."""
    random = np.random.default_rng(seed)
    inputs = random.standard_normal((tokens, size)) + random.standard_normal((tokens, 1))
    inputs[:, random.choice(size, 2, replace=False)] *= 30
    return inputs.astype(np.float32)


def weights_of(rows: int, size: int, seed: int) -> Floats:
    return (np.random.default_rng(seed).standard_normal((rows, size)) * 0.02).astype(np.float32)


@settings(max_examples=30, deadline=None)
@given(seeds, st.sampled_from(SPECS))
def test_scales_are_the_best_of_the_grid(seed: int, spec: QuantSpec) -> None:
    weights, inputs = [weights_of(4, 64, seed), weights_of(3, 64, seed + 1)], uneven(100, 64, seed)
    scales = awq_scales(weights, inputs.T @ inputs, spec, grid=5).astype(np.float64)
    exact = inputs.astype(np.float64)
    candidates = [reference.awq_scales(exact, step / 5) for step in range(5)]
    errors = [reference.awq_error(list(weights), candidate, exact, spec) for candidate in candidates]

    distances = [float(np.abs(scales / candidate - 1).max()) for candidate in candidates]
    assert min(distances) < 1e-4
    assert errors[int(np.argmin(distances))] <= min(errors) * 1.01


@settings(max_examples=30, deadline=None)
@given(seeds, st.sampled_from(SPECS))
def test_scaling_is_never_worse_than_leaving_the_weights_as_they_are(seed: int, spec: QuantSpec) -> None:
    weight, inputs = weights_of(8, 64, seed), uneven(100, 64, seed)
    scales, exact = awq_scales([weight], inputs.T @ inputs, spec), inputs.astype(np.float64)

    plain = reference.awq_error([weight], np.ones(64), exact, spec)
    assert reference.awq_error([weight], scales.astype(np.float64), exact, spec) <= plain * 1.001


def test_large_inputs_get_large_scales() -> None:
    weight, inputs = weights_of(64, 256, 1), uneven(500, 256, 1)
    scales = awq_scales([weight], inputs.T @ inputs, QuantSpec(4, 128, symmetric=False))
    large = np.argsort(-(inputs**2).sum(axis=0))[:2]

    assert set(np.argsort(-scales)[:2].tolist()) == set(large.tolist())
    assert float(scales.max() * scales.min()) == pytest.approx(1, rel=1e-4)


def test_equal_inputs_get_no_scales() -> None:
    scales = awq_scales([weights_of(8, 64, 2)], np.eye(64, dtype=np.float32), QuantSpec(4, 32, symmetric=False))

    np.testing.assert_array_equal(scales, np.ones(64, np.float32))


def test_channels_never_fed_get_one() -> None:
    weight, inputs = weights_of(32, 64, 3), uneven(200, 64, 3)
    inputs[:, [4, 9]] = 0
    scales = awq_scales([weight], inputs.T @ inputs, QuantSpec(4, 64, symmetric=True))

    assert scales[[4, 9]].tolist() == [1, 1]
    assert scales.max() > 1
    nothing = awq_scales([weight], np.zeros((64, 64), np.float32), QuantSpec(4, 64, symmetric=True))
    np.testing.assert_array_equal(nothing, np.ones(64, np.float32))


def test_many_rows_are_sampled() -> None:
    weight, inputs = weights_of(1100, 64, 4), uneven(200, 64, 4)
    hessian, spec = inputs.T @ inputs, QuantSpec(4, 32, symmetric=False)

    np.testing.assert_array_equal(awq_scales([weight], hessian, spec), awq_scales([weight[::3]], hessian, spec))


@settings(max_examples=50, deadline=None)
@given(st.data(), specs, seeds)
def test_no_block_is_worse_clipped(data: st.DataObject, spec: QuantSpec, seed: int) -> None:
    weight = data.draw(weights_for(spec))
    inputs = uneven(40, weight.shape[1], seed)
    exact = inputs.astype(np.float64)
    plain, clipped = quantize_rtn(weight, spec), quantize_clipped(weight, inputs.T @ inputs, spec)
    before = reference.local_error(weight, dequantize(plain), exact, spec.block_size)
    after = reference.local_error(weight, dequantize(clipped), exact, spec.block_size)

    # Decided in single precision; errors near its resolution are the same thing.
    resolution = 1e-10 * reference.local_error(weight, np.zeros_like(weight), exact, spec.block_size)
    assert (after <= before * (1 + 1e-3) + resolution).all()
    ratios = clipped.scales / plain.scales
    np.testing.assert_allclose(ratios * 20, np.rint(ratios * 20), atol=1e-4)
    assert ratios.min() > 0.5
    np.testing.assert_equal(clipped.zero_points, plain.zero_points)


@pytest.mark.parametrize("symmetric", [False, True])
def test_no_row_is_worse_clipped(symmetric: bool) -> None:
    spec = QuantSpec(4, 16, symmetric, per_channel=True)
    weight = np.random.default_rng(5).standard_t(3, (24, 192)).astype(np.float32)
    inputs = uneven(300, 192, 5)
    exact = inputs.astype(np.float64)
    plain, clipped = quantize_rtn(weight, spec), quantize_clipped(weight, inputs.T @ inputs, spec)
    before = reference.local_error(weight, dequantize(plain), exact, 16).sum(axis=1)
    after = reference.local_error(weight, dequantize(clipped), exact, 16).sum(axis=1)

    assert (after <= before * 1.001).all()
    assert after.sum() < 0.7 * before.sum()
    assert (clipped.scales == clipped.scales[:, :1]).all()


def test_clipping_finds_the_best_of_the_grid() -> None:
    spec, inputs = QuantSpec(4, 16, symmetric=True), uneven(100, 32, 6)
    exact = inputs.astype(np.float64)
    weight = np.random.default_rng(6).standard_t(3, (6, 32)).astype(np.float32)
    plain = quantize_rtn(weight, spec)
    errors = []
    for clip in range(10):
        scales = plain.scales.astype(np.float64).repeat(16, axis=1) * (1 - clip / 20)
        codes = np.clip(np.rint(weight / scales + 8), 0, 15)
        errors.append(reference.local_error(weight, (codes - 8) * scales, exact, 16))
    clipped = dequantize(quantize_clipped(weight, inputs.T @ inputs, spec))

    found = reference.local_error(weight, clipped, exact, 16)
    np.testing.assert_allclose(found, np.min(errors, axis=0), rtol=1e-3)


def test_chunks_of_rows_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    weight, inputs = weights_of(50, 64, 7), uneven(100, 64, 7)
    for spec in SPECS:
        whole = quantize_clipped(weight, inputs.T @ inputs, spec)
        with monkeypatch.context() as patch:
            patch.setattr("phiforge.quantize.awq._CHUNK_WEIGHTS", 300)
            cut = quantize_clipped(weight, inputs.T @ inputs, spec)
        assert (whole.codes == cut.codes).mean() > 0.99


def test_output_error_is_that_of_the_outputs() -> None:
    weight, inputs = weights_of(5, 32, 8), uneven(50, 32, 8)
    rounded = dequantize(quantize_rtn(weight, QuantSpec(4, 32, symmetric=True)))
    expected = reference.output_error(weight, rounded, inputs.astype(np.float64))

    assert output_error(rounded - weight, inputs.T @ inputs) == pytest.approx(expected, rel=1e-4)


def test_refuses_what_does_not_fit() -> None:
    weight, hessian, spec = np.ones((2, 32), np.float32), np.eye(32, dtype=np.float32), SPECS[0]
    broken = np.full((2, 32), np.nan, np.float32)

    with pytest.raises(ValueError, match="no weights"):
        awq_scales([], hessian, spec)
    with pytest.raises(ValueError, match="grid is 0"):
        awq_scales([weight], hessian, spec, grid=0)
    for quantize in (lambda w, h: awq_scales([w], h, spec), lambda w, h: quantize_clipped(w, h, spec)):
        with pytest.raises(ValueError, match=r"float32 \(16, 16\); float32 \(32, 32\)"):
            quantize(weight, hessian[:16, :16])
        with pytest.raises(ValueError, match="float64"):
            quantize(weight.astype(np.float64), hessian)
        with pytest.raises(ValueError, match="Hessian holds"):
            quantize(weight, hessian * np.float32(np.nan))
        with pytest.raises(ValueError, match=r"rows 0 to 1 .* not finite"):
            quantize(broken, hessian)
