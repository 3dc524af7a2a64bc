"""Comparisons: the order of asking, ratios from which a drift of the machine falls out, and when enough is enough."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest

from phiforge import errors
from phiforge.evidence import Interval, Machine
from phiforge.validation import comparison
from phiforge.validation.comparison import Ask, Block, Pair, Stop, Times, compare_in_turn, ratio_row, side
from phiforge.validation.latency import refuse_emulated
from unit.packages import DEVICE

BLOCK = Block(128, 64)


def _asks(ratio: float, noise: float, seed: int, drift: float = 0.0) -> tuple[Ask, Ask]:
    """Two of which the new one takes `ratio` times as long, on a machine that becomes slower with every question."""
    random = np.random.default_rng(seed)
    asked = 0

    def ask(slower: float) -> Times:
        nonlocal asked
        asked += 1
        time = slower * (1 + drift * asked) * float(np.exp(noise * random.standard_normal()))
        return Times(ttft_ms=5 * time, decode_ms=time)

    return lambda block, number: ask(ratio), lambda block, number: ask(1.0)


def test_each_is_first_as_often_as_the_other_and_both_are_asked_twice() -> None:
    asked: list[str] = []

    def answering(name: str) -> Ask:
        def ask(block: Block, number: int) -> Times:
            asked.append(f"{name}{number}")
            return Times(1.0, 1.0)

        return ask

    compare_in_turn(answering("new"), answering("old"), [BLOCK], [0, 1], lambda number: None)
    assert asked == ["old0", "new0", "new0", "old0", "new1", "old1", "old1", "new1"]


def test_a_steady_drift_of_the_machine_falls_out() -> None:
    found = compare_in_turn(*_asks(1.25, 0.0, 0, drift=0.02), [BLOCK], range(8), lambda number: None)
    assert found["decode", BLOCK] == pytest.approx([1.25] * 8, rel=1e-9)
    assert found["ttft", BLOCK] == pytest.approx([1.25] * 8, rel=1e-9)


def test_a_row_has_the_median_and_its_order_statistics() -> None:
    row = ratio_row("decode", 128, [1.0, 1.3, 1.1, 1.2, 0.9])
    assert row.ratio_p50 == 1.1
    assert row.ratio_interval == Interval(low=0.9, high=1.3)
    assert ratio_row("decode", 128, [1.0] * 4).ratio_interval == Interval(low=None, high=None)


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [(0.9, 1.1, "within"), (1.11, 1.4, "beyond"), (1.05, 1.2, None), (None, None, None), (None, 1.0, "within")],
)
def test_sides_of_the_allowed_slowdown(low: float | None, high: float | None, expected: str | None) -> None:
    assert side(Interval(low=low, high=high), 0.10) == expected


class _Pair(Pair):
    """Two that are asked here, without processes."""

    def __init__(self, ratio: float, noise: float, seed: int) -> None:
        self.asks = _asks(ratio, noise, seed)

    @contextlib.contextmanager
    def opened(self) -> Iterator[tuple[Ask, Ask]]:
        yield self.asks


def _sides(ratio: float, noise: float, seed: int) -> tuple[int, set[str | None]]:
    found = comparison._rounds(_Pair(ratio, noise, seed), [BLOCK], None, Stop(), lambda *_: None)
    intervals = [ratio_row(metric, 128, values).ratio_interval for (metric, _), values in found.items()]
    return len(found["decode", BLOCK]), {side(interval, 0.10) for interval in intervals}


@pytest.mark.parametrize(("ratio", "expected"), [(1.0, "within"), (1.3, "beyond")])
def test_with_noise_of_a_tenth_thirty_percent_is_found_and_nothing_is_not(ratio: float, expected: str) -> None:
    assert all(_sides(ratio, 0.10, seed)[1] == {expected} for seed in range(100))


def test_a_quiet_machine_needs_twelve_rounds_and_a_noisy_one_more() -> None:
    assert _sides(1.0, 0.01, 0)[0] == 12
    assert max(_sides(1.0, 0.2, seed)[0] for seed in range(10)) > 24


def test_what_stays_on_the_limit_is_not_decided() -> None:
    rounds, sides = _sides(1.1, 0.1, 3)
    assert (rounds, sides) == (comparison.ROUNDS_MAX, {None})


def test_the_rounds_asked_for_are_made() -> None:
    found = comparison._rounds(_Pair(1.0, 0.01, 0), [BLOCK], 20, Stop(seconds_max=0.0), lambda *_: None)
    assert len(found["decode", BLOCK]) == 20


def test_no_round_begins_after_the_time_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(1_000))
    monkeypatch.setattr(time, "monotonic", lambda: next(clock))
    found = comparison._rounds(_Pair(1.1, 0.1, 3), [BLOCK], None, Stop(seconds_max=8.0), lambda *_: None)
    assert 6 < len(found["decode", BLOCK]) <= 9


def test_both_are_held_open_only_where_the_memory_is_free(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "model.onnx").write_bytes(b"x" * 1000)
    for free, together in ((2_999, False), (3_001, True)):
        memory = type("Memory", (), {"available": free})
        monkeypatch.setattr(comparison, "provider_of", lambda folder: "cpu")
        monkeypatch.setattr(psutil, "virtual_memory", lambda memory=memory: memory)
        assert Pair(tmp_path, tmp_path, 1).together is together


def test_an_emulated_process_is_refused() -> None:
    emulated: Machine = DEVICE.model_copy(update={"architecture": "arm64", "process_architecture": "x86_64"})
    with pytest.raises(errors.FallbackError, match="emulated") as caught:
        refuse_emulated(emulated)
    assert "x64 Python on Arm64" in caught.value.why
    refuse_emulated(DEVICE.model_copy(update={"architecture": "arm64", "process_architecture": "arm64"}))
