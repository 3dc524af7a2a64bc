"""The entry point: the same bits for any number of threads and any cut into chunks."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

from phiforge.quantize import algorithms, blocks
from phiforge.quantize.algorithms import ALGORITHMS, quantize_packed, quantize_rows
from phiforge.quantize.packing import pack
from phiforge.quantize.spec import Quantized, QuantSpec

SPECS = [
    QuantSpec(4, 32, symmetric=False),
    QuantSpec(8, 64, symmetric=True),
    QuantSpec(4, 16, symmetric=False, per_channel=True),
]


def assert_same(one: Quantized, other: Quantized) -> None:
    np.testing.assert_array_equal(one.codes, other.codes)
    np.testing.assert_array_equal(one.scales, other.scales)
    assert (one.zero_points is None) == (other.zero_points is None)
    if one.zero_points is not None and other.zero_points is not None:
        np.testing.assert_array_equal(one.zero_points, other.zero_points)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize("threads", [2, 3, 7])
def test_threads_change_nothing(algorithm: str, spec: QuantSpec, threads: int) -> None:
    weight = np.random.default_rng(0).standard_normal((61, 256), dtype=np.float32)

    assert_same(quantize_rows(weight, spec, algorithm), quantize_rows(weight, spec, algorithm, threads))


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize("chunk_weights", [1, 64, 1000, 4096])
def test_chunks_change_nothing(
    algorithm: str, spec: QuantSpec, chunk_weights: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    weight = np.random.default_rng(1).standard_normal((37, 64), dtype=np.float32)
    whole = ALGORITHMS[algorithm](weight, spec)
    monkeypatch.setattr(blocks, "CHUNK_WEIGHTS", chunk_weights)

    assert_same(whole, ALGORITHMS[algorithm](weight, spec))


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_rows_do_not_depend_on_each_other(algorithm: str) -> None:
    weight = np.random.default_rng(2).standard_normal((9, 32), dtype=np.float32)
    whole = quantize_rows(weight, SPECS[0], algorithm)

    for row in range(9):
        alone = quantize_rows(weight[row : row + 1], SPECS[0], algorithm, threads=2)
        np.testing.assert_array_equal(alone.codes[0], whole.codes[row])
        np.testing.assert_array_equal(alone.scales[0], whole.scales[row])


def test_an_error_in_a_thread_comes_through() -> None:
    weight = np.ones((64, 32), np.float32)
    weight[63, 0] = np.nan

    with pytest.raises(ValueError, match="not finite"):
        quantize_rows(weight, SPECS[0], "rtn", threads=2)


@pytest.mark.parametrize("threads", [1, 3])
def test_an_error_names_rows_of_the_whole_weight(threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(algorithms, "_PART_WEIGHTS", 64)
    weight = np.ones((64, 32), np.float32)
    weight[37, 0] = np.inf

    with pytest.raises(ValueError, match="rows 36 to 37 "):
        quantize_rows(weight, SPECS[0], "k-quant", threads)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16])
@pytest.mark.parametrize("threads", [1, 2])
def test_packed_is_the_same_packed(algorithm: str, spec: QuantSpec, dtype: type, threads: int) -> None:
    # Five blocks a row: an odd number of zero points.
    weight = np.random.default_rng(3).standard_normal((61, 320), dtype=np.float32)[:, : 5 * spec.block_size]
    weight = weight.astype(dtype)
    packed = quantize_packed(weight, spec, algorithm, threads)
    quantized = quantize_rows(weight.astype(np.float32), spec, algorithm)

    np.testing.assert_array_equal(packed.codes, pack(quantized.codes, spec.bits))
    np.testing.assert_array_equal(packed.scales, quantized.scales)
    assert (packed.zero_points is None) == (quantized.zero_points is None)
    if packed.zero_points is not None and quantized.zero_points is not None:
        np.testing.assert_array_equal(packed.zero_points, pack(quantized.zero_points, spec.bits))


def test_packed_refuses_other_dtypes() -> None:
    with pytest.raises(ValueError, match="float64"):
        quantize_packed(np.ones((1, 32)), SPECS[0], "rtn")


def test_unknown_algorithm_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match="'gguf'; there are rtn, k-quant"):
        quantize_rows(np.ones((1, 32), np.float32), SPECS[0], "gguf")


def test_no_threads_are_refused() -> None:
    with pytest.raises(ValueError, match="threads is 0"):
        quantize_rows(np.ones((1, 32), np.float32), SPECS[0], "rtn", threads=0)
