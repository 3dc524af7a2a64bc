"""How much is asked: the length of answers, and parts of long lists."""

from __future__ import annotations

# The most tokens of an answer; room for the thinking of a reasoning model on a short question.
ANSWER_TOKENS = 512
LIMIT_STEP = 64


def answer_limit(prompt_tokens: int, switch: int | None, context: int, most: int = ANSWER_TOKENS) -> int:
    """Return the most new tokens of an answer: none crosses the longrope switch, where caches are computed anew.

    A prompt that is beyond the switch itself may use the whole context. Limits are multiples of 64 where there is room,
    so that prompts of nearly equal length can be decoded together.
    """
    end = min(switch, context) if switch and prompt_tokens <= switch else context
    room = min(most, end - prompt_tokens)
    return max(1, room - room % LIMIT_STEP if room > LIMIT_STEP else room)


def spread(count: int, most: int) -> list[int]:
    """Return at most `most` of the numbers below `count`, evenly spread."""
    kept = min(count, most)
    return [index * count // kept for index in range(kept)]
