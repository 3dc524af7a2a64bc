"""IFEval's format: a prompt with instructions that a program can check.

Fields: `key`, `prompt`, `instruction_id_list`, `kwargs`. An answer is right if it follows every instruction of its
prompt. That is the original's strict accuracy by prompt; the loose one, which also tries the answer without its first
and last line and without asterisks, is `follows_loosely`.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from pydantic import Field, ValidationError

from phiforge.validation import tasks
from phiforge.validation.suites.instruction_rules import RULES, UNSUPPORTED, Arguments
from phiforge.validation.suites.model import Exercise, Loaded
from phiforge.validation.suites.rows import OriginalLine, dump_check, fault, parse, user

if TYPE_CHECKING:
    from collections.abc import Sequence

    from phiforge.validation.suites.model import Declared, Row


class PromptLine(OriginalLine):
    """A line as the data set has it."""

    key: int | str
    prompt: str = Field(min_length=1)
    instruction_id_list: list[str] = Field(min_length=1)
    kwargs: list[dict[str, object]]


def load(rows: Sequence[Row], declared: Declared) -> Loaded:
    """Return an exercise for each line whose instructions can all be checked; the others are counted in a note.

    Raises:
        TasksInvalidError: A line breaks the schema, or an instruction is unknown or lacks an argument.
    """
    exercises, left_out = [], 0
    for row in rows:
        line = parse(row, PromptLine)
        if any(name in UNSUPPORTED for name in line.instruction_id_list):
            left_out += 1
            continue
        exercises.append(_exercise(row, line, declared))
    note = f"{left_out} of {len(rows)} prompts left out, whose instruction {UNSUPPORTED[0]} cannot be checked"
    return Loaded(exercises=tuple(exercises), notes=(note,) if left_out else ())


def is_right(check: str, generated: str) -> bool:
    """Return whether the answer in a generated text follows every instruction, strictly."""
    return all(followed(check, tasks.answer_of(generated)))


def follows_loosely(check: str, generated: str) -> bool:
    """Return whether each instruction is followed by one of the answer's loose forms."""
    answer = tasks.answer_of(generated)
    lines = answer.split("\n")
    forms = [answer, *("\n".join(part).strip() for part in (lines[1:], lines[:-1], lines[1:-1]))]
    forms += [form.replace("*", "") for form in forms]
    return all(any(by_form) for by_form in zip(*(followed(check, form) for form in forms), strict=True))


def followed(check: str, answer: str) -> list[bool]:
    """Return which instructions of a check an answer follows; an empty answer follows none."""
    instructions: list[list[object]] = json.loads(check)["instructions"]
    if not answer.strip():
        return [False] * len(instructions)
    return [RULES[str(name)].follows(answer, Arguments.model_validate(args)) for name, args in instructions]


def _exercise(row: Row, line: PromptLine, declared: Declared) -> Exercise:
    if len(line.kwargs) != len(line.instruction_id_list):
        raise fault(row.place, f"{len(line.instruction_id_list)} instructions, {len(line.kwargs)} kwargs")
    pairs = zip(line.instruction_id_list, line.kwargs, strict=True)
    return Exercise(
        id=str(line.key),
        messages=user(line.prompt),
        check=dump_check(instructions=[[name, _arguments(row, name, given)] for name, given in pairs]),
        limit_tokens=declared.limit_tokens,
    )


def _arguments(row: Row, name: str, given: dict[str, object]) -> dict[str, object]:
    """The arguments that the rule needs; a copy of the data set has every other one as null."""
    rule = RULES.get(name)
    if rule is None:
        raise fault(row.place, f"the instruction {name!r} is unknown")
    present = {key: value for key, value in given.items() if value is not None}
    missing = [key for key in rule.needs if key not in present]
    if missing:
        raise fault(row.place, f"the instruction {name!r} lacks {', '.join(missing)}")
    try:
        Arguments.model_validate(present)
    except ValidationError as error:
        faults = "; ".join(f"{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in error.errors())
        raise fault(row.place, f"the instruction {name!r} has {faults}") from error
    return {key: present[key] for key in rule.needs}
