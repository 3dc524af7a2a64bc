"""HumanEval: the program that is made of a problem and an answer. Running it is tested in tests/broken."""

from __future__ import annotations

import json

import pytest

from phiforge import errors
from phiforge.validation.suites import FORMATS
from phiforge.validation.suites.human_eval import program_of
from phiforge.validation.suites.model import Declared, Row
from phiforge.validation.tasks import answer_of

PROMPT = 'import math\n\n\ndef half(x):\n    return x / 2\n\n\ndef one(x):\n    """Return one."""\n'
PROBLEM = {
    "task_id": "HumanEval/0",
    "prompt": PROMPT,
    "canonical_solution": "    return math.ceil(half(x))\n",
    "test": "METADATA = {}\n\n\ndef check(candidate):\n    assert candidate(2) == 1\n",
    "entry_point": "one",
}
WHOLE = "def one(x):\n    return math.ceil(half(x))\n"


def passes(answer: str) -> bool:
    try:
        exec(compile(program_of(PROBLEM, answer_of(answer)), "program", "exec"), {})
    except (AssertionError, SyntaxError, NameError, TypeError):
        return False
    return True


@pytest.mark.parametrize(
    "answer",
    [
        PROBLEM["canonical_solution"],
        f"<think>hm</think>Here:\n\n```python\n{WHOLE}```\nDone.<|end|>",
        f"```\n{WHOLE}",
        WHOLE,
        PROMPT + PROBLEM["canonical_solution"],
        f"```python\nprint(1)\n```\nand\n```python\n{WHOLE}```",
        f"First try:\n```python\ndef one(x):\n    return 7\n```\nBetter:\n```python\n{WHOLE}```",
        "```python\n    return 1\n```",
    ],
)
def test_the_function_is_found_wherever_it_stands(answer: str) -> None:
    assert passes(answer)


@pytest.mark.parametrize(
    "answer", ["", "    return 2", "I do not know.", f"<think>{WHOLE}", "```python\ndef two():\n```"]
)
def test_other_answers_do_not_pass(answer: str) -> None:
    assert not passes(answer)


def test_the_prompt_and_the_check() -> None:
    (item,) = FORMATS["humaneval"].load([Row("here", dict(PROBLEM))], Declared(name="s", limit_tokens=9)).exercises
    assert item.id == "HumanEval/0"
    assert item.limit_tokens == 9
    assert PROMPT.strip() in item.messages[0].content
    assert json.loads(item.check) == {key: PROBLEM[key] for key in ("prompt", "test", "entry_point")}


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"test": "pass"}, "check()"),
        ({"entry_point": "two"}, "'two'"),
        ({"entry_point": "one()\nimport os"}, "no function"),
        ({"prompt": ""}, "prompt"),
        ({"task_id": None}, "task_id"),
    ],
)
def test_problems_without_tests_or_function_are_refused(changes: dict[str, object], why: str) -> None:
    with pytest.raises(errors.TasksInvalidError) as caught:
        FORMATS["humaneval"].load([Row("here", {**PROBLEM, **changes})], Declared(name="s"))
    assert why in caught.value.why
