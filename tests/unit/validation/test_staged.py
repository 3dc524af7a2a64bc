from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from phiforge.validation.drift import Reference, ReferenceText
from phiforge.validation.staged import cut_reference, distance, spread


@given(count=st.integers(0, 2000), most=st.integers(1, 300))
def test_spread_numbers_are_different_and_reach_over_all(count: int, most: int) -> None:
    found = spread(count, most)
    assert len(found) == len(set(found)) == min(count, most)
    assert found == sorted(found)
    if found:
        assert found[0] == 0
        assert count - found[-1] <= -(-count // len(found))


def _text(length: int) -> ReferenceText:
    zeros = np.zeros((length, 2), np.float32)
    return ReferenceText(
        np.arange(length, dtype=np.int32), zeros.astype(np.int32), zeros, zeros[:, 0], zeros[: length - 1, 0]
    )


@given(lengths=st.lists(st.integers(2, 50), min_size=1, max_size=8), positions=st.integers(2, 120))
def test_a_cut_reference_has_so_many_positions_and_whole_rows(lengths: list[int], positions: int) -> None:
    found = cut_reference(Reference(top_k=2, texts=tuple(map(_text, lengths))), positions)
    total = sum(len(text.tokens) for text in found.texts)
    assert total in (min(positions, sum(lengths)), min(positions, sum(lengths)) - 1)
    for text in found.texts:
        assert len(text.top_ids) == len(text.tail_log_mass) == len(text.true_log_probability) + 1 == len(text.tokens)


def test_distance_of_equal_logits_is_zero_and_of_others_is_their_kl() -> None:
    rows = np.array([[0.0, 1.0], [2.0, 0.0]], np.float32)
    assert distance(rows, rows) == (0.0, 1.0)
    kl, agreed = distance(rows[:1], rows[1:])
    p, q = np.exp([0.0, 1.0]) / np.exp([0.0, 1.0]).sum(), np.exp([2.0, 0.0]) / np.exp([2.0, 0.0]).sum()
    assert abs(kl - float((p * np.log(p / q)).sum())) < 1e-6
    assert agreed == 0.0
