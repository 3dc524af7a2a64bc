"""What Hypothesis draws for the quantizers: specifications, and weights with ordinary and awkward blocks."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st
from numpy.typing import NDArray

from phiforge.quantize.spec import QuantSpec

specs = st.builds(
    QuantSpec, bits=st.sampled_from((4, 8)), block_size=st.sampled_from((16, 32, 64)), symmetric=st.booleans()
)


@st.composite
def weights_for(draw: st.DrawFn, spec: QuantSpec) -> NDArray[np.float32]:
    """Draws a weight of a few blocks: bell-shaped, heavy-tailed, one-sided, zero, constant or with one outlier each."""
    rows, blocks = draw(st.integers(1, 4)), draw(st.integers(1, 4))
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    size = spec.block_size
    makers = (
        lambda: random.standard_normal(size),
        lambda: random.standard_t(3, size),
        lambda: random.random(size) + 1,
        lambda: -random.random(size),
        lambda: np.zeros(size),
        lambda: np.full(size, random.standard_normal()),
        lambda: np.where(np.arange(size) == 3, 50.0, random.standard_normal(size)),
    )
    kinds = draw(st.lists(st.integers(0, len(makers) - 1), min_size=rows * blocks, max_size=rows * blocks))
    magnitude = draw(st.sampled_from((1e-4, 0.02, 1.0, 300.0)))
    values = np.stack([makers[kind]() for kind in kinds]) * magnitude
    return values.astype(np.float32).reshape(rows, blocks * size)
