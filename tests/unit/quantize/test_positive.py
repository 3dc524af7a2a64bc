"""Positive scales, as QNN needs them: it takes a negative one for its magnitude."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from phiforge.quantize.algorithms import ALGORITHMS, quantize_rows
from phiforge.quantize.gptq import quantize_gptq
from phiforge.quantize.spec import QuantSpec, dequantize
from unit.quantize.strategies import weights_for

specs = st.builds(
    QuantSpec,
    bits=st.sampled_from((4, 8)),
    block_size=st.sampled_from((16, 32)),
    symmetric=st.just(True),
    per_channel=st.booleans(),
    positive=st.just(True),
)


@pytest.mark.parametrize("algorithm", sorted(ALGORITHMS))
@given(data=st.data(), spec=specs)
def test_no_scale_is_negative_and_no_weight_is_cut(algorithm: str, data: st.DataObject, spec: QuantSpec) -> None:
    weight = data.draw(weights_for(spec))
    found = quantize_rows(weight, spec, algorithm)
    assert (found.scales > 0).all()
    if algorithm == "rtn":
        # Half a step, and nothing beyond the ends of the codes but where the least code holds the largest weight.
        steps = np.abs(dequantize(found) - weight) / np.repeat(found.scales, spec.block_size, axis=1)
        assert steps.max() <= 1.0 + 1e-3


@given(st.data(), specs)
def test_blocks_whose_scale_was_positive_stay_as_they_were(data: st.DataObject, spec: QuantSpec) -> None:
    weight = data.draw(weights_for(spec))
    plain = quantize_rows(weight, replace(spec, positive=False), "rtn")
    found = quantize_rows(weight, spec, "rtn")
    kept = plain.scales > 0
    np.testing.assert_array_equal(found.scales[kept], plain.scales[kept])
    largest = spec.middle_code / (spec.max_code - spec.middle_code)
    np.testing.assert_allclose(found.scales[~kept], -plain.scales[~kept] * largest, rtol=1e-6)


def test_gptq_with_positive_scales_is_nearly_as_good() -> None:
    random = np.random.default_rng(0)
    weight = random.normal(size=(64, 128)).astype(np.float32)
    inputs = random.normal(size=(512, 128)).astype(np.float32)
    hessian = inputs.T @ inputs
    errors = []
    for positive in (False, True):
        spec = QuantSpec(bits=4, block_size=128, symmetric=True, per_channel=True, positive=positive)
        found = quantize_gptq(weight, hessian, spec, search="k-quant")
        assert (found.scales > 0).all() or not positive
        errors.append(float(np.square(inputs @ (dequantize(found) - weight).T).sum()))
    assert errors[1] < 1.2 * errors[0]
