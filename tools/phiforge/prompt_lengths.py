"""At which prompt lengths the times of a variant must be known: those of the profile that its context has room for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from phiforge import errors
from phiforge.variant import context_of

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from phiforge.target import Measure
    from phiforge.variant import VariantRecord


@dataclass(frozen=True, kw_only=True)
class PromptLengths:
    """What `bench` measures of one variant for one profile.

    Attributes:
        prompt_tokens: Lengths of the prompts, rising, each once.
        decode_tokens: How many tokens are decoded after each.
    """

    prompt_tokens: tuple[int, ...]
    decode_tokens: int


def fitting(prompt_tokens: Iterable[int], decode_tokens: int, *, context_tokens: int, window_tokens: int) -> list[int]:
    """Return the prompt lengths that fit a context together with the tokens made after them, rising, each once.

    Args:
        prompt_tokens: Lengths, in any order.
        decode_tokens: How many tokens are decoded after the first new one.
        context_tokens: The most tokens of a sequence.
        window_tokens: The tokens that a prefill takes at once, which a prompt fills up; 1 for any number.
    """
    room = context_tokens - decode_tokens - 1
    return sorted({length for length in prompt_tokens if -(-length // window_tokens) * window_tokens <= room})


def prompt_lengths(measure: Measure, record: VariantRecord, folder: Path | None) -> PromptLengths:
    """Return what must be measured of a variant; where its context is not known, all that the profile names.

    Args:
        measure: The profile's.
        record: The variant's; an NPU's names the context and the window of its graphs.
        folder: The variant's files, of which genai_config.json names the context of all others.
    """
    context, window = (record.npu.context_tokens, record.npu.window_tokens) if record.npu else (_context(folder), 1)
    most = max(measure.prompt_tokens) + measure.decode_tokens + 1
    lengths = fitting(
        measure.prompt_tokens,
        measure.decode_tokens,
        context_tokens=most if context is None else context,
        window_tokens=window,
    )
    return PromptLengths(prompt_tokens=tuple(lengths), decode_tokens=measure.decode_tokens)


def _context(folder: Path | None) -> int | None:
    """The tokens that a variant's sequences may have; None if its files do not say."""
    if folder is None:
        return None
    try:
        return context_of(folder)
    except errors.VariantUnusableError:
        return None
