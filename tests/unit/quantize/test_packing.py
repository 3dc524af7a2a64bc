"""Packing: bytes as Olive and MatMulNBits lay them out, and back."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from phiforge.quantize.packing import pack, unpack


@given(st.data(), st.sampled_from((4, 8)))
def test_round_trip(data: st.DataObject, bits: int) -> None:
    shape = data.draw(hnp.array_shapes(min_dims=1, max_dims=3, min_side=0, max_side=9))
    codes: NDArray[np.uint8] = data.draw(hnp.arrays(np.uint8, shape, elements=st.integers(0, 2**bits - 1)))
    packed = pack(codes, bits)

    assert packed.shape == (*shape[:-1], -(-shape[-1] * bits // 8))
    np.testing.assert_array_equal(unpack(packed, bits, shape[-1]), codes)


def test_low_nibble_comes_first_and_the_rest_is_zero() -> None:
    codes = np.array([[1, 2, 3], [15, 0, 9]], np.uint8)

    assert pack(codes, 4).tolist() == [[0x21, 0x03], [0x0F, 0x09]]


def test_refuses_codes_that_do_not_fit() -> None:
    with pytest.raises(ValueError, match="16 does not fit"):
        pack(np.array([3, 16], np.uint8), 4)


@pytest.mark.parametrize("bits", [0, 2, 3, 16])
def test_refuses_other_widths(bits: int) -> None:
    codes = np.zeros(4, np.uint8)

    with pytest.raises(ValueError, match="cannot be packed"):
        pack(codes, bits)
    with pytest.raises(ValueError, match="cannot be packed"):
        unpack(codes, bits, 4)


@pytest.mark.parametrize(("bits", "count"), [(4, 6), (4, 9), (8, 3)])
def test_refuses_a_wrong_count(bits: int, count: int) -> None:
    with pytest.raises(ValueError, match="there are 4"):
        unpack(np.zeros(4, np.uint8), bits, count)
