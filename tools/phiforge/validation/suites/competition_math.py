r"""MATH's format: `problem` and `solution`, whose last `\boxed{}` holds the answer; answers are compared as texts.

Both sides are normalized by the rules that came with the data set (Hendrycks et al. 2021, `math_equivalence.py`), with
three of Minerva's (Lewkowycz et al. 2022, appendix D.1): text in front of the last `=` of a short left side, units in
`\text{}` and thousands separators are dropped. Answers that are plain numbers or fractions are compared as numbers. No
symbolic algebra: `2x+1` and `1+2x` differ.
"""

from __future__ import annotations

import json
import re
from fractions import Fraction
from typing import TYPE_CHECKING

from pydantic import Field

from phiforge.validation import tasks
from phiforge.validation.suites.model import Exercise, Loaded
from phiforge.validation.suites.rows import OriginalLine, dump_check, fault, parse, user

if TYPE_CHECKING:
    from collections.abc import Sequence

    from phiforge.validation.suites.model import Declared, Row

INSTRUCTION = "Please reason step by step, and put your final answer within \\boxed{}."
_BOX = re.compile(r"\\(?:boxed|fbox)\s*(?=[{\s\w])")
_SAID = re.compile(r"answer is:?\s*(.+?)(?:\.?\s*I hope it is correct|\.?\s*$)", re.IGNORECASE | re.MULTILINE)
_DROPPED = re.compile(r"\\left|\\right|\\!|\\,|\\;|\\:|\\ |\\\$|\$|\\%|%|\^\{?\\circ\}?|\^\{?\\degree\}?|\s")
_UNITS = re.compile(r"\\(?:text|mbox|textrm|mathrm)\{([^{}]*)\}")
_SHORT_FRACTION = re.compile(r"\\frac(?:\{([^{}]+)\}([0-9a-zA-Z])|([0-9a-zA-Z])\{([^{}]+)\}|([0-9])([0-9a-zA-Z]))")
_SHORT_ROOT = re.compile(r"\\sqrt([0-9a-zA-Z])")
_SLASH = re.compile(r"^(-?)([0-9]+)/([0-9]+)$")
_FRACTION = re.compile(r"^(-?)\\frac\{(-?[0-9]+)\}\{([0-9]+)\}$")
_THOUSANDS = re.compile(r"(?<=[0-9]),(?:\\!)?(?=[0-9]{3}(?![0-9]))")
_NAMED = re.compile(r"^[a-zA-Z]{1,2}(?:\\in|=)")


class Problem(OriginalLine):
    """A line as the data set has it."""

    problem: str = Field(min_length=1)
    solution: str


def load(rows: Sequence[Row], declared: Declared) -> Loaded:
    r"""Return an exercise for each line; ids are made of the suite's name and the line's place in the file.

    Raises:
        TasksInvalidError: A line breaks the schema, or its solution has no answer in `\boxed{}`.
    """
    return Loaded(exercises=tuple(_exercise(row, f"{declared.name}-{i:05d}", declared) for i, row in enumerate(rows)))


def is_right(check: str, generated: str) -> bool:
    r"""Return whether the answer that a generated text gives in `\boxed{}`, or says to be it, is the right one."""
    found = said_answer(tasks.answer_of(generated))
    return found is not None and is_equivalent(found, json.loads(check)["answer"])


def said_answer(text: str) -> str | None:
    r"""Return the content of the last `\boxed{}`, else what follows the last "answer is"; None without either."""
    found = boxed(text)
    if found is not None:
        return found
    said = _SAID.findall(text)
    return said[-1] if said else None


def boxed(text: str) -> str | None:
    r"""Return the content of the last `\boxed{}` or `\fbox{}` whose braces are balanced, or None."""
    for match in reversed(list(_BOX.finditer(text))):
        if match.end() < len(text) and text[match.end()] != "{":
            return text[match.end() :].split("$", maxsplit=1)[0].strip()
        content = _braced(text, match.end())
        if content is not None:
            return content
    return None


def is_equivalent(first: str, second: str) -> bool:
    """Return whether two answers are the same after normalization, or the same number."""
    one, other = normalize(first), normalize(second)
    if one == other:
        return bool(one)
    numbers = _number(one), _number(other)
    return numbers[0] is not None and numbers[0] == numbers[1]


def normalize(answer: str) -> str:
    """Return an answer in the form in which answers are compared."""
    text = answer.strip().removesuffix(".")
    text = _THOUSANDS.sub("", text.replace("\\!", ""))
    text = text.replace("tfrac", "frac").replace("dfrac", "frac")
    text = _drop_units(text)
    text = _DROPPED.sub("", text)
    text = _NAMED.sub("", text)
    text = re.sub(r"(?<![0-9])\.(?=[0-9])", "0.", text)
    text = _SHORT_ROOT.sub(r"\\sqrt{\1}", text)
    text = _SHORT_FRACTION.sub(_full_fraction, text)
    return _SLASH.sub(r"\1\\frac{\2}{\3}", text)


def _braced(text: str, start: int) -> str | None:
    depth = 0
    for index in range(start, len(text)):
        depth += {"{": 1, "}": -1}.get(text[index], 0)
        if depth == 0:
            return text[start + 1 : index]
    return None


def _drop_units(text: str) -> str:
    r"""Drop `\text{...}` behind an answer; one that is the whole answer stays, without its braces."""
    bare = _UNITS.sub("", text).strip()
    return bare if bare.strip("$ ") else _UNITS.sub(r"\1", text)


def _full_fraction(match: re.Match[str]) -> str:
    above, below = (part for part in match.groups() if part is not None)
    return rf"\frac{{{above}}}{{{below}}}"


def _number(text: str) -> Fraction | None:
    fraction = _FRACTION.match(text)
    try:
        if fraction:
            sign, above, below = fraction.groups()
            return Fraction(int(f"{sign}1") * int(above), int(below))
        return Fraction(text) if re.fullmatch(r"-?[0-9]{1,400}(\.[0-9]{1,400})?", text) else None
    except (ValueError, ZeroDivisionError):
        return None


def _exercise(row: Row, name: str, declared: Declared) -> Exercise:
    problem = parse(row, Problem)
    answer = boxed(problem.solution)
    if not answer or not normalize(answer):
        raise fault(row.place, "the solution has no answer in \\boxed{}")
    return Exercise(
        id=name,
        messages=user(f"{problem.problem}\n\n{INSTRUCTION}"),
        check=dump_check(answer=answer),
        limit_tokens=declared.limit_tokens,
    )
