"""Whether activations stay within float16, and the prompts they are looked at on."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from phiforge.validation.overflow import (
    CALIBRATION_TOKENS,
    LARGEST_FLOAT16,
    LONG_TOKENS,
    PIECE_TOKENS,
    overflow_prompts,
    probe_overflow,
)

PROMPTS = [[1, 2, 3], [4] * 1200]


def test_the_limit_is_numpys() -> None:
    assert float(np.finfo(np.float16).max) == LARGEST_FLOAT16


@pytest.mark.parametrize(
    ("value", "passed"),
    [
        (1.0, True),
        (65504.0, True),
        (float(np.nextafter(np.float32(65504), np.float32(0))), True),
        (float(np.nextafter(np.float32(65504), np.float32(1e9))), False),
        (65536.0, False),
        (math.inf, False),
        (math.nan, False),
    ],
)
def test_a_tensor_beyond_float16_fails_and_is_named(value: float, passed: bool) -> None:
    probe = probe_overflow({"mlp": 12.0, "down": value, "attention": 5.0}, PROMPTS)
    assert (probe.name, probe.passed, probe.blocking) == ("float16-range", passed, True)
    assert "over 2 prompts of up to 1,200 tokens" in probe.detail
    if not passed:
        assert "1 of 3 tensors overflow float16, which ends at 65504" in probe.detail
        assert f": {value:,.5g} in down" in probe.detail


def test_what_is_left_of_float16_is_told() -> None:
    probe = probe_overflow({"a": 655.04, "b": 1.0, "c": 2.0, "d": 3.0}, [[1]])
    assert probe.detail == (
        "the largest of 4 tensors are 655.04 in a, 3 in d, 2 in c; at most 1 % of float16's 65504, over 1 prompts of "
        "up to 1 tokens"
    )


def test_a_tensor_that_is_no_number_is_named_first() -> None:
    largest = {f"tensor {number}": 7e4 + number for number in range(9)} | {"bad": math.nan, "far": math.inf}
    detail = probe_overflow(largest, PROMPTS).detail
    assert "11 of 11 tensors overflow" in detail
    assert "nan in bad" in detail
    assert "inf in far" in detail


@pytest.mark.parametrize(("largest", "prompts"), [({}, PROMPTS), ({"a": 1.0}, []), ({}, [])])
def test_nothing_shows_nothing(largest: dict[str, float], prompts: list[list[int]]) -> None:
    probe = probe_overflow(largest, prompts)
    assert not probe.passed
    assert probe.detail == "nothing was computed, so no activation is known"


@given(values=st.lists(st.floats(0, 2e5), min_size=1, max_size=8), more=st.floats(0, 2e5))
def test_one_more_tensor_never_turns_a_fail_into_a_pass(values: list[float], more: float) -> None:
    def passed(found: list[float]) -> bool:
        return probe_overflow({str(index): value for index, value in enumerate(found)}, PROMPTS).passed

    assert passed([*values, more]) <= passed(values)
    assert passed(values) == (max(values) <= LARGEST_FLOAT16)


def test_calibration_is_cut_into_pieces_and_the_long_prompt_is_whole() -> None:
    calibration = [list(range(1000)), list(range(1000, 1500))]
    found = overflow_prompts(calibration, [[9] * 50], list(range(4112)), 100_000)
    assert [len(prompt) for prompt in found] == [512, 512, 476, 4112]
    assert [token for piece in found[:-1] for token in piece] == list(range(1500))


def test_a_long_prompt_is_put_together_of_texts_where_there_is_none() -> None:
    found = overflow_prompts([], [[number] * 900 for number in range(6)], None, 100_000)
    assert [len(prompt) for prompt in found] == [LONG_TOKENS]
    assert found[0][::900] == [0, 1, 2, 3, 4]
    assert overflow_prompts([], [], None, 100) == []
    assert overflow_prompts([[]], [[]], [], 100) == []


@given(
    calibration=st.lists(st.integers(0, 3000), max_size=4),
    texts=st.lists(st.integers(0, 3000), max_size=4),
    context=st.integers(1, 5000),
)
def test_no_prompt_is_longer_than_the_context(calibration: list[int], texts: list[int], context: int) -> None:
    def tokens(lengths: list[int]) -> list[list[int]]:
        return [[1] * length for length in lengths]

    found = overflow_prompts(tokens(calibration), tokens(texts), None, context)
    assert all(0 < len(prompt) <= context for prompt in found)
    pieces, long = min(sum(calibration), CALIBRATION_TOKENS), min(sum(texts), LONG_TOKENS, context)
    assert sum(map(len, found)) == pieces + long
    assert all(len(prompt) <= PIECE_TOKENS for prompt in found[: len(found) - bool(long)])
