"""Judging of generated answers: exact match, numbers, mathematics."""

from __future__ import annotations

import json
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from phiforge import errors
from phiforge.validation.suites import FORMATS, chosen, is_right
from phiforge.validation.suites.competition_math import boxed, is_equivalent, normalize, said_answer
from phiforge.validation.suites.gsm8k import said_number
from phiforge.validation.suites.model import Declared, Exercise, Row


def exercise(format: str, **line: object) -> Exercise:  # noqa: A002
    loaded = FORMATS[format].load([Row("here", line)], Declared(name="suite"))
    return loaded.exercises[0]


@pytest.mark.parametrize(
    ("generated", "right"),
    [
        ("12", True),
        (" 12 \n<|end|>", True),
        ("<think>13</think>12<|end|>", True),
        ("<think>12</think>13", False),
        ("<think>12", False),
        ("It is 12", False),
        ("", False),
    ],
)
def test_exact_match_is_of_the_whole_answer(generated: str, right: bool) -> None:
    item = exercise("exact-match", id="q", messages=[{"role": "user", "content": "?"}], answer="12 ")
    assert is_right("exact-match", item.check, generated) is right


@pytest.mark.parametrize(
    ("answer", "number"),
    [
        ("The answer is 18.", "18"),
        ("She makes 9 * 2 = $18 every day.", "18"),
        ("The answer is $1,234.50 a year, not 7.", "1234.50"),
        ("The answer is **70,000** dollars", "70000"),
        ("First 3. The answer is 5. Wait, the final answer is 6 eggs, of 12.", "6"),
        ("#### -4", "-4"),
        ("The answer is \u22124", "-4"),
        ("20-2=18", "18"),
        ("20-2", "2"),
        ("- 5 apples", "5"),
        ("x = -5", "-5"),
        ("(-5)", "-5"),
        ("-$5", "-5"),
        (r"\boxed{42}", "42"),
        ("3, 5, 6", "6"),
        ("It costs .75", ".75"),
        ("5.0", "5"),
        ("The answer is unknown, but 3 was said", "3"),
        ("no number", None),
        ("", None),
    ],
)
def test_the_number_of_an_answer(answer: str, number: str | None) -> None:
    found = said_number(answer)
    assert found == (None if number is None else Decimal(number))


def test_gsm8k_compares_numbers() -> None:
    item = exercise("gsm8k", question="How much?", answer="He has <<1+2=3>>3.\n#### 1,200")
    assert item.id == "suite-00000"
    assert item.messages[0].content.startswith("How much?\n\n")
    assert json.loads(item.check) == {"answer": "1200"}
    assert is_right("gsm8k", item.check, "<think>5</think>The answer is $1,200.00.<|end|>")
    assert not is_right("gsm8k", item.check, "The answer is 12")
    assert not is_right("gsm8k", item.check, "<think>The answer is 1200")
    assert not is_right("gsm8k", item.check, "no idea")


@given(st.integers(-(10**12), 10**12), st.sampled_from(["{}", "{:,}", "The answer is {:,}.", "so {} eggs", "**{}**"]))
def test_a_number_is_read_as_it_was_written(number: int, form: str) -> None:
    assert said_number(form.format(number)) == number


@pytest.mark.parametrize("answer", ["18", "#### ", "#### eighteen", "#### 1 or 2"])
def test_gsm8k_without_a_final_number_is_refused(answer: str) -> None:
    with pytest.raises(errors.TasksInvalidError, match="####"):
        exercise("gsm8k", question="q", answer=answer)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (r"\frac{1}{2}", r"\dfrac12"),
        (r"\frac12", "1/2"),
        ("0.5", r"\frac{1}{2}"),
        ("-\\frac{2}{4}", "-0.5"),
        (".5", "0.5"),
        ("5.00", "5"),
        ("1,000", "1000"),
        (r"1{,}000".replace("{,}", ",\\!"), "1000"),
        (r"10\%", "10"),
        (r"\$18.90", "18.9"),
        (r"90^\circ", "90"),
        (r"12\text{ cm}", "12"),
        (r"12 \mbox{ inches}^2".replace("^2", ""), "12"),
        (r"\text{Evelyn}", "Evelyn"),
        ("x = 5", "5"),
        (r"x \in [1,2]", "[1,2]"),
        (r"\left( 3, \frac{\pi}{2} \right)", r"(3,\frac{\pi}{2})"),
        (r"\sqrt2", r"\sqrt{2}"),
        ("6.", "6"),
        ("x^2+2x", "x^2 + 2x"),
    ],
)
def test_equal_answers_of_mathematics(first: str, second: str) -> None:
    assert is_equivalent(first, second)
    assert is_equivalent(second, first)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (r"\frac{1}{2}", r"\frac{1}{3}"),
        ("2x+1", "1+2x"),
        ("(1,2)", "(2,1)"),
        ("10", "100"),
        ("1,2", "12"),
        ("", ""),
        (r"\frac{1}{0}", r"\frac{2}{0}"),
        ("-5", "5"),
    ],
)
def test_unequal_answers_of_mathematics(first: str, second: str) -> None:
    assert not is_equivalent(first, second)


@given(st.integers(-(10**6), 10**6), st.integers(1, 10**4))
def test_fractions_are_numbers(above: int, below: int) -> None:
    assert is_equivalent(f"{above}/{below}", rf"\frac{{{above * 3}}}{{{below * 3}}}".replace(r"\frac{-", r"-\frac{"))
    assert not is_equivalent(f"{above}/{below}", f"{above + below}/{below}")


@given(st.text(alphabet=r"\{}()[]^_$%,.=+-/ 0123456789abxtfrcsqe", max_size=60))
def test_any_text_is_normalized_and_equals_itself_or_is_empty(text: str) -> None:
    assert is_equivalent(text, text) is bool(normalize(text))
    boxed(text)


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (r"so \boxed{\frac{1}{2}}.", r"\frac{1}{2}"),
        (r"\boxed{1} then \boxed{2}", "2"),
        (r"\fbox{7}", "7"),
        (r"\boxed 5$", "5"),
        (r"\boxed{1} then \boxed{2", "1"),
        ("The final answer is 5. I hope it is correct.", "5"),
        ("The answer is: x^2", "x^2"),
        ("nothing", None),
        (r"\boxed{", None),
    ],
)
def test_where_an_answer_of_mathematics_stands(text: str, answer: str | None) -> None:
    assert said_answer(text) == answer


def test_math_compares_the_boxes() -> None:
    item = exercise("math", problem="p", solution=r"thus $\boxed{\tfrac{3}{4}}$.")
    assert "boxed" in item.messages[0].content
    assert is_right("math", item.check, r"<think>\boxed{1}</think>It is \boxed{0.75}.<|end|>")
    assert not is_right("math", item.check, r"<think>\boxed{0.75}")
    assert not is_right("math", item.check, "0.75 or so")


@pytest.mark.parametrize("solution", ["no box", r"\boxed{}", r"\boxed{ }"])
def test_math_without_an_answer_is_refused(solution: str) -> None:
    with pytest.raises(errors.TasksInvalidError, match="boxed"):
        exercise("math", problem="p", solution=solution)


def test_the_greatest_log_likelihood_is_chosen_whatever_the_length() -> None:
    assert chosen([-9.0, -2.0, -3.0], [1, 1, 1]) == 1
    assert chosen([-2.0, -3.0], [1, 30]) == 0
    assert chosen([-2.0, -2.0], [1, 1]) == 0
    with pytest.raises(ValueError, match="lengths"):
        chosen([-1.0], [1, 2])


def test_choices_are_not_judged_as_texts() -> None:
    with pytest.raises(ValueError, match="chosen"):
        is_right("mmlu", "{}", "A")
