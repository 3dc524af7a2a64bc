"""A process that hangs is ended, with a reason, and what it started with it; one that works is left alone.

And none measures on when nobody waits for it any more.
"""

from __future__ import annotations

import os
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pytest

from phiforge import errors
from phiforge.runtime.bench_worker import ORPHANED
from phiforge.stalls import ended_if_stalled
from phiforge.validation import comparison, worker

HUNG = "import time; time.sleep(120)"
HUNG_CHILD = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'import time; time.sleep(120)'])"
AT_WORK = "import time; stop = time.monotonic() + 4\nwhile time.monotonic() < stop: sum(range(1000))"
# A pause of a process that works, on a machine where much else does.
SECONDS = 2.0


def _started(program: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", program])


@pytest.mark.parametrize("program", [HUNG, HUNG_CHILD])
def test_what_hangs_is_ended_with_all_it_started(program: str) -> None:
    process = _started(program)
    started: list[psutil.Process] = []
    with ended_if_stalled(process, SECONDS) as stall:
        while not _ends_within(process, 0.1):
            started = psutil.Process(process.pid).children(recursive=True) or started
    assert stall.why == "it hung: it used no processor time for 2 s, and was ended"
    assert process.returncode != 0
    psutil.wait_procs(started, timeout=60)
    assert not any(child.is_running() and child.status() != psutil.STATUS_ZOMBIE for child in started)
    assert len(started) == (program == HUNG_CHILD)


def _ends_within(process: subprocess.Popen[bytes], seconds: float) -> bool:
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        return False
    return True


def test_what_works_is_left_alone() -> None:
    process = _started(AT_WORK)
    with ended_if_stalled(process, SECONDS) as stall:
        process.wait()
    assert (stall.why, process.returncode) == (None, 0)


def _hanging(module: str, *arguments: str) -> list[str]:
    return [sys.executable, "-c", HUNG]


def test_a_measurement_that_hangs_is_an_error_that_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker, "command", _hanging)
    monkeypatch.setattr(worker, "STALL_SECONDS", SECONDS)
    request: dict[str, Any] = {"idle": {"idle_s": [0.0, 0.5]}}
    with pytest.raises(errors.VariantUnusableError, match=r"it hung: it used no processor time for 2 s"):
        worker.watch_worker(tmp_path, request, lambda *_: None)


def test_a_comparison_that_hangs_is_an_error_that_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(comparison, "command", _hanging)
    monkeypatch.setattr(comparison, "ended_if_stalled", partial(ended_if_stalled, seconds=SECONDS))
    with (
        pytest.raises(errors.VariantUnusableError, match=r"it hung"),
        comparison._server(tmp_path, 1) as _,
    ):
        pytest.fail("it was open")


def test_a_measuring_process_ends_with_who_started_it(tmp_path: Path) -> None:
    request = tmp_path / "request.json"
    os.mkfifo(request)  # it waits for the rest of its request, as it would measure for long
    command = worker.command("phiforge.runtime.bench_worker", str(request), str(tmp_path / "result.json"))
    process = subprocess.Popen(command, stdin=subprocess.PIPE, env=worker.environment())
    with request.open("wb"):
        assert process.poll() is None
        assert process.stdin is not None
        process.stdin.close()
        assert process.wait(600) == ORPHANED
