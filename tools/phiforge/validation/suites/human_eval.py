"""HumanEval's format: a function to complete and its tests, which are run in a sandbox.

`task_id`, `prompt`, `test` and `entry_point` as in Chen et al. 2021. Judging runs what the model wrote.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

from pydantic import Field

from phiforge.validation import tasks
from phiforge.validation.suites import sandbox
from phiforge.validation.suites.model import Exercise, Loaded
from phiforge.validation.suites.rows import OriginalLine, dump_check, fault, parse, user

if TYPE_CHECKING:
    from collections.abc import Sequence

    from phiforge.validation.suites.model import Declared, Row

INSTRUCTION = "Complete this Python function. Answer with the whole function in one code block."
_INDENT = " " * 4
_BLOCK = re.compile(r"```[^\n`]*\n(.*?)(?:```|\Z)", re.DOTALL)


class Problem(OriginalLine):
    """A line as the data set has it."""

    task_id: str
    prompt: str = Field(min_length=1)
    test: str
    entry_point: str


def load(rows: Sequence[Row], declared: Declared) -> Loaded:
    """Return an exercise for each line.

    Raises:
        TasksInvalidError: A line breaks the schema, or has no tests or no function to complete.
    """
    return Loaded(exercises=tuple(_exercise(row, declared) for row in rows))


def is_right(check: str, generated: str) -> bool:
    """Return whether the function in a generated text's answer passes the tests, in a sandbox.

    Raises:
        SandboxUnavailableError: This machine cannot lock the code in.
    """
    problem: dict[str, str] = json.loads(check)
    return sandbox.run(program_of(problem, tasks.answer_of(generated))).passed


def program_of(problem: dict[str, str], answer: str) -> str:
    """Return the program whose end is reached only if the answer's function passes the tests.

    The function stands in a code block, or is the whole answer, or the answer is its body. What the prompt has before
    the function, imports and helpers, comes first in any case.
    """
    name = problem["entry_point"]
    head = re.compile(rf"^def {re.escape(name)}\(", re.MULTILINE)
    blocks = [block for block in _BLOCK.findall(answer) if head.search(block)] or _BLOCK.findall(answer)[:1]
    code = blocks[-1] if blocks else answer
    if head.search(code):
        first = head.search(problem["prompt"])
        solution = problem["prompt"][: first.start() if first else 0] + "\n" + code
    else:
        indent = "" if code[:1].isspace() else _INDENT  # Outer spaces of an answer are not kept.
        solution = problem["prompt"] + indent + code
    return f"{solution}\n\n{problem['test']}\n\ncheck({name})\n"


def _exercise(row: Row, declared: Declared) -> Exercise:
    problem = parse(row, Problem)
    if not problem.entry_point.isidentifier() or f"def {problem.entry_point}(" not in problem.prompt:
        raise fault(row.place, f"the prompt has no function {problem.entry_point!r} to complete")
    if "def check(" not in problem.test:
        raise fault(row.place, "the test has no function check()")
    return Exercise(
        id=problem.task_id,
        messages=user(f"{INSTRUCTION}\n\n```python\n{problem.prompt.rstrip()}\n```"),
        check=dump_check(entry_point=problem.entry_point, prompt=problem.prompt, test=problem.test),
        limit_tokens=declared.limit_tokens,
    )
