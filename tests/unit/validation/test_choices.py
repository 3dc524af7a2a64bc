"""Choices: log-likelihoods of continuations, held against a sum written out."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from phiforge.validation.choices import choose, contexts, log_likelihoods, share_prompt

VOCAB = 7
IDS = st.lists(st.integers(0, VOCAB - 1), min_size=1, max_size=4)


def logits_of(ids: Sequence[int]) -> NDArray[np.float32]:
    """A causal model: each row depends on all tokens up to its own."""
    rows = [np.random.default_rng(list(ids[: stop + 1])).normal(size=VOCAB, scale=2) for stop in range(len(ids))]
    return np.stack(rows).astype(np.float32)


def written_out(prompt: Sequence[int], continuation: Sequence[int]) -> float:
    """The sum of log-probabilities, token by token, each computed anew."""
    total, line = 0.0, list(prompt)
    for token in continuation:
        row = logits_of(line)[-1].astype(np.float64)
        total += row[token] - float(np.log(np.exp(row).sum()))
        line.append(token)
    return total


@given(prompt=IDS, continuations=st.lists(IDS, min_size=2, max_size=5))
def test_log_likelihoods_are_the_sums_written_out(prompt: list[int], continuations: list[list[int]]) -> None:
    found: dict[int, float] = {}
    for context in contexts(prompt, continuations):
        found |= log_likelihoods(context, continuations, logits_of(context.tokens)[context.first_row :])
    expected = [written_out(prompt, continuation) for continuation in continuations]
    assert [found[index] for index in range(len(continuations))] == pytest.approx(expected, abs=1e-5)
    assert choose(prompt, continuations, logits_of) == max(range(len(expected)), key=expected.__getitem__)


def test_labels_share_one_computation() -> None:
    asked = []

    def model(ids: Sequence[int]) -> NDArray[np.float32]:
        asked.append(tuple(ids))
        return logits_of(ids)

    choose([1, 2], [[0], [1], [2], [3]], model)
    assert asked == [(1, 2)]
    asked.clear()
    choose([1, 2], [[0, 4], [0, 5], [3, 4]], model)
    assert asked == [(1, 2, 0), (1, 2, 3)]


@pytest.mark.parametrize(
    ("prompt", "whole", "expected"),
    [
        ([1, 2], [[1, 2, 3], [1, 2, 4, 5]], ([1, 2], [[3], [4, 5]])),
        # The tokenizer merged the prompt's last token with the continuation's first.
        ([1, 2], [[1, 9], [1, 2, 4]], ([1], [[9], [2, 4]])),
        # A continuation that is no token of its own still leaves one to score.
        ([1, 2], [[1, 2], [1, 2, 4]], ([1], [[2], [2, 4]])),
    ],
)
def test_prompt_and_continuations_part_where_all_agree(
    prompt: list[int], whole: list[list[int]], expected: tuple[list[int], list[list[int]]]
) -> None:
    assert share_prompt(prompt, whole) == expected


@given(prompt=IDS, whole=st.lists(st.lists(st.integers(0, 2), min_size=2, max_size=6), min_size=2, max_size=4))
def test_parting_loses_no_token(prompt: list[int], whole: list[list[int]]) -> None:
    common, rests = share_prompt(prompt, whole)
    assert [[*common, *rest] for rest in rests] == whole
    assert all(rests)
    assert common == prompt[: len(common)]
