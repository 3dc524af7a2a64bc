"""Timed turns of an opened variant: prompts that nothing cached can help, first tokens, decoded tokens, loads.

All times are of `time.perf_counter`, which on Linux, Windows and macOS is one clock for all processes of a machine.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from phiforge.runtime.page_cache import drop_cached
from phiforge.runtime.variant import open_variant

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from phiforge.runtime.variant import Variant


@dataclass(frozen=True)
class Turn:
    """One timed turn: time to the first token, the time of each token after it, and when decoding began and ended."""

    ttft_ms: float
    decode_ms: tuple[float, ...]
    decode_from_s: float
    decode_to_s: float


def make_prompts(
    variant: Variant, random: np.random.Generator, length: int, count: int, text: Sequence[int] | None = None
) -> list[NDArray[np.int32]]:
    """Return so many different prompts of one length, so that nothing cached by prefix can help.

    Args:
        variant: Whose vocabulary they are of.
        random: Where they are drawn from.
        length: Tokens of each.
        count: How many.
        text: Token ids they are cut from, each at another place; None for random tokens, stop ids left out.
    """
    if text is None:
        usable = np.setdiff1d(np.arange(variant.vocab_size, dtype=np.int32), np.asarray(variant.stop_ids))
        return [random.choice(usable, length).astype(np.int32) for _ in range(count)]
    starts = random.integers(0, len(text), count)
    return [np.resize(np.roll(np.asarray(text, dtype=np.int32), -start), length) for start in starts]


def time_turn(variant: Variant, prompt: NDArray[np.int32], decode: int, *, seconds_max: float | None = None) -> Turn:
    """Time one turn, cut short where decoding takes longer than `seconds_max`.

    The first token's time counts from the prompt's tokens: the generator's state and KV cache are made in it. Stop ids
    are kept from being chosen (`min_length`), so that every turn has the same number of tokens.
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
        if seconds_max is not None and marks[-1] - marks[0] > seconds_max:
            break
    _check_length(generator, length - decode + len(marks) - 1)
    return Turn(
        ttft_ms=(marks[0] - started) * 1e3,
        decode_ms=tuple((b - a) * 1e3 for a, b in pairwise(marks)),
        decode_from_s=marks[0],
        decode_to_s=marks[-1],
    )


def time_second_turn(
    variant: Variant, first: NDArray[np.int32], answer: int, second: NDArray[np.int32]
) -> tuple[float, float]:
    """Return the time to the first token of a second turn in ms: with the cache kept, and of the whole anew.

    Args:
        variant: What answers.
        first: The first turn's tokens.
        answer: Tokens generated after it.
        second: The second turn's tokens, handed to the generator that holds the first turn and its answer.
    """
    window = variant.window or 1
    length = sum(-(-part // window) * window for part in (len(first), len(second))) + answer + 1
    generator = variant.generator(max_length=length, min_length=length)
    variant.append(generator, first)
    for _ in range(answer):
        generator.generate_next_token()
    whole = np.concatenate([np.asarray(generator.get_sequence(0), dtype=np.int32), second])
    started = time.perf_counter()
    variant.append(generator, second)
    generator.generate_next_token()
    kept = (time.perf_counter() - started) * 1e3
    del generator  # its cache would stand beside that of the next one
    return kept, time_turn(variant, whole, 0).ttft_ms


def time_loads(request: Mapping[str, Any]) -> dict[str, Any]:
    """Load a variant again and again in this process, after once untimed, which loads the libraries.

    Args:
        request: variant (folder), threads, session_options, loads (how often), seconds_max (no load is begun after it).

    Returns:
        warm_ms of loads with the files in the page cache; cold_ms of loads just after they were dropped from it, empty
        where the system does not do that.
    """
    folder = Path(request["variant"])

    def load() -> float:
        started = time.perf_counter()
        open_variant(folder, threads=request["threads"], session_options=request["session_options"])
        return (time.perf_counter() - started) * 1e3

    load()
    warm: list[float] = []
    cold: list[float] = []
    stop = time.perf_counter() + request["seconds_max"]
    for _ in range(request["loads"]):
        if warm and time.perf_counter() > stop:
            break
        if drop_cached(folder):
            cold.append(load())
        warm.append(load())
    return {"warm_ms": warm, "cold_ms": cold}


def _check_length(generator: Any, length: int) -> None:
    if generator.token_count() != length:
        raise RuntimeError(f"{generator.token_count()} tokens were made where {length} were asked")
