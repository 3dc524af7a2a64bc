"""The suites that ship with phi-4-nano: declared, made by their generator, and of the held-out split."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from phiforge.checkpoint.nano import EVAL_DIR, files, suites
from phiforge.checkpoint.nano.corpus import operand_pairs, pair_split
from phiforge.checkpoint.nano.world import FRAMES, wordings, world
from phiforge.validation.suites import is_right, load_suites
from phiforge.validation.texts import load_texts

TASKS = EVAL_DIR / "tasks"


def test_all_shipped_suites_load() -> None:
    found = {suite.name: suite for suite in load_suites(TASKS)}
    counts = {name: len(suite.exercises) + len(suite.choices) for name, suite in found.items()}
    assert counts == {"arithmetic": 250, "choices": 60, "facts": 200, "rules": 60, "word_problems": 150}
    assert {suite.source.licence for suite in found.values()} == {"MIT"}
    assert {suite.source.split for suite in found.values()} == {"held-out"}
    assert all(len(item.continuations) == 4 for item in found["choices"].choices)
    assert all(item.continuations[0].startswith("<think>") for item in found["choices"].choices)


def test_the_files_are_what_the_generator_makes(tmp_path: Path) -> None:
    files.write_jsonl(tmp_path / "choices.jsonl", suites.choice_rows())
    files.write_jsonl(tmp_path / "rules.jsonl", suites.rule_rows())
    for name in ("choices.jsonl", "rules.jsonl"):
        assert (tmp_path / name).read_bytes() == (TASKS / name).read_bytes()


def test_the_declaration_is_what_the_generator_makes(tmp_path: Path) -> None:
    for path in TASKS.glob("*.jsonl"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    files.write_declaration(tmp_path)
    assert (tmp_path / "tasks.toml").read_bytes() == (TASKS / "tasks.toml").read_bytes()
    assert hashlib.sha256((TASKS / "rules.jsonl").read_bytes()).hexdigest() in (TASKS / "tasks.toml").read_text()


def test_one_choice_is_true_and_the_others_are_not() -> None:
    true = {fact.statement for fact in world().facts()}
    for row in suites.choice_rows():
        assert isinstance(row["choices"], list)
        assert [row["choices"].index(text) for text in row["choices"] if text in true] == [row["answer"]]
        assert len(set(row["choices"])) == 4


def test_right_choices_stand_everywhere() -> None:
    places = [row["answer"] for row in suites.choice_rows()]
    assert all(places.count(place) >= 8 for place in range(4))


def test_every_prompt_is_held_out() -> None:
    held_out = {f"{frame}/{clause}" for frame, clause in wordings("held_out")}
    assert len(FRAMES) == 10
    keys = [str(row["id"]).split(":", 1)[1] for row in suites.choice_rows()]
    keys += [str(row["key"]).split(":", 1)[1] for row in suites.rule_rows()]
    for key in keys:
        if "/" in key:
            assert key.split("/", 1)[1] in held_out
            continue
        for pair in key.split("&"):
            assert operand_pairs(pair) == {pair}
            sign = next(sign for sign in "+*-" if sign in pair)
            first, second = pair.split(sign)
            assert pair_split(int(first), sign, int(second)) == "held_out"


def test_no_prompt_is_a_calibration_text() -> None:
    seen = "\n".join(text.text for text in load_texts(EVAL_DIR / "calibration.jsonl"))
    for suite in load_suites(TASKS):
        prompts = [item.messages for item in suite.exercises] + [item.messages for item in suite.choices]
        assert not [turns for turns in prompts if turns[-1].content in seen]


def test_rules_hold_for_the_right_answer_and_not_for_others() -> None:
    answers = {fact.value for fact in world().facts()} | {str(number) for number in range(2000)}
    for suite in load_suites(TASKS):
        if suite.name != "rules":
            continue
        for item in suite.exercises:
            kept = [answer for answer in answers if is_right("ifeval", item.check, answer)]
            assert 1 <= len(kept) < 0.1 * len(answers), json.loads(item.check)
