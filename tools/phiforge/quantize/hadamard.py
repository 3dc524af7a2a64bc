"""Random orthogonal rotations that are cheap to apply: Hadamard matrices with random signs.

A rotated outlier is spread over all channels, and a rotation taken along by the layers before and after changes
nothing else (QuaRot, Ashkboos et al., 2024, https://arxiv.org/abs/2404.00456).
"""

from __future__ import annotations

from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from phiforge.quantize.blocks import Floats

Integers = NDArray[np.int64]

# The part of the size that is no power of two, the order of the matrix that covers it, and the order's prime.
_PALEY_PRIMES = {3: (12, 11), 5: (20, 19)}
_LARGEST_POWER = 16


class Hadamard:
    """The rotation R = D H / sqrt(n): n random signs D, and an n x n matrix H of 1 and -1 with H H^T = n I.

    H is the Kronecker product of a Paley matrix of order 1, 12 or 20 and Sylvester matrices of order 2 to 16, applied
    one after another: 44 multiplications a value for n = 3072, 52 for 5120, 50 for 8192.

    Attributes:
        size: n, a power of two, or 12 or 20 times one.
        seed: What the signs are drawn from.

    Raises:
        ValueError: There is no matrix of that size here.
    """

    def __init__(self, size: int, seed: int) -> None:
        self.size = size
        self.seed = seed
        self._factors = [factor.astype(np.float32) for factor in _factors(size)]

    @cached_property
    def signs(self) -> Floats:
        """D, float32 [n] of 1 and -1."""
        drawn = np.random.default_rng(self.seed).integers(0, 2, self.size)
        return (2 * drawn - 1).astype(np.float32)

    def apply(self, rows: Floats) -> Floats:
        """Gives rows @ R.

        Args:
            rows: float32 [..., n], not changed.

        Raises:
            ValueError: The array is not float32 or its last axis is not n long.
        """
        self._check(rows)
        return self._multiply(rows * self.signs, [factor.T for factor in self._factors])

    def transpose_apply(self, rows: Floats) -> Floats:
        """Gives rows @ R^T, which undoes `apply`; arguments and errors are the same."""
        self._check(rows)
        rotated = self._multiply(rows, self._factors)
        rotated *= self.signs
        return rotated

    def matrix(self) -> NDArray[np.float64]:
        """Gives R, float64 [n, n]."""
        rotation: NDArray[np.float64] = self.signs[:, None] * hadamard_matrix(self.size) / np.sqrt(self.size)
        return rotation

    def _check(self, rows: Floats) -> None:
        if rows.dtype != np.float32 or rows.shape[-1:] != (self.size,):
            raise ValueError(f"the array is {rows.dtype} {rows.shape}; float32 [..., {self.size}] is needed")

    def _multiply(self, rows: Floats, factors: list[Floats]) -> Floats:
        """Multiplies each row, seen as a tensor with one axis a factor, with each factor along its own axis."""
        values, behind = rows, self.size
        for factor in factors:
            behind //= len(factor)
            values = np.matmul(factor, values.reshape(-1, len(factor), behind))
        values *= np.float32(1 / np.sqrt(self.size))
        return values.reshape(rows.shape)


def hadamard_matrix(size: int) -> Integers:
    """Gives H, int64 [n, n] of 1 and -1, whose rows are orthogonal.

    Raises:
        ValueError: The size is neither a power of two nor 12 or 20 times one.
    """
    matrix = np.ones((1, 1), np.int64)
    for factor in _factors(size):
        matrix = np.kron(matrix, factor)
    return matrix


def _factors(size: int) -> list[Integers]:
    """Gives the matrices whose Kronecker product is H; their orders multiply to the size."""
    power = size & -size
    odd = size // power if power > 0 else 0
    order, prime = _PALEY_PRIMES.get(odd, (1, 0))
    if odd not in (1, *_PALEY_PRIMES) or size % order:
        raise ValueError(f"there is no Hadamard matrix of size {size} here; 2^k, 12 * 2^k and 20 * 2^k work")
    factors = [_paley(prime)] if prime else []
    rest = size // order
    while rest > 1:
        factors.append(_sylvester(min(rest, _LARGEST_POWER)))
        rest //= len(factors[-1])
    return factors or [np.ones((1, 1), np.int64)]


def _sylvester(order: int) -> Integers:
    """Doubles [[1]] up to the order, a power of two: H -> [[H, H], [H, -H]]."""
    matrix = np.ones((1, 1), np.int64)
    while len(matrix) < order:
        matrix = np.block([[matrix, matrix], [matrix, -matrix]])
    return matrix


def _paley(prime: int) -> Integers:
    """Builds the matrix of order prime + 1 by Paley's first construction; the prime is 3 modulo 4.

    With Q[i, j] = 1 where i - j is a square modulo the prime, -1 where it is none, and 0 on the diagonal, it is
    I + [[0, 1], [-1, Q]] with a row of ones and a column of minus ones.
    """
    index = np.arange(prime)
    squares = np.unique(index[1:] ** 2 % prime)
    difference = (index[:, None] - index[None, :]) % prime
    matrix = np.eye(prime + 1, dtype=np.int64)
    matrix[0, 1:] = 1
    matrix[1:, 0] = -1
    matrix[1:, 1:] += np.where(np.isin(difference, squares), 1, -1) * (difference != 0)
    return matrix
