"""IFEval's rules, one by one, and the judging of whole prompts."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from phiforge import errors
from phiforge.validation.suites import FORMATS
from phiforge.validation.suites.instruction_rules import RULES, UNSUPPORTED, Arguments, sentences
from phiforge.validation.suites.instructions import follows_loosely, is_right
from phiforge.validation.suites.model import Declared, Loaded, Row

AT_LEAST, LESS = "at least", "less than"
# (rule, arguments, answers that follow it, answers that do not)
CASES: list[tuple[str, dict[str, object], list[str], list[str]]] = [
    ("keywords:existence", {"keywords": ["Cat", "dog"]}, ["A CAT and dogs"], ["a cat", "c a t dog", "dog"]),
    ("keywords:existence", {"keywords": ["c++"]}, ["I write C++."], ["I write ccc."]),
    ("keywords:forbidden_words", {"forbidden_words": ["cat"]}, ["cats", "dog"], ["a Cat.", "cat"]),
    (
        "keywords:frequency",
        {"keyword": "cat", "frequency": 2, "relation": AT_LEAST},
        ["cat Cats", "cat cat cat"],
        ["cat", ""],
    ),
    ("keywords:frequency", {"keyword": "cat", "frequency": 2, "relation": LESS}, ["cat", "dog"], ["cat cats"]),
    (
        "keywords:letter_frequency",
        {"letter": "E", "let_frequency": 2, "let_relation": AT_LEAST},
        ["Eel", "tree"],
        ["the"],
    ),
    ("keywords:letter_frequency", {"letter": "!", "let_frequency": 1, "let_relation": LESS}, ["no"], ["no!"]),
    (
        "length_constraints:number_sentences",
        {"num_sentences": 2, "relation": AT_LEAST},
        ["One. Two.", "Dr. Who? Yes!", "a... b"],
        ["Mr. Smith of 3.5 m", "www.a.com is it."],
    ),
    ("length_constraints:number_sentences", {"num_sentences": 2, "relation": LESS}, ["One."], ["One. Two"]),
    ("length_constraints:number_words", {"num_words": 3, "relation": AT_LEAST}, ["a b c", "a-b c"], ["a b"]),
    ("length_constraints:number_words", {"num_words": 3, "relation": LESS}, ["a b"], ["a b c"]),
    (
        "length_constraints:number_paragraphs",
        {"num_paragraphs": 2},
        ["a\n***\nb", "***\na\n***\nb\n***"],
        ["a", "a *** b *** c", "a *** *** b"],
    ),
    (
        "length_constraints:nth_paragraph_first_word",
        {"num_paragraphs": 2, "nth_paragraph": 2, "first_word": "Hello"},
        ["a\n\nhello, you", 'a\n\n"Hello" b'],
        ["hello\n\na", "a\n\nhellos", "a\n\nhello\n\nb", "hello"],
    ),
    ("detectable_content:number_placeholders", {"num_placeholders": 2}, ["[a] [b]"], ["[a]", "[a [b]"]),
    ("detectable_content:postscript", {"postscript_marker": "P.S."}, ["x\nP.S. y", "x p. s. y"], ["x PS y"]),
    ("detectable_content:postscript", {"postscript_marker": "P.P.S"}, ["x\nP. P. S y"], ["x P.S. y"]),
    ("detectable_content:postscript", {"postscript_marker": "N.B."}, ["x n.b. y"], ["x nxbx y"]),
    ("detectable_format:number_bullet_lists", {"num_bullets": 2}, ["* a\n* b", "* a\n- b"], ["* a", "** a\n* b"]),
    ("detectable_format:constrained_response", {}, ["Well. My answer is maybe."], ["My answer is perhaps."]),
    (
        "detectable_format:number_highlighted_sections",
        {"num_highlights": 2},
        ["*a* *b*", "*a* text *b c*"],
        ["*a*", "* * **"],
    ),
    (
        "detectable_format:multiple_sections",
        {"section_spliter": "Part", "num_sections": 2},
        ["Part 1 a Part 2 b", "Part 1\na\nPart 2\nb\nPart 3"],
        ["Part 1 a", "Part one Part two"],
    ),
    ("detectable_format:json_format", {}, ['{"a": [1]}', '```json\n{"a": 1}\n```', "```\n[]\n```"], ["a", "{'a': 1}"]),
    ("detectable_format:json_format", {}, ["1"], ["[" * 100_000]),
    ("detectable_format:title", {}, ["<<My poem>>\nx"], ["<My poem>", "<< >>", "<<a\nb>>"]),
    (
        "combination:two_responses",
        {},
        ["a******b", "a\n******\nb"],
        ["a", "a******a", "a******b******c", "a************b"],
    ),
    ("combination:repeat_prompt", {"prompt_to_repeat": "Say Hi."}, ["say hi. Hello", " Say Hi."], ["Hi. Say Hi."]),
    ("startend:end_checker", {"end_phrase": "The end."}, ["x the end.", '"x The End."'], ["The end. x", "the end"]),
    ("startend:quotation", {}, ['"a"', ' "a b" '], ['"a', 'a"', '"', "'a'"]),
    (
        "change_case:capital_word_frequency",
        {"capital_frequency": 2, "capital_relation": AT_LEAST},
        ["AI and I", "WELL-DONE YES"],
        ["Well Done AI", "WELL-DONE"],
    ),
    ("change_case:capital_word_frequency", {"capital_frequency": 1, "capital_relation": LESS}, ["Ai"], ["AI"]),
    ("change_case:english_capital", {}, ["ALL OF 3!"], ["ALL oF", "3"]),
    ("change_case:english_lowercase", {}, ["all of 3!"], ["All", "3"]),
    ("punctuation:no_comma", {}, ["a; b"], ["a, b"]),
]


def prompt(rules: dict[str, dict[str, object]], **changes: object) -> Row:
    line = {"key": 7, "prompt": "Do.", "instruction_id_list": list(rules), "kwargs": list(rules.values()), **changes}
    return Row("here", line)


def load(*rows: Row) -> Loaded:
    return FORMATS["ifeval"].load(rows, Declared(name="suite"))


@pytest.mark.parametrize(("rule", "arguments", "right", "wrong"), CASES)
def test_a_rule(rule: str, arguments: dict[str, object], right: list[str], wrong: list[str]) -> None:
    check = load(prompt({rule: arguments})).exercises[0].check
    assert [answer for answer in right if not RULES[rule].follows(answer, Arguments.model_validate(arguments))] == []
    assert [answer for answer in wrong if RULES[rule].follows(answer, Arguments.model_validate(arguments))] == []
    assert is_right(check, right[0])
    assert not is_right(check, wrong[0])


def test_every_rule_of_the_data_set_is_here_or_said_to_be_left_out() -> None:
    assert len(RULES) + len(UNSUPPORTED) == 25
    assert {rule for rule, *_ in CASES} == set(RULES)


def test_an_answer_has_to_follow_all_rules() -> None:
    (item,) = load(prompt({"punctuation:no_comma": {}, "startend:quotation": {}})).exercises
    assert item.id == "7"
    assert is_right(item.check, '<think>a, b</think>"ab"<|end|>')
    assert not is_right(item.check, '"a, b"')
    assert not is_right(item.check, "ab")
    assert not is_right(item.check, "")
    assert not is_right(item.check, '<think>"ab"')


def test_an_empty_answer_follows_nothing() -> None:
    (item,) = load(prompt({"punctuation:no_comma": {}})).exercises
    assert not is_right(item.check, " \n")


def test_the_loose_judgment_forgives_a_first_line_and_asterisks() -> None:
    (item,) = load(prompt({"change_case:english_lowercase": {}})).exercises
    assert follows_loosely(item.check, "Sure:\nall small")
    assert not is_right(item.check, "Sure:\nall small")
    (quoted,) = load(prompt({"startend:quotation": {}})).exercises
    assert follows_loosely(quoted.check, '*"a"*')
    assert not follows_loosely(quoted.check, "a")


def test_prompts_that_cannot_be_checked_are_left_out_and_counted() -> None:
    kept, left_out = prompt({"punctuation:no_comma": {}}), prompt({"language:response_language": {"language": "de"}})
    loaded = load(kept, left_out, kept)
    assert len(loaded.exercises) == 2
    assert loaded.notes == ("1 of 3 prompts left out, whose instruction language:response_language cannot be checked",)


def test_arguments_that_are_null_are_absent() -> None:
    (item,) = load(prompt({"keywords:existence": {"keywords": ["a"], "num_words": None, "relation": None}})).exercises
    assert json.loads(item.check) == {"instructions": [["keywords:existence", {"keywords": ["a"]}]]}


@pytest.mark.parametrize(
    ("row", "why"),
    [
        (prompt({"keywords:rhyme": {}}), "'keywords:rhyme' is unknown"),
        (prompt({"keywords:existence": {}}), "lacks keywords"),
        (prompt({"keywords:existence": {"keywords": []}}), "keywords"),
        (prompt({"keywords:existence": {"keywords": "a"}}), "keywords"),
        (prompt({"keywords:existence": {"keywords": ["a"], "odd": 1}}), "odd"),
        (prompt({"length_constraints:number_words": {"num_words": 3, "relation": "about"}}), "relation"),
        (prompt({"length_constraints:number_words": {"num_words": -3, "relation": LESS}}), "num_words"),
        (prompt({"keywords:letter_frequency": {"letter": "ab", "let_frequency": 1, "let_relation": LESS}}), "letter"),
        (prompt({}), "instruction_id_list"),
        (prompt({"punctuation:no_comma": {}}, kwargs=[]), "1 instructions, 0 kwargs"),
        (prompt({"punctuation:no_comma": {}}, prompt=""), "prompt"),
        (prompt({"punctuation:no_comma": {}}, key=None), "key"),
    ],
)
def test_prompts_with_broken_instructions_are_refused(row: Row, why: str) -> None:
    with pytest.raises(errors.TasksInvalidError) as caught:
        load(row)
    assert why in caught.value.why


@pytest.mark.parametrize(
    ("text", "count"),
    [("", 0), ("One", 1), ("One. Two! Three?", 3), ("Mr. A. Bee vs. no", 2), ("3.14 is pi.", 1), ('He said "no."', 1)],
)
def test_sentences_are_counted(text: str, count: int) -> None:
    assert len(sentences(text)) == count


@given(st.text(max_size=200))
def test_every_rule_judges_any_answer(answer: str) -> None:
    for rule, arguments, _, _ in CASES:
        assert RULES[rule].follows(answer, Arguments.model_validate(arguments)) in {True, False}
