"""A measuring process, watched from outside: its memory, and the energy that the machine's counters tell meanwhile."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

from phiforge import errors
from phiforge.evidence import MemorySample
from phiforge.stalls import STALL_SECONDS, ended_if_stalled

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from phiforge.validation.energy import Meter, Reading

    Progress = Callable[[str, int, int], None]

SAMPLE_SECONDS = 0.02
SEED = 20
_SOURCE_ROOT = Path(__file__).resolve().parents[2]
_STDERR_LINES = 5


@dataclass(frozen=True)
class Positions:
    """A decode over the context's positions, so often, in at most so many seconds together."""

    repeats: int
    seconds_max: float


@dataclass(frozen=True)
class SecondTurn:
    """A first turn of so many tokens, its answer, and a second turn, so often."""

    first: int
    answer: int
    second: int
    repeats: int


@dataclass(frozen=True)
class Idle:
    """First tokens after each of these pauses, so often."""

    idle_s: tuple[float, ...]
    repeats: int
    prompt_tokens: int


@dataclass(frozen=True)
class Work:
    """What a measuring process does: repeats after warm-ups, at each prompt length, with so many tokens decoded.

    No length is begun that would end after `seconds_max`. What is None is not done.
    """

    warmups: int
    repeats: int
    prompt_tokens: tuple[int, ...]
    decode_tokens: int
    seconds_max: float | None = None
    positions: Positions | None = None
    second_turn: SecondTurn | None = None
    idle: Idle | None = None


@dataclass(frozen=True)
class Watched:
    """What a measuring process found, and what was seen of it from outside."""

    raw: dict[str, Any]
    memory: list[MemorySample]
    energy: list[Reading] = field(default_factory=list)


def run_worker(
    variant: Path, *, threads: int, session_options: Mapping[str, str], work: Work, progress: Progress
) -> tuple[dict[str, Any], list[MemorySample]]:
    """Measure in a process of its own, to its end, and watch its memory.

    Args:
        variant: A complete variant folder.
        threads: Threads of the CPU operators; 0 leaves them to the runtime.
        session_options: Entries for onnxruntime's session configuration.
        work: What to do.
        progress: Told of the seconds gone.

    Returns:
        What `runtime.bench_worker.run` returns, and samples of the process's memory.

    Raises:
        VariantUnusableError: The variant does not run.
    """
    found = watch_worker(
        variant, opened(variant, threads, session_options) | {**asdict(work), "text_ids": None}, progress
    )
    return found.raw, found.memory


def opened(variant: Path, threads: int, session_options: Mapping[str, str]) -> dict[str, Any]:
    """Return the part of a request that says what is opened, and how."""
    return {
        "variant": str(variant.resolve()),
        "threads": threads,
        "session_options": dict(session_options),
        "seed": SEED,
    }


def watch_worker(variant: Path, request: Mapping[str, Any], progress: Progress, meter: Meter | None = None) -> Watched:
    """Carry out a request of `runtime.bench_worker` in a process of its own, and watch it.

    Args:
        variant: What an error is about.
        request: As `runtime.bench_worker.run` or `runtime.turns.time_loads` takes it.
        progress: Told of the seconds gone.
        meter: Read all the time the process runs.

    Raises:
        VariantUnusableError: The variant does not run, or hangs.
    """
    with tempfile.TemporaryDirectory(prefix="phiforge-bench-") as name:
        folder = Path(name)
        asked, answered, said = folder / "request.json", folder / "result.json", folder / "stderr.txt"
        asked.write_text(json.dumps(request), encoding="utf-8", newline="\n")
        with said.open("wb") as errors_to:
            worker = subprocess.Popen(
                command("phiforge.runtime.bench_worker", str(asked), str(answered)),
                stdin=subprocess.PIPE,  # it ends with this process, however that ends
                stdout=subprocess.DEVNULL,
                stderr=errors_to,
                env=environment(),
            )
            try:
                with ended_if_stalled(worker, STALL_SECONDS + _longest_pause(request)) as stall:
                    memory, energy = _watch(worker, progress, meter)
            finally:
                end(worker)
                if worker.stdin:
                    worker.stdin.close()
        if worker.returncode != 0 or not answered.is_file():
            ended = f"the measuring process ended with {worker.returncode}"
            raise failed(variant, stall.why or last_words(said) or ended)
        return Watched(json.loads(answered.read_text(encoding="utf-8")), memory, energy)


def _longest_pause(request: Mapping[str, Any]) -> float:
    """Seconds for which a request may rightly do nothing."""
    idle = request.get("idle")
    return max(idle["idle_s"]) if idle else 0.0


def command(module: str, *arguments: str) -> list[str]:
    """Return the command of one of our modules; -P: nothing in the working folder is imported in place of it."""
    return [sys.executable, "-P", "-m", module, *arguments]


def environment() -> dict[str, str]:
    """Return this process's environment, with our modules found first."""
    paths = [str(_SOURCE_ROOT), os.environ.get("PYTHONPATH", "")]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in paths if path)}


def end(process: subprocess.Popen[Any]) -> None:
    """Make sure that a process is over."""
    if process.poll() is None:
        process.kill()
        process.wait()


def last_words(stderr: Path) -> str:
    """Return the last lines that a process wrote to its standard error."""
    lines = stderr.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return " / ".join(lines[-_STDERR_LINES:])


def failed(variant: Path, why: str) -> errors.VariantUnusableError:
    """Return the error of a variant that cannot be measured."""
    return errors.VariantUnusableError(
        f"The variant {variant} cannot be measured.", why=f"{why}.", fix="Check it with `phiforge validate`."
    )


def thin(samples: Sequence[MemorySample], count: int) -> tuple[MemorySample, ...]:
    """Return at most `count` samples: of each of as many equal stretches, the one with the most anonymous memory."""
    if len(samples) <= count:
        return tuple(samples)
    edges = [round(i * len(samples) / count) for i in range(count + 1)]
    stretches = (samples[start:stop] for start, stop in pairwise(edges))
    return tuple(max(stretch, key=lambda sample: sample.anon_bytes) for stretch in stretches)


def memory_note() -> str:
    """Say what `anon_bytes` is on this system."""
    if sys.platform == "linux":
        return "anonymous memory is RssAnon of /proc, sampled every 20 ms; resident memory includes mapped files"
    if sys.platform == "win32":
        return "anonymous memory is the private commit charge, which may exceed what is resident, sampled every 20 ms"
    return "anonymous memory is the unique set size, sampled every 20 ms"


def _watch(
    worker: subprocess.Popen[bytes], progress: Progress, meter: Meter | None
) -> tuple[list[MemorySample], list[Reading]]:
    """Sample the worker's memory, and a meter, until it ends."""
    process = psutil.Process(worker.pid)
    started = time.monotonic()
    samples: list[MemorySample] = []
    readings: list[Reading] = []
    told = -1
    while worker.poll() is None:
        elapsed = time.monotonic() - started
        memory = _memory(process)
        if memory is not None:
            samples.append(MemorySample(t_s=round(elapsed, 3), anon_bytes=memory[0], rss_bytes=memory[1]))
        reading = meter.read() if meter else None
        if reading is not None:
            readings.append(reading)
        if int(elapsed) > told:
            told = int(elapsed)
            progress("measuring, seconds", told, 0)
        time.sleep(SAMPLE_SECONDS)
    return samples, readings


def _memory(process: psutil.Process) -> tuple[int, int] | None:
    """Anonymous and resident bytes of a process, None if it has ended."""
    try:
        if sys.platform == "linux":
            status = Path(f"/proc/{process.pid}/status").read_text(encoding="utf-8")
            return _status_bytes(status, "RssAnon"), _status_bytes(status, "VmRSS")
        if sys.platform == "win32":
            info = process.memory_info()
            return int(info.private), int(info.rss)
        full = process.memory_full_info()
        return int(full.uss), int(full.rss)
    except (OSError, psutil.Error, LookupError):
        return None


def _status_bytes(status: str, field: str) -> int:
    """Return a field of /proc/PID/status in bytes; a process that has ended has none of them."""
    for line in status.splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    raise LookupError(field)
