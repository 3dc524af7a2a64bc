from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from phiforge.parts import fitting_parts, layer_bytes, part_bytes, split_layers

SIZES = st.lists(st.integers(1, 1000), min_size=1, max_size=60)


@dataclass(frozen=True)
class _Weight:
    module: str
    stored_bytes: int
    columns: int = 1
    weights: int = 1


@given(layers=st.integers(1, 200), data=st.data())
def test_every_layer_is_in_one_part_and_parts_are_as_even_as_can_be(layers: int, data: st.DataObject) -> None:
    count = data.draw(st.integers(1, layers))
    parts = split_layers(layers, count)
    lengths = [stop - start for start, stop in parts]
    assert (len(parts), parts[0][0], parts[-1][1]) == (count, 0, layers)
    assert all(one[1] == other[0] for one, other in pairwise(parts))
    assert lengths == sorted(lengths, reverse=True)
    assert lengths[0] - lengths[-1] <= 1


@pytest.mark.parametrize(("layers", "parts"), [(4, 0), (4, -1), (4, 5)])
def test_impossible_divisions_are_refused(layers: int, parts: int) -> None:
    with pytest.raises(ValueError, match="cannot be divided"):
        split_layers(layers, parts)


@given(sizes=SIZES, asked=st.integers(1, 80), data=st.data())
def test_parts_fit_and_are_no_more_than_needed(sizes: list[int], asked: int, data: st.DataObject) -> None:
    limit = data.draw(st.integers(max(sizes), sum(sizes)))
    parts = fitting_parts(sizes, asked, limit)
    assert sum(part_bytes(sizes, parts)) == sum(sizes)
    assert max(part_bytes(sizes, parts)) <= limit
    least = min(asked, len(sizes))
    assert len(parts) >= least
    for fewer in range(least, len(parts)):
        assert max(part_bytes(sizes, split_layers(len(sizes), fewer))) > limit


@given(sizes=SIZES)
def test_a_layer_over_the_limit_is_refused(sizes: list[int]) -> None:
    with pytest.raises(ValueError, match="a part at most"):
        fitting_parts(sizes, 1, max(sizes) - 1)


def test_layers_are_in_the_order_of_their_numbers() -> None:
    weights = [_Weight(f"model.layers.{layer}.mlp.{part}", 10 * layer + 1) for layer in (10, 2, 0) for part in "ab"]
    assert layer_bytes([*weights, _Weight("lm_head", 5), _Weight("model.embed_tokens", 7)]) == (2, 42, 202)
