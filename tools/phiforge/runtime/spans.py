"""Which context positions are decoded to see what the position costs: as far as the time allows, over the switch."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

# onnxruntime-genai 0.18 recomputes its KV cache when a sequence of a phi3 model reaches this length, at no other.
RECOMPUTES_AT = 4097
# Prompt of the decode that begins at the context's start.
START_TOKENS = 16
# Tokens decoded before and after the switch where the time does not allow to come there from the start.
MARGIN_TOKENS = 64
# The fewest tokens worth decoding.
_LEAST_TOKENS = 128


@dataclass(frozen=True)
class Span:
    """One decode over context positions: its prompt, the tokens decoded after it, and why no more; both 0 for none."""

    prompt_tokens: int
    decode_tokens: int
    why: str


def recomputes_at(config: Mapping[str, Any]) -> int | None:
    """Return the sequence length at which the runtime recomputes the cache of a genai_config's model, if it comes."""
    facts = config["model"]
    comes = str(facts.get("type", "")).startswith("phi3") and int(facts["context_length"]) > RECOMPUTES_AT
    return RECOMPUTES_AT if comes else None


def plan_span(
    context: int, switch: int | None, *, ms_per_token: float, prefill_ms_per_token: float, seconds: float
) -> Span:
    """Choose the positions of one decode that takes at most about `seconds`.

    Args:
        context: Tokens that a sequence may have.
        switch: The sequence length at which the runtime recomputes its cache, None where it never does.
        ms_per_token: Time of a decoded token.
        prefill_ms_per_token: Time of a prompt's token; the recomputing at the switch costs about that for each.
        seconds: What one decode may take.

    Returns:
        The whole context where that is in time; else from the start over the switch; else closely around the switch;
        else from the start as far as the time allows; nothing where that is too little to tell anything.
    """
    budget = seconds * 1e3
    whole = context - START_TOKENS - 1
    recompute = switch * prefill_ms_per_token if switch else 0.0
    if whole * ms_per_token + recompute <= budget:
        return Span(START_TOKENS, whole, "")
    far = int((budget - recompute) / ms_per_token) if ms_per_token else 0
    if switch and START_TOKENS + far >= switch + MARGIN_TOKENS:
        return _cut(far, seconds)
    if switch and switch + MARGIN_TOKENS < context:
        around = 2 * MARGIN_TOKENS * ms_per_token + 2 * recompute
        if around <= budget:
            why = f"the decode is closely around the longrope switch: from the start it would take over {seconds:.3g} s"
            return Span(switch - MARGIN_TOKENS, 2 * MARGIN_TOKENS, why)
    far = min(whole, int(budget / ms_per_token)) if ms_per_token else 0
    if switch and START_TOKENS + far >= switch:
        far = switch - START_TOKENS - 2  # to cross it would take more than there is
    if far < _LEAST_TOKENS:
        return Span(0, 0, f"no decode by position: {_LEAST_TOKENS} tokens would take over {seconds:.3g} s")
    return _cut(far, seconds)


def shorter(span: Span, decode_tokens: int, seconds: float) -> Span:
    """Return the span as far as the time allowed to decode it."""
    return span if decode_tokens == span.decode_tokens else replace(_cut(decode_tokens, seconds),
                                                                    prompt_tokens=span.prompt_tokens)  # fmt: skip


def _cut(far: int, seconds: float) -> Span:
    return Span(START_TOKENS, far, f"the decode by position ends where it would take over {seconds:.3g} s")
