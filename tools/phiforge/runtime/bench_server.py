"""Holds one variant open and times turns whenever it is asked: `python -m phiforge.runtime.bench_server REQUEST.json`.

Two of these, asked in turn, compare two variants: while one runs the other waits. Questions come as JSON lines on
standard input, answers go as JSON lines to standard output; it ends with its input.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from phiforge import errors
from phiforge.runtime.turns import Turn, make_prompts, time_turn
from phiforge.runtime.variant import open_variant, runtime_errors

if TYPE_CHECKING:
    from collections.abc import Iterable

    from phiforge.runtime.variant import Variant


def answer(variant: Variant, question: dict[str, Any]) -> dict[str, Any]:
    """Time one whole turn, and then first tokens alone, or whole turns, until so many seconds are over.

    Args:
        variant: What is timed.
        question: prompt_tokens, decode_tokens, seconds, seed (of the prompts: equal ones for equal seeds), and
            whole: whether all turns are whole ones.

    Returns:
        ttft_ms [turns], and decode_ms [tokens] of the first turn.
    """
    random = np.random.default_rng(question["seed"])
    stop = time.perf_counter() + question["seconds"]

    def turn(decode: int) -> Turn:
        (prompt,) = make_prompts(variant, random, question["prompt_tokens"], 1)
        return time_turn(variant, prompt, decode)

    whole = turn(question["decode_tokens"])
    first = [whole.ttft_ms]
    while time.perf_counter() < stop:
        first.append(turn(question["decode_tokens"] if question["whole"] else 0).ttft_ms)
    return {"ttft_ms": first, "decode_ms": whole.decode_ms}


def serve(request: dict[str, Any], questions: Iterable[str], tell: Any) -> None:
    """Open the variant, say so, and answer every question."""
    variant = open_variant(
        Path(request["variant"]), threads=request["threads"], session_options=request["session_options"]
    )
    tell({"provider": variant.provider})
    with runtime_errors(variant.folder, "does not generate"):
        for line in questions:
            tell(answer(variant, json.loads(line)))


def main(arguments: list[str]) -> int:
    """Serve until the input ends; an expected failure is one line on stderr and its exit code."""
    request = json.loads(Path(arguments[0]).read_text(encoding="utf-8"))
    # What a runtime's library prints must not be taken for an answer.
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8", newline="\n")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())

    def tell(found: dict[str, Any]) -> None:
        answers.write(json.dumps(found) + "\n")
        answers.flush()

    try:
        serve(request, sys.stdin, tell)
    except errors.PhiforgeError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_code
    except BrokenPipeError:  # nobody listens any more
        return 0
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
