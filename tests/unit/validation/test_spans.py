"""Which positions are decoded: never more than the time allows, over the switch where that is possible."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from phiforge.runtime.spans import MARGIN_TOKENS, RECOMPUTES_AT, START_TOKENS, Span, plan_span, recomputes_at


def plan(context: int, switch: int | None, seconds: float, ms_per_token: float = 1.0) -> Span:
    return plan_span(
        context, switch, ms_per_token=ms_per_token, prefill_ms_per_token=ms_per_token / 10, seconds=seconds
    )


def test_the_whole_context_where_there_is_time() -> None:
    assert plan(2048, None, 3) == Span(START_TOKENS, 2048 - START_TOKENS - 1, "")


def test_over_the_switch_from_the_start() -> None:
    span = plan(100_000, RECOMPUTES_AT, 6)
    assert span.prompt_tokens == START_TOKENS
    assert span.decode_tokens > RECOMPUTES_AT + MARGIN_TOKENS - START_TOKENS
    assert "over 6 s" in span.why


def test_closely_around_the_switch_where_the_way_there_is_too_long() -> None:
    span = plan(100_000, RECOMPUTES_AT, 2)
    assert (span.prompt_tokens, span.decode_tokens) == (RECOMPUTES_AT - MARGIN_TOKENS, 2 * MARGIN_TOKENS)
    assert "around the longrope switch" in span.why


def test_what_cannot_reach_the_switch_stays_before_it() -> None:
    span = plan(100_000, RECOMPUTES_AT, 0.5)
    assert span.prompt_tokens == START_TOKENS
    assert span.decode_tokens == 500


def test_too_little_time_for_anything() -> None:
    assert plan(100_000, None, 1, ms_per_token=10).decode_tokens == 0


@given(
    context=st.integers(64, 131_072),
    switches=st.booleans(),
    seconds=st.floats(0.01, 1000),
    ms=st.floats(0.01, 1000),
    prefill=st.floats(0.001, 100),
)
def test_it_fits_the_context_and_the_time(
    context: int, switches: bool, seconds: float, ms: float, prefill: float
) -> None:
    switch = RECOMPUTES_AT if switches and context > RECOMPUTES_AT else None
    span = plan_span(context, switch, ms_per_token=ms, prefill_ms_per_token=prefill, seconds=seconds)
    assert span.prompt_tokens + span.decode_tokens < context
    last = span.prompt_tokens + span.decode_tokens
    crossed = switch is not None and span.prompt_tokens < switch <= last
    started = span.prompt_tokens * prefill if span.prompt_tokens > START_TOKENS else 0.0
    cost = started + span.decode_tokens * ms + (switch * prefill if crossed and switch else 0.0)
    assert cost <= seconds * 1e3 * 1.01 + ms
    assert span.decode_tokens > 0 or span.why


@pytest.mark.parametrize(
    ("kind", "context", "at"),
    [("phi3", 131_072, 4097), ("phi3", 4096, None), ("phi3", 2048, None), ("llama", 131_072, None)],
)
def test_the_runtime_recomputes_only_for_long_contexts_of_phi3(kind: str, context: int, at: int | None) -> None:
    config: dict[str, Any] = {"model": {"type": kind, "context_length": context}}
    assert recomputes_at(config) == at
