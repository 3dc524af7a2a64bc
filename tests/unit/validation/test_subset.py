"""What travels in a package is a fixed part of what the original said, and what it says of it stays true."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import NoReturn

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from phiforge.validation import subset
from phiforge.validation.drift import Reference, ReferenceText, kl_coarse, log_softmax
from phiforge.validation.free_running import Continuation
from phiforge.validation.portions import spread
from phiforge.validation.reference_outputs import ReferenceAnswer
from phiforge.validation.samples import TEXTS
from phiforge.validation.subset import cut_reference, fewer_prompts, packaged_part, within, without_code
from unit.validation.reference_outputs import (
    VOCAB,
    asked,
    compared,
    continued,
    outputs,
    prompted,
    reference_text,
    suite,
)


def _answer(question: ReferenceAnswer) -> str:
    found: str = json.loads(question.check)["answer"]
    return found


def _never(ids: Sequence[Sequence[int]]) -> NoReturn:
    pytest.fail("the original was asked again")


@given(count=st.integers(0, 2000), most=st.integers(1, 300))
def test_spread_numbers_are_different_and_reach_over_all(count: int, most: int) -> None:
    found = spread(count, most)
    assert len(found) == len(set(found)) == min(count, most)
    assert found == sorted(found)
    if found:
        assert found[0] == 0
        assert count - found[-1] <= -(-count // len(found))


@given(lengths=st.lists(st.integers(2, 50), min_size=1, max_size=8), positions=st.integers(2, 120))
def test_a_cut_reference_has_so_many_positions_and_whole_rows(lengths: list[int], positions: int) -> None:
    texts = tuple(reference_text(length, top_k=2) for length in lengths)
    found = cut_reference(Reference(top_k=2, texts=texts), positions)
    total = sum(len(text.tokens) for text in found.texts)
    assert total in (min(positions, sum(lengths)), min(positions, sum(lengths)) - 1)
    for text in found.texts:
        assert len(text.top_ids) == len(text.tail_log_mass) == len(text.true_log_probability) + 1 == len(text.tokens)


def test_a_package_carries_so_many_positions_questions_and_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subset, "POSITIONS", 100)
    monkeypatch.setattr(subset, "QUESTIONS", 5)
    whole = outputs(40, 50, 30, 20, questions=20)
    part = packaged_part(whole, _never)
    assert [len(text.tokens) for text in part.texts.texts] == [40, 50, 10]
    assert part.texts.top_k == 64
    assert {text.top_ids.shape[1] for text in part.texts.texts} == {64}
    assert [_answer(question) for question in part.questions] == ["0", "4", "8", "12", "16"]
    assert [choice.right for choice in part.choices] == [0, 1, 2, 0, 1]
    assert (part.continued, part.prompted) == (whole.continued, whole.prompted)
    # The third text is cut, so it does not travel as text.
    assert [item.text for item in part.tokenized[len(TEXTS) :]] == ["text 0", "text 1"]
    assert part.notes == ("reference: the package's top-64 of 3 of 4 texts and its answers to 10 of 40 questions",)


def test_a_text_is_not_cut_to_the_other_side_of_the_switch(monkeypatch: pytest.MonkeyPatch) -> None:
    """The rows of a text beyond the switch are computed with the long factors; those of its beginning are not."""
    monkeypatch.setattr(subset, "POSITIONS", 100)
    part = packaged_part(outputs(60, 90, 30, switch=80), _never)
    assert [len(text.tokens) for text in part.texts.texts] == [60, 30]
    part = packaged_part(outputs(60, 90, 30, switch=35), _never)
    assert [len(text.tokens) for text in part.texts.texts] == [60, 40]


def test_the_original_is_asked_again_where_no_text_can_be_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subset, "POSITIONS", 50)
    whole = outputs(90, 95, switch=80)
    made = Reference(100, (reference_text(50),))
    asked_for = []
    part = packaged_part(whole, lambda ids: asked_for.append(ids) or made)  # type: ignore[func-returns-value]
    assert asked_for == [[whole.texts.texts[0].tokens[:50].tolist()]]
    assert len(part.texts.texts[0].top_ids) == 50
    assert len(part.tokenized) == len(TEXTS)


def test_of_the_prompts_around_the_switch_the_scored_rows_travel() -> None:
    part = packaged_part(outputs(40, switch=200), _never)
    assert part.around_switch is not None
    assert [len(text.tokens) for text in part.around_switch.texts] == [199, 200, 201]
    whole = outputs(40, switch=200).around_switch
    assert whole is not None
    for short, long in zip(part.around_switch.texts, whole.texts, strict=True):
        assert len(short.top_ids) == len(short.tail_log_mass) == 64
        np.testing.assert_array_equal(short.top_ids, long.top_ids[-64:, :64])
        np.testing.assert_array_equal(short.true_log_probability, long.true_log_probability[-63:])


@given(seed=st.integers(0, 1000), top_k=st.integers(1, 99))
def test_fewer_tokens_are_the_same_distribution_and_no_larger_a_distance(seed: int, top_k: int) -> None:
    text = reference_text(4, seed=seed)
    narrow = subset.narrow(Reference(100, (text,)), top_k).texts[0]
    total = np.exp(narrow.top_log_probabilities.astype(np.float64)).sum(axis=1) + np.exp(narrow.tail_log_mass)
    np.testing.assert_allclose(total, 1, atol=1e-5)
    log_q = log_softmax(np.random.default_rng(seed + 1).normal(size=(4, VOCAB)))

    def kl(of: ReferenceText) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
        return kl_coarse(of.top_ids, of.top_log_probabilities, of.tail_log_mass, log_q)

    assert (kl(narrow) <= kl(text) + 1e-5).all()


def test_narrowing_keeps_what_is_narrow_already() -> None:
    reference = Reference(2, (reference_text(3, top_k=2),))
    assert subset.narrow(reference, 64) is reference


def test_a_shorter_context_leaves_out_what_cannot_be_compared() -> None:
    whole = replace(
        outputs(40, 90, 300, switch=200),
        questions=(
            asked(0),
            asked(1, prompt=150),
            asked(2, prompt=70, tokens=20),
            asked(3, prompt=70, tokens=50),
            asked(4, prompt=70, tokens=30, stopped=False),
        ),
    )
    part = within(whole, 100)
    # The text of 300 was computed with the long factors, and its first 100 tokens would not be.
    assert [len(text.tokens) for text in part.texts.texts] == [40, 90]
    assert part.around_switch is None
    assert part.switch == 200
    assert [(_answer(question), question.limit) for question in part.questions] == [("0", 64), ("2", 30)]
    assert [len(text.tokens) for text in within(whole, 1000).texts.texts] == [40, 90, 300]
    assert within(whole, 1000).around_switch is not None


def test_a_whole_context_changes_nothing() -> None:
    whole = outputs(40, 90, questions=4)
    part = within(whole, 10_000)
    assert (part.questions, part.choices) == (whole.questions, whole.choices)
    assert (part.continued, part.prompted) == (whole.continued, whole.prompted)
    assert all(one is other for one, other in zip(part.texts.texts, whole.texts.texts, strict=True))


def test_a_shorter_context_cuts_continuations_and_leaves_out_what_does_not_fit() -> None:
    whole = replace(
        outputs(40),
        choices=(compared(0, prompt=18), compared(1, prompt=19)),
        continued=(
            continued(0, prompt=4),
            continued(1, prompt=16),
            continued(2, prompt=16, limit=4),
            continued(3, prompt=20),
        ),
        prompted=(prompted(0, limit=17), prompted(1, limit=18)),
    )
    part = within(whole, 20)
    # A continuation of two tokens is computed with the first of them alone in the context.
    assert part.choices == whole.choices[:1]
    assert part.prompted == whole.prompted[:1]
    assert [item.limit for item in part.continued] == [8, 4, 4]
    assert part.continued[1].continuation == Continuation((1, 2, 3, 4), stopped=False)
    assert part.continued[2] == whole.continued[2]


def test_no_package_asks_to_run_code() -> None:
    whole = outputs(40)
    whole = replace(whole, suites=(suite("task-0", "humaneval"), *whole.suites[1:]))
    part = packaged_part(whole, _never)
    assert [item.name for item in part.suites] == ["task-1", "choices"]
    assert {question.task for question in part.questions} == {"task-1"}
    assert without_code(part) == part


def test_fewer_prompts_are_spread() -> None:
    part = fewer_prompts(outputs(40), 3)
    assert [item.continuation.tokens[0] for item in part.continued] == [0, 2, 4]
    assert [item.prompt[2] for item in part.prompted] == [0, 1, 2]
