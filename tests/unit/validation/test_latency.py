"""From raw times to the figures of the evidence."""

from __future__ import annotations

import numpy as np
import pytest

from phiforge.evidence import MemorySample
from phiforge.validation.latency import latency_row, thin


def test_speeds_are_of_repeats_and_gaps_of_tokens() -> None:
    decode = [[10.0] * 4, [20.0] * 4, [10.0, 10.0, 10.0, 50.0]]
    row = latency_row({"prompt_tokens": 100, "ttft_ms": [50.0, 100.0, 200.0], "decode_ms": decode})
    assert (row.prompt_tokens, row.decode_tokens, row.repeats) == (100, 4, 3)
    assert row.ttft_p50_ms == 100
    assert row.ttft_p95_ms == pytest.approx(190)
    assert row.prefill_tokens_per_s_p50 == pytest.approx(1000)
    assert row.decode_tokens_per_s_p50 == pytest.approx(50)
    assert row.decode_tokens_per_s_p95 == pytest.approx(50)
    assert row.inter_token_p50_ms == 10
    assert row.inter_token_p99_ms == pytest.approx(float(np.percentile(np.ravel(decode), 99)))


def test_the_slow_end_of_decode_is_reported_as_p95() -> None:
    decode = [[float(n)] * 8 for n in range(10, 30)]
    row = latency_row({"prompt_tokens": 1, "ttft_ms": [1.0] * 20, "decode_ms": decode})
    assert sum(1000 / n >= row.decode_tokens_per_s_p95 for n in range(10, 30)) == 19


def test_thinning_keeps_the_peak_and_the_order() -> None:
    samples = [MemorySample(t_s=i / 50, anon_bytes=i % 97, rss_bytes=1) for i in range(1000)]
    kept = thin(samples, 50)
    assert len(kept) == 50
    assert max(sample.anon_bytes for sample in kept) == 96
    assert [sample.t_s for sample in kept] == sorted(sample.t_s for sample in kept)
    assert thin(samples[:3], 50) == tuple(samples[:3])
