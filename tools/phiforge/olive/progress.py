"""How a pass tells the driver, in another process, how far it is and why it failed.

Olive swallows a pass's exception and prints nothing of use, so a pass writes JSON lines to the file that the driver
names in the environment. Under a plain `olive run` there is no such file and nothing is written.
"""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

from phiforge import errors

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

EVENTS_VARIABLE = "PHIFORGE_EVENTS"


def work_folder(fallback: Path) -> Path:
    """Where a pass keeps what outlives a kill: beside the driver's events; without a driver, the fallback."""
    events = os.environ.get(EVENTS_VARIABLE)
    return Path(events).parent / "pass-work" if events else fallback


def progress_of(step: str) -> Callable[[int, int], None]:
    """Return a callback (done, total) that reports each whole per cent of `step`."""
    last = -1

    def report(done: int, total: int) -> None:
        nonlocal last
        percent = 100 * done // max(total, 1)
        if percent != last:
            last = percent
            _write({"event": "progress", "step": step, "done": done, "total": total})

    return report


@contextlib.contextmanager
def note_failure() -> Iterator[None]:
    """Write an expected failure down before Olive swallows it."""
    try:
        yield
    except errors.PhiforgeError as error:
        _write(
            {"event": "failure", "class": type(error).__name__, "what": error.what, "why": error.why, "fix": error.fix}
        )
        raise
    except OSError as error:
        _write({"event": "os-error", "errno": error.errno, "what": str(error)})
        raise


def note_finished(code: int) -> None:
    """Write down that a run of Olive ended with an exit code."""
    _write({"event": "finished", "code": code})


def _write(event: dict[str, object]) -> None:
    path = os.environ.get(EVENTS_VARIABLE)
    if path:
        with open(path, "a", encoding="utf-8") as file:
            file.write(json.dumps(event) + "\n")
