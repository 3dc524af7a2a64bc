"""Run a command and see what its whole process tree holds at its peak (Linux)."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

INTERVAL_S = 0.05


@dataclass(frozen=True)
class Watched:
    """Wall time, the largest sum of anonymous memory over the tree, and the exit status."""

    seconds: float
    peak_anon_bytes: int
    status: int


def run_watched(command: Sequence[str], log: Path) -> Watched:
    """Run a command to its end, its output in `log`, sampling memory every 50 ms."""
    start = time.monotonic()
    peak = 0
    root = Path(__file__).parents[2]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(root / "tools"), str(root / "tests")])}
    with log.open("wb") as file:
        process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, env=environment)
        while process.poll() is None:
            peak = max(peak, tree_anonymous_bytes(process.pid))
            time.sleep(INTERVAL_S)
    return Watched(time.monotonic() - start, peak, process.returncode)


def tree_anonymous_bytes(pid: int) -> int:
    """RssAnon of a process and all its descendants: memory that the system cannot take back."""
    try:
        root = psutil.Process(pid)
        return sum(map(_anonymous_bytes, [root, *root.children(recursive=True)]))
    except psutil.NoSuchProcess:
        return 0


def _anonymous_bytes(process: psutil.Process) -> int:
    try:
        status = Path(f"/proc/{process.pid}/status").read_text(encoding="utf-8")
    except OSError:
        return 0
    return next((1024 * int(line.split()[1]) for line in status.splitlines() if line.startswith("RssAnon:")), 0)
