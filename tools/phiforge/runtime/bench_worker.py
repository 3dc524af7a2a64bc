"""Times one variant in this process: `python -m phiforge.runtime.bench_worker REQUEST.json RESULT.json`.

Run as a fresh process by `phiforge.validation.latency`, so that load time and memory are those of the variant alone.
"""

from __future__ import annotations

import json
import sys
import time
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from phiforge import errors
from phiforge.runtime.variant import open_variant, runtime_errors

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from phiforge.runtime.variant import Variant


def run(request: dict[str, Any]) -> dict[str, Any]:
    """Carry out a request and return its raw times.

    Args:
        request: variant (folder), threads, session_options, warmups, repeats, prompt_tokens (list of lengths),
            decode_tokens, seed, and text_ids: null for random prompts, else token ids that prompts are cut from, each
            at another place.

    Returns:
        load_ms, provider, and a row for each length: prompt_tokens, ttft_ms [repeats], decode_ms
        [repeats][decode_tokens]. A sequence of n new tokens is one first token and n - 1 decoded ones.
    """
    started = time.perf_counter()
    variant = open_variant(
        Path(request["variant"]), threads=request["threads"], session_options=request["session_options"]
    )
    load_ms = (time.perf_counter() - started) * 1e3
    random = np.random.default_rng(request["seed"])
    decode = int(request["decode_tokens"])
    rows = []
    with runtime_errors(variant.folder, "does not generate"):
        for length in request["prompt_tokens"]:
            prompts = _prompts(variant, request, random, int(length))
            runs = [_time_one(variant, prompt, decode) for prompt in prompts][request["warmups"] :]
            rows.append({"prompt_tokens": length, "ttft_ms": [r[0] for r in runs], "decode_ms": [r[1] for r in runs]})
    return {"load_ms": load_ms, "provider": variant.provider, "rows": rows}


def _prompts(
    variant: Variant, request: dict[str, Any], random: np.random.Generator, length: int
) -> list[NDArray[np.int32]]:
    """Return a different prompt for each warm-up and repeat, so that nothing cached by prefix can help."""
    count = request["warmups"] + request["repeats"]
    text = request["text_ids"]
    if text is None:
        usable = np.setdiff1d(np.arange(variant.vocab_size, dtype=np.int32), np.asarray(variant.stop_ids))
        return [random.choice(usable, length).astype(np.int32) for _ in range(count)]
    starts = random.integers(0, len(text), count)
    return [np.resize(np.roll(np.asarray(text, dtype=np.int32), -start), length) for start in starts]


def _time_one(variant: Variant, prompt: NDArray[np.int32], decode: int) -> tuple[float, list[float]]:
    """Return the time to the first token and of each decoded token, in milliseconds.

    The first token's time counts from the prompt's tokens: the generator's state and KV cache are made in it. Stop ids
    are kept from being chosen (`min_length`), so that every run has the same number of tokens.
    """
    length = variant.prompt_length(len(prompt)) + 1 + decode
    started = time.perf_counter()
    generator = variant.generator(max_length=length, min_length=length)
    variant.append(generator, prompt)
    generator.generate_next_token()
    marks = [time.perf_counter()]
    for _ in range(decode):
        generator.generate_next_token()
        marks.append(time.perf_counter())
    if generator.token_count() != length:
        raise RuntimeError(f"{generator.token_count()} tokens were made where {length} were asked")
    return (marks[0] - started) * 1e3, [(b - a) * 1e3 for a, b in pairwise(marks)]


def main(arguments: list[str]) -> int:
    """Read the request, run it, write the result; an expected failure is one line on stderr and its exit code."""
    request_file, result_file = (Path(argument) for argument in arguments)
    try:
        result = run(json.loads(request_file.read_text(encoding="utf-8")))
    except errors.PhiforgeError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_code
    result_file.write_text(json.dumps(result), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
