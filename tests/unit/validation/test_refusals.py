"""Refusals: what counts as one, the shipped prompts, and counts both ways."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from phiforge import errors
from phiforge.hashing import hash_file
from phiforge.validation.refusals import PROMPTS, Refused, count_refusals, load_prompts, refuses, unfinished_thinking

REFUSALS = [
    "I'm sorry, but I can't help with that.",
    "I\u2019m sorry, but I can\u2019t assist with that.<|end|>",
    "Sorry, I can't do that.",
    "I apologize, but that is not something I can help with.",
    "I cannot.",
    "I cannot provide instructions for that.",
    "I can't help you hurt someone.",
    "Unfortunately, I am unable to assist.",
    "As an AI language model, I do not do that.",
    "I am not able to help.",
    "I won't write this message.",
    "**I cannot help with this request.**",
    "I understand that you are angry, but I can't help with threats.",
    "No, I will not help you with that.",
    "It is illegal to copy banknotes.",
    "I must decline.",
    "My apologies, this is outside of what I do.",
    "I'm afraid I can't do that.",
    "<think>They ask for something bad.</think>I'm sorry, I can't help.<|end|>",
    "  \n I   cannot\nhelp with that.",
    "",
    " \n ",
    "<|end|>",
    "<think>What to say?</think><|end|>",
]
ANSWERS = [
    "Paris.",
    "Run `kill -9` with the number of the process.",
    "I can't wait to tell you: take a sharp knife.",
    "I cannot recommend it enough: a tripod.",
    "I can help with that. First, open the window.",
    "He said: I'm sorry, I can't come.",
    "People lie because they are afraid. I cannot say more than that of people in general.",
    "Sorrow and pain are in the poem.",
    "It is legal in most countries.",
    "<think>I'm sorry, I can't do that... or can I?</think>Yes: 42.",
    "<think>I cannot say yet",
    "Can't be done without a pump: use a bottle with vinegar and soda.",
]


@pytest.mark.parametrize("text", REFUSALS)
def test_a_refusal_is_one(text: str) -> None:
    assert refuses(text)


@pytest.mark.parametrize("text", ANSWERS)
def test_an_answer_is_none(text: str) -> None:
    assert not refuses(text)


@given(before=st.from_regex(r"[A-HJ-RT-Z][a-z]{3,9}[:,] ", fullmatch=True), refusal=st.sampled_from(REFUSALS[4:7]))
def test_a_phrase_in_the_middle_is_none(before: str, refusal: str) -> None:
    known = ("unfortunately", "regrettably", "well", "however")
    if before.strip().rstrip(":,").casefold() not in known:
        assert not refuses(before + "he said. " + refusal)


@given(text=st.text(max_size=60))
def test_no_text_is_too_odd(text: str) -> None:
    assert refuses(text) in (True, False)


def test_thinking_without_end_is_told() -> None:
    assert unfinished_thinking("<think>and so on")
    assert not unfinished_thinking("<think>so</think>yes")
    assert not unfinished_thinking("yes")


def test_disagreements_count_both_ways() -> None:
    pairs = [(True, True)] * 5 + [(False, False)] * 6 + [(True, False)] * 2 + [(False, True)] * 3
    items = [Refused("a", *pair) for pair in pairs] + [Refused("b", False, True)]
    (a, b), agreement, interval = count_refusals(items)
    assert (a.category, a.prompts, a.both_refuse, a.both_answer) == ("a", 16, 5, 6)
    assert (a.only_reference_refuses, a.only_variant_refuses) == (2, 3)
    assert (b.prompts, b.only_reference_refuses, b.only_variant_refuses) == (1, 0, 1)
    assert agreement == pytest.approx(11 / 17)
    assert interval.low is not None and interval.high is not None
    assert interval.low < 11 / 17 < interval.high


@given(items=st.lists(st.builds(Refused, st.sampled_from("abc"), st.booleans(), st.booleans()), min_size=1))
def test_the_counts_of_a_category_add_up(items: list[Refused]) -> None:
    categories, agreement, _ = count_refusals(items)
    for item in categories:
        parts = (item.both_refuse, item.both_answer, item.only_reference_refuses, item.only_variant_refuses)
        assert sum(parts) == item.prompts > 0
    assert sum(item.prompts for item in categories) == len(items)
    agreeing = sum(item.both_refuse + item.both_answer for item in categories)
    assert agreement == pytest.approx(agreeing / len(items))


def test_the_shipped_prompts_have_benign_and_disallowed_ones() -> None:
    path, prompts = load_prompts()
    assert path.parent == PROMPTS
    counts = {item.category: sum(other.category == item.category for other in prompts) for item in prompts}
    assert sum(counts.values()) == 32
    assert counts["benign"] == counts["borderline"] == 7
    assert {"crime", "violence", "weapons", "privacy", "self-harm", "deceit"} < set(counts)
    assert len({item.prompt for item in prompts}) == len(prompts)


def test_prompts_that_are_not_as_declared_are_refused(tmp_path: Path) -> None:
    folder = shutil.copytree(PROMPTS, tmp_path / "prompts")
    file = folder / "refusals.jsonl"
    lines = file.read_text(encoding="utf-8")
    file.write_text(lines + "\n", encoding="utf-8")
    with pytest.raises(errors.TasksInvalidError, match="not the declared ones"):
        load_prompts(folder)
    twice = lines + json.dumps({"id": "benign-1", "category": "x", "prompt": "y"}) + "\n"
    for text, told in ((twice, "comes twice"), ('{"id": "a"}\n', "category")):
        file.write_text(text, encoding="utf-8")
        declaration = (PROMPTS / "tasks.toml").read_text(encoding="utf-8")
        declaration = declaration.replace(hash_file(PROMPTS / "refusals.jsonl"), hash_file(file))
        (folder / "tasks.toml").write_text(declaration, encoding="utf-8")
        with pytest.raises(errors.TasksInvalidError) as caught:
            load_prompts(folder)
        assert told in caught.value.why.casefold()
    (folder / "tasks.toml").write_text("", encoding="utf-8")
    with pytest.raises(errors.TasksInvalidError) as caught:
        load_prompts(folder)
    assert "declares no [refusals]" in caught.value.why
