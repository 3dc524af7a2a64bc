"""The compiled code: the bits of plain NumPy for any block, lane and layout; and loaded only where it is needed."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from typing import TypeVar

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from phiforge.errors import DependencyMissingError
from phiforge.quantize import blocks
from phiforge.quantize.algorithms import ALGORITHMS, quantize_rows
from phiforge.quantize.parameters import block_parameters
from phiforge.quantize.spec import QuantSpec
from unit.quantize import reference_float32
from unit.quantize.strategies import specs, weights_for

Number = TypeVar("Number", np.float32, np.uint8)

LIGHT_MODULES = ("phiforge.pipeline", "phiforge.plan", "phiforge.quantize.algorithms", "phiforge.quantize.parameters")


def columns_of(weight: NDArray[Number], spec: QuantSpec) -> NDArray[Number]:
    return weight.reshape(-1, weight.shape[1] if spec.per_channel else spec.block_size).T


@given(st.data(), specs, st.booleans())
def test_round_to_nearest_has_the_bits_of_numpy(data: st.DataObject, spec: QuantSpec, bfloat16: bool) -> None:
    weight = data.draw(weights_for(spec))
    if bfloat16:
        # Short significands make exact ties, where codes and zero points are easiest to get wrong.
        weight = (weight.view(np.uint32) & np.uint32(0xFFFF0000)).view(np.float32)
    columns = columns_of(weight, spec)
    scales, zeros = reference_float32.range_parameters(columns, spec)
    quantized = ALGORITHMS["rtn"](weight, spec)

    np.testing.assert_array_equal(quantized.scales.ravel(), scales)
    np.testing.assert_array_equal(columns_of(quantized.codes, spec), blocks.encode(columns, scales, zeros, spec))
    if quantized.zero_points is not None:
        np.testing.assert_array_equal(quantized.zero_points.ravel(), zeros)


@settings(max_examples=50)
@given(st.data(), specs)
def test_the_search_has_the_bits_of_numpy(data: st.DataObject, spec: QuantSpec) -> None:
    weight = data.draw(weights_for(spec))
    columns = columns_of(weight, spec)
    scales, zeros = reference_float32.search_parameters(columns, spec)
    quantized = ALGORITHMS["k-quant"](weight, spec)

    np.testing.assert_array_equal(quantized.scales.ravel(), scales)
    np.testing.assert_array_equal(columns_of(quantized.codes, spec), blocks.encode(columns, scales, zeros, spec))
    if quantized.zero_points is not None:
        np.testing.assert_array_equal(quantized.zero_points.ravel(), zeros)


@pytest.mark.parametrize("height", [4, 12, 16, 80, 96, 1000])
@pytest.mark.parametrize("symmetric", [False, True])
def test_the_search_has_the_bits_of_numpy_for_any_height(height: int, symmetric: bool) -> None:
    random = np.random.default_rng(height)
    columns = random.standard_normal((height, 37), dtype=np.float32)
    importance = random.random((height, 37), dtype=np.float32)
    spec = QuantSpec(4, 32, symmetric)
    for given_importance in (None, importance):
        found = block_parameters(columns, spec, "k-quant", given_importance)
        expected = reference_float32.search_parameters(columns, spec, given_importance)

        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("count", [1, 63, 64, 65, 200])
def test_a_block_is_the_same_in_every_lane(algorithm: str, count: int) -> None:
    spec = QuantSpec(4, 16, symmetric=False)
    block = np.random.default_rng(0).standard_normal((1, 16), dtype=np.float32)
    alone = quantize_rows(block, spec, algorithm)
    many = quantize_rows(block.repeat(count, axis=0), spec, algorithm)

    assert (many.codes == alone.codes).all()
    assert (many.scales == alone.scales).all()


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_takes_read_only_strided_and_misaligned_weights(algorithm: str) -> None:
    weight = np.random.default_rng(0).standard_normal((8, 64), dtype=np.float32)
    spec = QuantSpec(4, 32, symmetric=False)
    expected = quantize_rows(weight, spec, algorithm)
    read_only = weight.copy()
    read_only.flags.writeable = False
    misaligned = np.frombuffer(b"\0" + weight.tobytes(), np.uint8)[1:].view(np.float32).reshape(8, 64)

    for other in (read_only, np.asfortranarray(weight), misaligned):
        np.testing.assert_array_equal(quantize_rows(other, spec, algorithm).codes, expected.codes)


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize("symmetric", [False, True])
def test_finds_a_nan_beside_an_infinity(sign: int, algorithm: str, per_channel: bool, symmetric: bool) -> None:
    weight = np.ones((1, 64), np.float32)
    weight[0, 40], weight[0, 41] = np.copysign(np.nan, sign), -sign * np.inf

    with pytest.raises(ValueError, match="not finite"):
        quantize_rows(weight, QuantSpec(4, 32, symmetric, per_channel), algorithm)


@pytest.fixture
def fresh_modules() -> Iterator[None]:
    """Forgets numba and phiforge, and afterwards all that was imported anew."""
    before = dict(sys.modules)
    for name in [name for name in sys.modules if name.split(".")[0] in ("numba", "phiforge")]:
        del sys.modules[name]
    yield
    sys.modules.clear()
    sys.modules.update(before)


@pytest.mark.usefixtures("fresh_modules")
def test_without_numba_everything_but_quantizing_works(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "numba", None)
    for name in LIGHT_MODULES:
        importlib.import_module(name)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_without_numba_quantizing_says_what_to_install(algorithm: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "numba", None)
    weight, spec = np.ones((1, 32), np.float32), QuantSpec(4, 32, symmetric=False)

    with pytest.raises(DependencyMissingError, match="needs numba"):
        quantize_rows(weight, spec, algorithm)
    with pytest.raises(DependencyMissingError, match="needs numba") as caught:
        block_parameters(weight.T, spec, "rtn")
    assert "phiforge[build,cpu]" in caught.value.fix
