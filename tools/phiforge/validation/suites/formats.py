"""The formats of task files."""

from __future__ import annotations

from typing import TYPE_CHECKING

from phiforge.validation.suites import (
    competition_math,
    exact_match,
    gsm8k,
    human_eval,
    instructions,
    multiple_choice,
)
from phiforge.validation.suites.model import Format

if TYPE_CHECKING:
    from collections.abc import Sequence

    from phiforge.validation.suites.model import Row

FORMATS: dict[str, Format] = {
    "arc": Format(metric="log-likelihood", load=multiple_choice.load_arc),
    "exact-match": Format(metric="exact-match", load=exact_match.load, is_right=exact_match.is_right),
    "gsm8k": Format(metric="exact-match", load=gsm8k.load, is_right=gsm8k.is_right),
    "humaneval": Format(metric="code", load=human_eval.load, is_right=human_eval.is_right, runs_code=True),
    "ifeval": Format(metric="instructions", load=instructions.load, is_right=instructions.is_right),
    "math": Format(metric="exact-match", load=competition_math.load, is_right=competition_math.is_right),
    "mmlu": Format(metric="log-likelihood", load=multiple_choice.load_mmlu),
}
# Fields by which the format of a line is guessed, for the declaration that an error proposes.
_MARKS = (
    ("exact-match", {"messages", "answer"}),
    ("humaneval", {"entry_point", "test"}),
    ("ifeval", {"instruction_id_list"}),
    ("math", {"problem", "solution"}),
    ("arc", {"answerKey"}),
    ("arc", {"query", "gold"}),
    ("mmlu", {"choices", "answer"}),
    ("gsm8k", {"question", "answer"}),
)


def is_right(format: str, check: str, generated: str) -> bool:  # noqa: A002
    """Return whether a generated text answers an exercise rightly.

    Args:
        format: A key of `FORMATS` whose answers are generated.
        check: The exercise's `check`.
        generated: The text as decoded, special tokens included.

    Raises:
        SandboxUnavailableError: The format runs code, and this machine cannot lock it in.
    """
    judge = FORMATS[format].is_right
    if judge is None:
        raise ValueError(f"answers of the format {format} are chosen, not generated")
    return judge(check, generated)


def chosen(log_likelihoods: Sequence[float], lengths: Sequence[int]) -> int:
    """Return the index of the continuation that a model chooses: the one of the greatest log-likelihood.

    The sum over a continuation's tokens is compared, not the mean: continuations are labels of one token each, or texts
    of which one is what the model would write, and a mean would favour long texts whose ends follow from their
    beginnings. The first of equals is taken.

    Args:
        log_likelihoods: Of each continuation, summed over its tokens, in nats.
        lengths: Tokens of each continuation.
    """
    if len(log_likelihoods) != len(lengths):
        raise ValueError(f"{len(log_likelihoods)} log-likelihoods, {len(lengths)} lengths")
    return max(range(len(log_likelihoods)), key=log_likelihoods.__getitem__)


def format_of(row: Row) -> str:
    """Return the format that a line seems to have, or an empty text."""
    return next((name for name, fields in _MARKS if fields <= row.value.keys()), "")
