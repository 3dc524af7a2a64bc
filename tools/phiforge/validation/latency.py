"""Time and memory of one variant, measured in a fresh process on this machine."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import psutil

from phiforge import errors
from phiforge.evidence import Conditions, Kind, Latency, LatencyRow, MemorySample
from phiforge.machine import default_threads, describe_machine, tool_versions
from phiforge.selection import RUNTIME_WHEELS
from phiforge.tuning import Settings

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from phiforge.target import Measure

    Progress = Callable[[str, int, int], None]

SAMPLE_SECONDS = 0.02
# Memory samples kept in the evidence; of each stretch of the run, the highest.
SAMPLES_KEPT = 200
SEED = 20
VERSIONS = (*RUNTIME_WHEELS, "numpy", "phiforge")
_SOURCE_ROOT = Path(__file__).resolve().parents[2]
_STDERR_LINES = 5


def measure_latency(
    variant: Path, *, variant_sha256: str, measure: Measure, progress: Progress, tuned: Settings | None = None
) -> Latency:
    """Measure load, first-token and decode times and memory of a variant in a process of its own.

    Prompts that do not fit the variant's context together with the tokens decoded after them are left out.

    Args:
        variant: A complete variant folder.
        variant_sha256: What the evidence is about.
        measure: Warm-ups, repeats, prompt lengths, tokens to decode, and threads (None: what this machine has).
        progress: Told of the seconds gone; the total is not known and given as 0.
        tuned: Threads and session options chosen for this machine; they go before the profile's.

    Raises:
        VariantUnusableError: The variant does not run, or no prompt length fits.
    """
    settings = tuned or Settings(threads=measure.threads or default_threads())
    lengths = fitting_lengths(variant, measure)
    raw, memory = run_worker(
        variant,
        threads=settings.threads,
        session_options=settings.session_options,
        work=Work(measure.warmups, measure.repeats, tuple(lengths), measure.decode_tokens),
        progress=progress,
    )
    return Latency(
        kind=Kind.MEASURED,
        conditions=Conditions(
            machine=describe_machine(),
            provider=raw["provider"],
            threads=settings.threads,
            versions=tool_versions(VERSIONS),
            samples=measure.repeats,
            notes=(*_notes(measure, lengths), *([f"tuned: {settings.told()}"] if tuned else [])),
        ),
        variant_sha256=variant_sha256,
        warmups=measure.warmups,
        load_ms=raw["load_ms"],
        rows=tuple(latency_row(row) for row in raw["rows"]),
        peak_anon_bytes=max((sample.anon_bytes for sample in memory), default=0),
        peak_rss_bytes=max((sample.rss_bytes for sample in memory), default=0),
        memory=thin(memory, SAMPLES_KEPT),
    )


def _notes(measure: Measure, lengths: Sequence[int]) -> tuple[str, ...]:
    left_out = sorted(set(measure.prompt_tokens) - set(lengths))
    notes = [memory_note(), "prompts are random token ids, each used once"]
    if left_out:
        notes.append(f"prompts left out, longer than the context allows: {', '.join(map(str, left_out))} tokens")
    return tuple(notes)


def fitting_lengths(variant: Path, measure: Measure) -> list[int]:
    """Return the prompt lengths that fit the context together with the tokens made after them, each once.

    Raises:
        VariantUnusableError: None fits, or the variant has no readable config.
    """
    from phiforge.runtime.variant import read_config, window_of

    config = read_config(variant)
    context, window = int(config["model"]["context_length"]), window_of(config) or 1
    room = context - measure.decode_tokens - 1
    lengths = sorted({length for length in measure.prompt_tokens if -(-length // window) * window <= room})
    if not lengths:
        raise _failed(variant, f"no prompt with {measure.decode_tokens} tokens after it fits its {context} of context")
    return lengths


def latency_row(row: Mapping[str, Any]) -> LatencyRow:
    """Return the figures of one prompt length.

    Args:
        row: prompt_tokens, ttft_ms [repeats], decode_ms [repeats][tokens], as the worker writes them. Speeds are of
            whole repeats, inter-token times of single tokens of all repeats.
    """
    first = np.asarray(row["ttft_ms"], dtype=np.float64)
    decode = np.asarray(row["decode_ms"], dtype=np.float64)
    speeds = decode.shape[1] * 1e3 / decode.sum(axis=1)
    return LatencyRow(
        prompt_tokens=row["prompt_tokens"],
        decode_tokens=decode.shape[1],
        repeats=len(first),
        ttft_p50_ms=float(np.percentile(first, 50)),
        ttft_p95_ms=float(np.percentile(first, 95)),
        prefill_tokens_per_s_p50=float(np.percentile(row["prompt_tokens"] * 1e3 / first, 50)),
        decode_tokens_per_s_p50=float(np.percentile(speeds, 50)),
        decode_tokens_per_s_p95=float(np.percentile(speeds, 5)),
        inter_token_p50_ms=float(np.percentile(decode, 50)),
        inter_token_p99_ms=float(np.percentile(decode, 99)),
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


@dataclass(frozen=True)
class Work:
    """What a measuring process does: repeats after warm-ups, at each prompt length, with so many tokens decoded."""

    warmups: int
    repeats: int
    prompt_tokens: tuple[int, ...]
    decode_tokens: int


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
    request = {
        "variant": str(variant.resolve()), "threads": threads, "session_options": dict(session_options),
        **asdict(work), "seed": SEED, "text_ids": None,
    }  # fmt: skip
    with tempfile.TemporaryDirectory(prefix="phiforge-bench-") as name:
        folder = Path(name)
        asked, answered, said = folder / "request.json", folder / "result.json", folder / "stderr.txt"
        asked.write_text(json.dumps(request), encoding="utf-8")
        paths = [str(_SOURCE_ROOT), os.environ.get("PYTHONPATH", "")]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in paths if path)}
        # -P: nothing in the working folder is imported in place of what is installed.
        command = [sys.executable, "-P", "-m", "phiforge.runtime.bench_worker", str(asked), str(answered)]
        with said.open("wb") as errors_to:
            worker = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=errors_to, env=environment)
            try:
                memory = _watch(worker, progress)
            finally:
                if worker.poll() is None:
                    worker.kill()
                    worker.wait()
        if worker.returncode != 0 or not answered.is_file():
            lines = said.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-_STDERR_LINES:]
            raise _failed(variant, " / ".join(lines) or f"the measuring process ended with {worker.returncode}")
        raw: dict[str, Any] = json.loads(answered.read_text(encoding="utf-8"))
        return raw, memory


def _watch(worker: subprocess.Popen[bytes], progress: Progress) -> list[MemorySample]:
    """Sample the worker's memory until it ends."""
    process = psutil.Process(worker.pid)
    started = time.monotonic()
    samples: list[MemorySample] = []
    told = -1
    while worker.poll() is None:
        elapsed = time.monotonic() - started
        memory = _memory(process)
        if memory is not None:
            samples.append(MemorySample(t_s=round(elapsed, 3), anon_bytes=memory[0], rss_bytes=memory[1]))
        if int(elapsed) > told:
            told = int(elapsed)
            progress("measuring, seconds", told, 0)
        time.sleep(SAMPLE_SECONDS)
    return samples


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


def _failed(variant: Path, why: str) -> errors.VariantUnusableError:
    return errors.VariantUnusableError(
        f"The variant {variant} cannot be measured.", why=f"{why}.", fix="Check it with `phiforge validate`."
    )
