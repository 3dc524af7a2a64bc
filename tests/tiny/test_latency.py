"""Latency of the embedded model, and what surrounds it: loads, second turns, busy cores, comparisons."""

from __future__ import annotations

import contextlib
import gc
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import psutil
import pytest

from phiforge import errors
from phiforge.evidence import Latency
from phiforge.runtime.page_cache import drop_cached
from phiforge.target import Measure, Thorough
from phiforge.validation.comparison import compare_folders, side
from phiforge.validation.contention import busy_accelerator, busy_cores
from phiforge.validation.latency import measure_latency
from phiforge.validation.worker import opened
from slowed import add_work

NEW, OLD = "a" * 64, "b" * 64
LINUX = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc, or drops the page cache")
# Enough for a decode by position on a machine that is twenty times slower for other work.
POSITION_SECONDS = 10.0
PATIENCE_SECONDS = 60.0


def _comes(condition: Callable[[], bool]) -> bool:
    """Wait for what comes soon, or late on a busy machine; return whether it came."""
    stop = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        if time.monotonic() > stop:
            return False
        time.sleep(0.02)
    return True


def _children() -> set[psutil.Process]:
    return set(psutil.Process().children())


def _ended(process: psutil.Process) -> bool:
    """Whether a process is over; it stays a zombie where nobody takes note of its end."""
    try:
        return bool(process.status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return True


@pytest.fixture(scope="module")
def droppable(nano_variant: Path) -> bool:
    """Whether the variant's files leave the page cache: no process has them mapped, and they are on a disk."""
    gc.collect()  # models of earlier tests, which hold them
    return drop_cached(nano_variant)


@pytest.fixture(scope="module")
def latency(nano_variant: Path, droppable: bool) -> Latency:
    """Everything that can be measured, in little."""
    measure = Measure(
        warmups=1,
        repeats=5,
        prompt_tokens=[64, 128, 4096],
        decode_tokens=8,
        thorough=Thorough(idle_s=[0.0, 0.05], idle_repeats=2, position_seconds_max=POSITION_SECONDS),
    )
    return measure_latency(
        nano_variant,
        variant_sha256="0" * 64,
        measure=measure,
        progress=lambda step, done, total: None,
        thorough=True,
    )


def test_every_repeat_is_kept(latency: Latency) -> None:
    assert [row.prompt_tokens for row in latency.rows] == [64, 128]
    for row in latency.rows:
        assert len(row.ttft_ms) == len(row.decode_tokens_per_s) == row.repeats == 5
        assert median(row.ttft_ms) == pytest.approx(row.ttft_p50_ms)
        assert row.inter_token_percentiles_ms is not None
        assert row.inter_token_percentiles_ms.p99 == row.inter_token_p99_ms
    assert latency.conditions.taken_at is not None
    assert any("4096 tokens" in note for note in latency.conditions.notes)


def test_a_kept_cache_saves_the_first_turn(latency: Latency) -> None:
    turn = latency.second_turn
    assert turn is not None
    assert (turn.first_turn_tokens, turn.second_turn_tokens) == (288, 32)
    assert min(turn.kept_ttft_ms) < min(turn.anew_ttft_ms)


def test_loads_positions_pauses_and_busy_cores_are_there(latency: Latency) -> None:
    assert len(latency.load_warm_ms) == 5
    assert latency.by_position[0].start == 17
    assert sum(item.count for item in latency.by_position) % 3 == 0
    assert [(row.idle_s, len(row.ttft_ms)) for row in latency.idle] == [(0.0, 2), (0.05, 2)]
    cores = psutil.cpu_count() or 1
    assert [row.busy_cores for row in latency.contention] == sorted({0, 1, max(1, cores // 2), cores})
    assert latency.energy is None or latency.energy.joules > 0


@LINUX
def test_files_leave_the_page_cache_or_the_load_is_not_called_cold(droppable: bool, latency: Latency) -> None:
    assert latency.load_cold_ms or not droppable
    assert len(latency.load_cold_ms) in (0, 5)
    assert bool(latency.load_cold_ms) != any(note.startswith("no cold load") for note in latency.conditions.notes)


@LINUX
def test_busy_processes_end_with_the_one_that_started_them(tmp_path: Path) -> None:
    script = (
        "import os, time\nfrom phiforge.validation.contention import busy_cores\n"
        "with busy_cores(1):\n    print('started', flush=True)\n    time.sleep(60)\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE)
    assert parent.stdout is not None
    parent.stdout.readline()
    (child,) = psutil.Process(parent.pid).children()
    parent.kill()
    parent.wait()
    parent.stdout.close()
    assert _comes(lambda: _ended(child))


@LINUX
def test_a_busy_core_is_busy() -> None:
    others = _children()
    with busy_cores(1):
        (child,) = _children() - others
        before = child.cpu_times().user
        assert _comes(lambda: child.cpu_times().user - before > 0.05)
    assert not child.is_running()


def test_a_second_copy_generates_meanwhile(nano_variant: Path) -> None:
    request = opened(nano_variant, 1, {})
    others = _children()
    with busy_accelerator(nano_variant, request, {"prompt_tokens": 16, "decode_tokens": 8}):
        (copy,) = _children() - others
        before = copy.cpu_times().user
        assert _comes(lambda: copy.cpu_times().user > before)
    broken = {**request, "variant": str(nano_variant / "absent")}
    with (
        pytest.raises(errors.VariantUnusableError, match="cannot be measured"),
        busy_accelerator(nano_variant, broken, {"prompt_tokens": 16, "decode_tokens": 8}),
    ):
        pytest.fail("the block must not run")


def test_much_more_work_in_the_graph_is_found_and_changes_no_token(nano_variant: Path, tmp_path: Path) -> None:
    slow = add_work(nano_variant, tmp_path / "slow", 32_768)
    found = compare_folders(slow, nano_variant, new_sha256=NEW, old_sha256=OLD, rounds=5)
    assert (found.rounds, found.variant_sha256, found.against_sha256) == (5, NEW, OLD)
    rows = {(row.metric, row.prompt_tokens): row for row in found.rows}
    assert set(rows) == {("decode", 128), ("ttft", 512), ("decode", 512)}
    assert side(rows["decode", 128].ratio_interval, 0.10) == "beyond"


def test_what_does_not_run_is_told(nano_variant: Path, tmp_path: Path) -> None:
    config = json.loads((nano_variant / "genai_config.json").read_text(encoding="utf-8"))
    for file in nano_variant.iterdir():
        with contextlib.suppress(OSError):
            os.link(file, tmp_path / file.name)
    (tmp_path / "genai_config.json").unlink()
    (tmp_path / "genai_config.json").write_text(json.dumps(config), encoding="utf-8")
    (tmp_path / "model.onnx").unlink()
    with pytest.raises(errors.VariantUnusableError, match=r"model\.onnx is absent"):
        compare_folders(tmp_path, nano_variant, new_sha256=NEW, old_sha256=OLD, rounds=5)
