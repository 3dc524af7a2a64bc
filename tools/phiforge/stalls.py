"""A process that hangs: it uses no processor time for so long that nothing can come of it any more."""

from __future__ import annotations

import contextlib
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import psutil

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Iterator

# A driver that has lost its device blocks for good. No pause that is measured, and no single piece of work of a GPU or
# an NPU, is nearly as long.
STALL_SECONDS = 900.0
# Who waits, polls; that is less than this share of one core, and work is more.
_WAITING_FRACTION = 0.001
_POLLS = 60


@dataclass
class Stall:
    """Whether a process hung, so that it was ended.

    Attributes:
        seconds: Without processor time until it counts as hung.
        why: What is to be said of it; None if it did not hang.
    """

    seconds: float
    why: str | None = None


@contextlib.contextmanager
def ended_if_stalled(process: subprocess.Popen[Any], seconds: float = STALL_SECONDS) -> Iterator[Stall]:
    """End a process, and what it started, if it hangs while the block runs, which then sees it ended."""
    stall, over = Stall(seconds), threading.Event()
    watch = threading.Thread(target=_watch, args=(process.pid, stall, over), daemon=True)
    watch.start()
    try:
        yield stall
    finally:
        over.set()
        watch.join()


def _watch(pid: int, stall: Stall, over: threading.Event) -> None:
    """Wait for the end of the block or of the process; time is counted by polls, as computers are also suspended."""
    poll, waited = stall.seconds / _POLLS, 0.0
    with contextlib.suppress(psutil.NoSuchProcess):  # it ended by itself
        process = psutil.Process(pid)
        seen = _processor_seconds(process)
        while not over.wait(poll):
            waited += poll
            spent = _processor_seconds(process)
            if abs(spent - seen) > _WAITING_FRACTION * stall.seconds:
                seen, waited = spent, 0.0
            elif waited >= stall.seconds:
                stall.why = f"it hung: it used no processor time for {stall.seconds:,.0f} s, and was ended"
                # The process first: it would go on when what it waits for has ended.
                for hung in (process, *process.children(recursive=True)):
                    with contextlib.suppress(psutil.NoSuchProcess):
                        hung.kill()
                return


def _processor_seconds(process: psutil.Process) -> float:
    """Processor time of a process and of all that it started and that still runs."""
    spent = 0.0
    for one in (process, *process.children(recursive=True)):
        with contextlib.suppress(psutil.NoSuchProcess):
            times = one.cpu_times()
            spent += times.user + times.system
    return spent
