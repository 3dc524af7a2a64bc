"""Rotations: exactly orthogonal, cheap and dense forms agree, and outliers are spread."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from phiforge.quantize.hadamard import Hadamard, hadamard_matrix
from unit.quantize.reference_calibrated import paley_entry, sylvester_entry

SIZES = (1, 2, 4, 12, 16, 20, 24, 40, 64, 96, 128, 160, 256, 320, 768)
sizes = st.sampled_from(SIZES)
seeds = st.integers(0, 2**32 - 1)


@pytest.mark.parametrize("size", SIZES)
def test_rows_are_exactly_orthogonal(size: int) -> None:
    matrix = hadamard_matrix(size)

    assert set(np.unique(matrix).tolist()) <= {-1, 1}
    np.testing.assert_array_equal(matrix @ matrix.T, size * np.eye(size, dtype=np.int64))


@pytest.mark.parametrize(("size", "order"), [(1, 1), (16, 1), (256, 1), (12, 12), (96, 12), (20, 20), (160, 20)])
def test_equals_the_reference(size: int, order: int) -> None:
    matrix, rest = hadamard_matrix(size), size // order
    for row in range(size):
        for column in range(size):
            paley = paley_entry(row // rest, column // rest, order - 1) if order > 1 else 1
            assert matrix[row, column] == paley * sylvester_entry(row % rest, column % rest)


@settings(max_examples=40)
@given(sizes, seeds)
def test_apply_is_the_dense_product(size: int, seed: int) -> None:
    rotation = Hadamard(size, seed)
    rows = np.random.default_rng(seed).standard_normal((3, size), dtype=np.float32)
    dense = rotation.matrix()

    np.testing.assert_allclose(dense @ dense.T, np.eye(size), atol=1e-12)
    np.testing.assert_allclose(rotation.apply(rows), rows @ dense, atol=3e-6)
    np.testing.assert_allclose(rotation.transpose_apply(rows), rows @ dense.T, atol=3e-6)


@settings(max_examples=40)
@given(sizes, seeds, st.sampled_from((1e-6, 1.0, 1e6)))
def test_transpose_undoes_apply_and_lengths_stay(size: int, seed: int, magnitude: float) -> None:
    rotation = Hadamard(size, seed)
    rows = (np.random.default_rng(seed).standard_normal((2, 3, size)) * magnitude).astype(np.float32)
    rotated = rotation.apply(rows)

    assert rotated.shape == rows.shape
    assert rotated.dtype == np.float32
    lengths = np.linalg.norm(rows, axis=-1)
    np.testing.assert_allclose(np.linalg.norm(rotated, axis=-1), lengths, rtol=1e-6)
    assert (np.linalg.norm(rotation.transpose_apply(rotated) - rows, axis=-1) <= 1e-6 * lengths).all()
    assert (np.linalg.norm(rotation.apply(rotation.transpose_apply(rows)) - rows, axis=-1) <= 1e-6 * lengths).all()


@pytest.mark.parametrize("size", [3072, 5120, 8192])
def test_sizes_of_models(size: int) -> None:
    rotation = Hadamard(size, 0)
    rows = np.random.default_rng(0).standard_normal((4, size), dtype=np.float32)
    rotated = rotation.apply(rows)

    np.testing.assert_allclose(rotated @ rotated.T, rows @ rows.T, atol=1e-2)
    np.testing.assert_allclose(rotation.transpose_apply(rotated), rows, atol=1e-5)


def test_a_layer_computes_the_same_between_rotations() -> None:
    random = np.random.default_rng(1)
    inputs, weight = (random.standard_normal((5, 96), dtype=np.float32) for _ in range(2))
    rotation = Hadamard(96, 3)

    np.testing.assert_allclose(rotation.apply(inputs) @ rotation.apply(weight).T, inputs @ weight.T, atol=1e-4)


def test_spreads_outliers() -> None:
    rows = np.random.default_rng(2).standard_normal((64, 768), dtype=np.float32)
    rows[:, [5, 300, 301]] *= 100
    rotated = Hadamard(768, 0).apply(rows)

    def kurtosis(values: np.ndarray[tuple[int, ...], np.dtype[np.float32]]) -> float:
        return float(np.mean(values**4) / np.mean(values**2) ** 2)

    assert kurtosis(rows) > 100
    assert kurtosis(rotated) < 6


def test_the_seed_decides_the_signs() -> None:
    np.testing.assert_array_equal(Hadamard(256, 7).signs, Hadamard(256, 7).signs)
    assert (Hadamard(256, 7).signs != Hadamard(256, 8).signs).any()
    assert set(Hadamard(256, 7).signs.tolist()) == {-1.0, 1.0}


def test_leaves_the_input_alone() -> None:
    for size in (1, 24):
        rows = np.ones((2, size), np.float32)
        Hadamard(size, 0).apply(rows)
        Hadamard(size, 0).transpose_apply(rows)
        np.testing.assert_array_equal(rows, np.ones((2, size), np.float32))


@pytest.mark.parametrize("size", [-4, 0, 3, 5, 6, 10, 28, 36, 100])
def test_other_sizes_are_refused_with_those_that_work(size: int) -> None:
    with pytest.raises(ValueError, match=rf"size {size} here; 2\^k, 12 \* 2\^k and 20 \* 2\^k work"):
        Hadamard(size, 0)


def test_refuses_other_arrays() -> None:
    with pytest.raises(ValueError, match=r"float64 \(2, 24\); float32"):
        Hadamard(24, 0).apply(np.ones((2, 24)))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"\(24, 2\); float32 \[..., 24\]"):
        Hadamard(24, 0).transpose_apply(np.ones((24, 2), np.float32))
