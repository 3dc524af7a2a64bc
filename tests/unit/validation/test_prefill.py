"""The probe that finds an adapter's prefills wrong, on adapters that are made wrong."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from phiforge.validation.prefill import LENGTHS, MOST, measure_prefills, probe_prefill

Floats = NDArray[np.float32]
LogitsOf = Callable[[Sequence[int], int], Floats]
TOKENS = list(range(1, 100))


def adapter(
    *, fault: int | None = None, size: float = 0.1, noise: float = 0.002, of: Callable[[Floats], Floats] | None = None
) -> LogitsOf:
    """Logits over 128 tokens; each number of tokens at once has rounding of its own, relative to their spread.

    Where `fault` or more tokens are computed at once, the last of every `fault` are off by `size`, or what `of` makes
    of them.
    """
    random = np.random.default_rng(0)
    right = random.normal(1, 1, (len(TOKENS), 128)).astype(np.float32)

    def logits_of(ids: Sequence[int], at_once: int) -> Floats:
        assert list(ids) == TOKENS[: len(ids)]
        rounding = np.random.default_rng(at_once).normal(0, noise, right.shape) * (at_once > 1)
        found: Floats = (right + rounding).astype(np.float32)
        for start in range(0, len(ids), at_once):
            if fault is not None and min(at_once, len(ids) - start) >= fault:
                row = start + fault - 1
                off = found[row] + np.float32(size) * random.choice([-1, 1], 128).astype(np.float32)
                found[row] = of(found[row]) if of else off
        return found[: len(ids)]

    return logits_of


def test_a_sound_adapter_passes_with_all_at_once() -> None:
    prefills = measure_prefills(adapter(), TOKENS)
    assert tuple(item.tokens for item in prefills) == LENGTHS
    for chunk in (None, 31, 64):
        probe = probe_prefill(prefills, chunk)
        assert probe.passed
        assert probe.blocking
        assert probe.detail.startswith("prefills give the logits of single tokens, with errors by length of 8: 0.2 %")


def test_an_exact_adapter_passes() -> None:
    prefills = measure_prefills(adapter(noise=0.0), TOKENS)
    assert {item.error for item in prefills} == {0.0}
    assert probe_prefill(prefills, None).passed


@pytest.mark.parametrize("chunk", [None, 0, 32, 48, 512])
def test_a_fault_at_32_tokens_is_told_in_words(chunk: int | None) -> None:
    probe = probe_prefill(measure_prefills(adapter(fault=32), TOKENS), chunk)
    assert not probe.passed
    assert probe.blocking
    assert probe.detail.startswith("this adapter computes prefills of 32 or more tokens wrongly, from token 31 on (")
    assert probe.detail.endswith("; let prompts be computed in chunks of at most 31 tokens")


@pytest.mark.parametrize("chunk", [1, 16, 31])
def test_a_fault_does_not_matter_where_prompts_are_cut_below_it(chunk: int) -> None:
    probe = probe_prefill(measure_prefills(adapter(fault=32), TOKENS), chunk)
    assert probe.passed
    assert "computes prefills of 32 or more tokens wrongly" in probe.detail
    assert probe.detail.endswith(f"; prompts are computed in chunks of {chunk} tokens, which are right")


def test_lengths_between_a_right_and_a_wrong_one_are_not_called_right() -> None:
    prefills = measure_prefills(adapter(fault=40), TOKENS)
    assert probe_prefill(prefills, 32).passed
    assert not probe_prefill(prefills, 40).passed
    assert probe_prefill(prefills, None).detail.endswith("in chunks of at most 32 tokens")


@pytest.mark.parametrize("fault", [2, 5, 8])
def test_a_fault_of_the_shortest_prefill_is_no_rounding(fault: int) -> None:
    """The shortest one is the measure of the others, unless it is off itself."""
    probe = probe_prefill(measure_prefills(adapter(fault=fault), TOKENS), 31)
    assert not probe.passed
    assert f"prefills of 8 or more tokens wrongly, from token {fault - 1} on" in probe.detail
    assert probe.detail.endswith("in chunks of at most 1 tokens")
    assert probe_prefill(measure_prefills(adapter(fault=fault), TOKENS), 1).passed


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("fault", [4, 32])
def test_what_is_no_number_is_wrong(fault: int, value: float) -> None:
    wrong = adapter(fault=fault, of=lambda row: np.full_like(row, value))
    with np.errstate(invalid="ignore"):
        prefills = measure_prefills(wrong, TOKENS)
    assert not probe_prefill(prefills, None).passed
    assert prefills[-1].worst == fault - 1


@pytest.mark.parametrize(("noise", "passed"), [(0.0001, True), (0.004, True), (0.015, True), (2 * MOST, False)])
def test_rounding_that_is_alike_at_every_length_is_none_unless_it_is_large(noise: float, passed: bool) -> None:
    assert probe_prefill(measure_prefills(adapter(noise=noise), TOKENS), None).passed is passed


def test_a_short_text_shows_what_it_can() -> None:
    assert [item.tokens for item in measure_prefills(adapter(), TOKENS[:31])] == [8, 16, 31]
    none = probe_prefill(measure_prefills(adapter(), TOKENS[:7]), 31)
    assert not none.passed
    assert none.detail == "there were fewer than 8 tokens to compute"


@given(fault=st.integers(2, 64), size=st.floats(0.03, 5), noise=st.floats(0, 0.003))
def test_shorter_chunks_are_never_worse_and_the_advice_passes(fault: int, size: float, noise: float) -> None:
    prefills = measure_prefills(adapter(fault=fault, size=size, noise=noise), TOKENS)
    passed = [probe_prefill(prefills, chunk).passed for chunk in range(1, 100)]
    assert all(shorter >= longer for shorter, longer in pairwise(passed))
    most = sum(passed)
    whole = probe_prefill(prefills, None)
    assert not whole.passed
    assert whole.detail.endswith(f"in chunks of at most {most} tokens")
    assert most < fault
    assert most == max([1, *(length for length in LENGTHS if length < fault)])


@given(fault=st.integers(2, 64), size=st.floats(0.03, 1), factor=st.floats(1, 20))
def test_a_larger_fault_is_found_wherever_a_smaller_one_is(fault: int, size: float, factor: float) -> None:
    small, large = (measure_prefills(adapter(fault=fault, size=each), TOKENS) for each in (size, size * factor))
    for one, other in zip(small, large, strict=True):
        assert one.error <= other.error * (1 + 1e-6)
        assert other.worst is not None or one.worst is None
