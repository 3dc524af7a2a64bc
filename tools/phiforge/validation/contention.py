"""Other work on the machine while a variant is measured: busy cores, or a second copy of the variant generating."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from phiforge.stalls import ended_if_stalled
from phiforge.validation.worker import command, end, environment, failed, last_words

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from typing import Any

# A busy process ends by itself after this long, whatever becomes of the one that started it.
_SECONDS_MAX = 3600
_READY_SECONDS_MAX = 120.0
# Its standard input is a pipe that nobody writes to: it ends with whoever holds the other end, however that ended.
_BUSY = """
import os, sys, threading, time
threading.Thread(target=lambda: (sys.stdin.read(), os._exit(0)), daemon=True).start()
stop = time.monotonic() + float(sys.argv[1])
print("busy", flush=True)
while time.monotonic() < stop:
    sum(range(10_000))
"""


@contextlib.contextmanager
def busy_cores(count: int) -> Iterator[None]:
    """Keep so many cores busy with processes of their own; they end with the block, or with this process."""
    busy = [sys.executable, "-I", "-c", _BUSY, str(_SECONDS_MAX)]
    started: list[subprocess.Popen[bytes]] = []
    try:
        for _ in range(count):
            process = subprocess.Popen(busy, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
            started.append(process)
        for process in started:
            assert process.stdout is not None
            process.stdout.readline()
        yield
    finally:
        for process in started:
            end(process)
            _close(process)


@contextlib.contextmanager
def busy_accelerator(variant: Path, opened: Mapping[str, Any], work: Mapping[str, Any]) -> Iterator[None]:
    """Let a second copy of a variant generate on the same device, turn after turn, while the block runs.

    Args:
        variant: What an error is about.
        opened: The part of a request that says what is opened, and how.
        work: prompt_tokens and decode_tokens of its turns.

    Raises:
        VariantUnusableError: The second copy does not run beside what is there.
    """
    with tempfile.TemporaryDirectory(prefix="phiforge-busy-") as name:
        request, said = Path(name) / "request.json", Path(name) / "stderr.txt"
        request.write_text(json.dumps(dict(opened)), encoding="utf-8", newline="\n")
        question = json.dumps({**work, "seconds": _SECONDS_MAX, "seed": 1, "whole": True}) + "\n"
        with said.open("wb") as errors_to:
            copy = subprocess.Popen(
                command("phiforge.runtime.bench_server", str(request)),
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors_to, env=environment(),
            )  # fmt: skip
            try:
                assert copy.stdin is not None and copy.stdout is not None
                with ended_if_stalled(copy) as stall:
                    ready = copy.stdout.readline()
                if not ready:
                    copy.wait(_READY_SECONDS_MAX)
                    why = stall.why or last_words(said)
                    raise failed(variant, f"a second copy does not run beside the first: {why}")
                copy.stdin.write(question.encode())
                copy.stdin.flush()
                time.sleep(0.2)  # it is in its first turns
                yield
            finally:
                end(copy)
                _close(copy)


def _close(process: subprocess.Popen[bytes]) -> None:
    for stream in (process.stdin, process.stdout):
        if stream is not None:
            with contextlib.suppress(BrokenPipeError):
                stream.close()
