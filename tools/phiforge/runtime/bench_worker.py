"""Times one variant in this process: `python -m phiforge.runtime.bench_worker REQUEST.json RESULT.json`.

Run as a fresh process by `phiforge.validation.worker`, so that load time and memory are those of the variant alone. It
ends with its standard input, whose other end the one that started it holds: it would disturb what is measured next.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import numpy as np

from phiforge import errors
from phiforge.runtime.spans import START_TOKENS, Span, plan_span, recomputes_at, shorter
from phiforge.runtime.turns import Turn, make_prompts, time_loads, time_second_turn, time_turn
from phiforge.runtime.variant import open_variant, read_config, runtime_errors

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from phiforge.runtime.variant import Variant


ORPHANED = 75


def run(request: dict[str, Any]) -> dict[str, Any]:
    """Carry out a request and return its raw times.

    Args:
        request: variant (folder), threads, session_options, warmups, repeats, prompt_tokens (list of lengths),
            decode_tokens, seed, and text_ids: null for random prompts, else token ids that prompts are cut from, each
            at another place. Optional, absent or null for not at all: seconds_max (no length is begun that would end
            after it), positions {repeats, seconds_max}, second_turn {first, answer, second, repeats}, idle {idle_s
            [pauses], repeats, prompt_tokens}.

    Returns:
        load_ms, provider, and a row for each length: prompt_tokens, ttft_ms [repeats], decode_ms
        [repeats][decode_tokens]. A sequence of n new tokens is one first token and n - 1 decoded ones. late: lengths
        that the time did not allow. For what was asked: positions {prompt_tokens, why, decode_ms [repeats][tokens],
        between_s [repeats][2]}, second_turn {..., kept_ms, anew_ms}, idle [{idle_s, ttft_ms}].
    """
    started = time.perf_counter()
    variant = open_variant(
        Path(request["variant"]), threads=request["threads"], session_options=request["session_options"]
    )
    load_ms = (time.perf_counter() - started) * 1e3
    random = np.random.default_rng(request["seed"])
    with runtime_errors(variant.folder, "does not generate"):
        rows, late = _rows(variant, request, random)
        found = {"load_ms": load_ms, "provider": variant.provider, "rows": rows, "late": late}
        if request.get("positions"):
            found["positions"] = _positions(variant, request["positions"], rows, random)
        if request.get("second_turn"):
            found["second_turn"] = _second_turn(variant, request["second_turn"], random)
        if request.get("idle"):
            found["idle"] = _idle(variant, request["idle"], random)
    return found


def _rows(
    variant: Variant, request: Mapping[str, Any], random: np.random.Generator
) -> tuple[list[dict[str, Any]], list[int]]:
    """Time every length, from short to long, as long as the time allows; the first one always."""
    decode, count = int(request["decode_tokens"]), request["warmups"] + request["repeats"]
    limit, began, before = request.get("seconds_max"), time.perf_counter(), 0.0
    rows: list[dict[str, Any]] = []
    lengths = list(request["prompt_tokens"])
    for index, length in enumerate(lengths):
        start = time.perf_counter()
        # A prompt takes at least as much longer as it has more tokens.
        expected = before * length / lengths[index - 1] if index else 0.0
        if limit is not None and rows and start - began + expected > limit:
            return rows, lengths[index:]
        prompts = make_prompts(variant, random, int(length), count, request["text_ids"])
        runs = [time_turn(variant, prompt, decode) for prompt in prompts][request["warmups"] :]
        rows.append(
            {"prompt_tokens": length, "ttft_ms": [r.ttft_ms for r in runs], "decode_ms": [r.decode_ms for r in runs]}
        )
        before = time.perf_counter() - start
    return rows, []


def _positions(
    variant: Variant, request: Mapping[str, Any], rows: Sequence[Mapping[str, Any]], random: np.random.Generator
) -> dict[str, Any]:
    """Decode over as many context positions as the time allows, with the time of every token."""
    longest = rows[-1]
    span = plan_span(
        variant.context_length,
        recomputes_at(read_config(variant.folder)),
        ms_per_token=float(np.median(longest["decode_ms"])),
        prefill_ms_per_token=median(longest["ttft_ms"]) / longest["prompt_tokens"],
        seconds=request["seconds_max"] / request["repeats"],
    )
    span = _padded(variant, span)
    turns: list[Turn] = []
    if span.decode_tokens:
        first, *others = make_prompts(variant, random, span.prompt_tokens, request["repeats"])
        # Tokens become slower with the context, which the plan does not know.
        turns = [time_turn(variant, first, span.decode_tokens, seconds_max=request["seconds_max"] / request["repeats"])]
        span = shorter(span, len(turns[0].decode_ms), request["seconds_max"] / request["repeats"])
        turns += [time_turn(variant, prompt, span.decode_tokens) for prompt in others]
    return {
        **asdict(span),
        "decode_ms": [turn.decode_ms for turn in turns],
        "between_s": [(turn.decode_from_s, turn.decode_to_s) for turn in turns],
    }


def _padded(variant: Variant, span: Span) -> Span:
    """A prompt that fills whole windows, where the variant computes no less."""
    window = variant.window or 1
    prompt = -(-span.prompt_tokens // window) * window
    fitting = max(0, min(span.decode_tokens, variant.context_length - prompt - 1))
    return Span(prompt, fitting, span.why)


def _second_turn(variant: Variant, request: Mapping[str, Any], random: np.random.Generator) -> dict[str, Any]:
    first = make_prompts(variant, random, request["first"], request["repeats"])
    second = make_prompts(variant, random, request["second"], request["repeats"])
    times = [time_second_turn(variant, a, request["answer"], b) for a, b in zip(first, second, strict=True)]
    return {**request, "kept_ms": [kept for kept, _ in times], "anew_ms": [anew for _, anew in times]}


def _idle(variant: Variant, request: Mapping[str, Any], random: np.random.Generator) -> list[dict[str, Any]]:
    """Time the first token after this process did nothing for a while, for each pause."""
    length = request.get("prompt_tokens", START_TOKENS)
    found = []
    for pause in request["idle_s"]:
        times = []
        for prompt in make_prompts(variant, random, length, request["repeats"]):
            time.sleep(pause)
            times.append(time_turn(variant, prompt, 0).ttft_ms)
        found.append({"idle_s": pause, "ttft_ms": times})
    return found


def main(arguments: list[str]) -> int:
    """Read the request, run it, write the result; an expected failure is one line on stderr and its exit code."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    request_file, result_file = (Path(argument) for argument in arguments)
    try:
        request = json.loads(request_file.read_text(encoding="utf-8"))
        result = time_loads(request) if request.get("loads") else run(request)
    except errors.PhiforgeError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_code
    result_file.write_text(json.dumps(result), encoding="utf-8")
    return 0


def _end_with_parent() -> None:
    while os.read(0, 4096):
        pass
    os._exit(ORPHANED)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
