"""Multiple choice in the forms in which MMLU and ARC are published."""

from __future__ import annotations

import pytest

from phiforge import errors
from phiforge.validation.suites import FORMATS, Choice
from phiforge.validation.suites.model import Declared, Row

MMLU = {"question": "Which?", "subject": "s", "choices": ["one", "two", "three"], "answer": 1}
ARC = {
    "id": "Mercury_1",
    "question": "Which?",
    "choices": {"text": ["one", "two", "three"], "label": ["A", "B", "C"]},
    "answerKey": "B",
}
FIRST_ARC = {
    "id": "Mercury_1",
    "question": {
        "stem": "Which?",
        "choices": [{"text": t, "label": n} for t, n in zip(("one", "two", "three"), "ABC", strict=True)],
    },
    "answerKey": "B",
}
QUERY = {"query": "Question: Which?", "choices": ["one", "two", "three"], "gold": 1}
PROMPT = "Which?\nA. one\nB. two\nC. three\nAnswer:"


def choice(format: str, line: dict[str, object], **declared: str) -> Choice:  # noqa: A002
    loaded = FORMATS[format].load([Row("here", line)], Declared(name="suite", **declared))  # type: ignore[arg-type]
    assert not loaded.exercises
    return loaded.choices[0]


@pytest.mark.parametrize(
    ("format_", "line", "name"),
    [
        ("mmlu", MMLU, "suite-00000"),
        ("mmlu", {**MMLU, "answer": "B", "id": "own"}, "own"),
        ("arc", ARC, "Mercury_1"),
        ("arc", FIRST_ARC, "Mercury_1"),
        ("arc", QUERY, "suite-00000"),
    ],
)
def test_all_forms_are_asked_alike(format_: str, line: dict[str, object], name: str) -> None:
    found = choice(format_, line)
    assert found.id == name
    assert [(turn.role, turn.content) for turn in found.messages] == [("user", PROMPT)]
    assert found.continuations == ("A", "B", "C")
    assert found.right == 1


def test_digits_and_five_choices_are_labels_too() -> None:
    texts = ["v", "w", "x", "y", "z"]
    found = choice("arc", {**ARC, "choices": {"text": texts, "label": list("12345")}, "answerKey": "5"})
    assert (found.continuations, found.right) == (("1", "2", "3", "4", "5"), 4)
    assert "5. z" in found.messages[0].content


def test_texts_may_be_compared_instead() -> None:
    found = choice("mmlu", MMLU, choices="texts", answer_prefix="<think>")
    assert found.continuations == ("<think>one", "<think>two", "<think>three")
    assert found.messages[0].content == "Which?"


def test_a_prefix_precedes_labels_too() -> None:
    assert choice("mmlu", MMLU, answer_prefix="<think></think>").continuations[0] == "<think></think>A"


@pytest.mark.parametrize(
    ("format_", "line", "why"),
    [
        ("mmlu", {**MMLU, "answer": 3}, "none of its choices"),
        ("mmlu", {**MMLU, "answer": -1}, "none of its choices"),
        ("mmlu", {**MMLU, "answer": "D"}, "none of its choices"),
        ("mmlu", {**MMLU, "answer": ""}, "none of its choices"),
        ("mmlu", {**MMLU, "answer": None}, "answer"),
        ("mmlu", {**MMLU, "choices": ["one"]}, "choices"),
        ("mmlu", {**MMLU, "choices": ["one", " "]}, "empty"),
        ("mmlu", {**MMLU, "question": ""}, "question"),
        ("arc", {**ARC, "answerKey": "E"}, "none of its choices"),
        ("arc", {**ARC, "choices": {"text": ["a", "b"], "label": ["A", "A"]}}, "one label"),
        ("arc", {**ARC, "choices": {"text": ["a", "b"], "label": ["A"]}}, "labels"),
        ("arc", {**QUERY, "gold": 3}, "none of its choices"),
        ("arc", {**QUERY, "gold": -1}, "none of its choices"),
        ("arc", {**QUERY, "choices": []}, "0 choices"),
        ("arc", {"id": "x"}, "question"),
    ],
)
def test_questions_without_a_right_choice_are_refused(format_: str, line: dict[str, object], why: str) -> None:
    with pytest.raises(errors.TasksInvalidError) as caught:
        choice(format_, line)
    assert why in caught.value.why
