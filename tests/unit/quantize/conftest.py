"""Compiles before the tests, so that no test's deadline has to allow for it."""

from __future__ import annotations

import numpy as np
import pytest

from phiforge.quantize.algorithms import ALGORITHMS
from phiforge.quantize.spec import QuantSpec


@pytest.fixture(scope="session", autouse=True)
def compiled() -> None:
    """Quantizes a little with every algorithm."""
    for quantize in ALGORITHMS.values():
        quantize(np.ones((1, 16), np.float32), QuantSpec(4, 16, symmetric=True))
