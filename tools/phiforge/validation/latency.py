"""Time, memory and energy of one variant, measured in fresh processes on this machine."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from statistics import median
from typing import TYPE_CHECKING, Any

import numpy as np

from phiforge import errors
from phiforge.evidence import (
    Conditions,
    ContentionRow,
    IdleRow,
    Kind,
    Latency,
    LatencyRow,
    Machine,
    SecondTurn,
)
from phiforge.intervals import interval_of_percentile
from phiforge.machine import default_threads, describe_machine, now, tool_versions
from phiforge.prompt_lengths import fitting
from phiforge.selection import RUNTIME_WHEELS
from phiforge.tuning import Settings
from phiforge.validation import worker
from phiforge.validation.cliffs import decode_bins, find_cliffs
from phiforge.validation.contention import busy_accelerator, busy_cores
from phiforge.validation.energy import CPU, energy_of, find_meter, idle_watts
from phiforge.validation.statistics import percentiles
from phiforge.validation.worker import Work, memory_note, run_worker, thin
from phiforge.variant import context_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from contextlib import AbstractContextManager
    from pathlib import Path

    from phiforge.evidence import Energy
    from phiforge.target import Measure
    from phiforge.validation.energy import Meter
    from phiforge.validation.worker import Progress, Watched

__all__ = ["Work", "fitting_lengths", "latency_row", "measure_latency", "refuse_emulated", "run_worker", "thin"]

# Memory samples kept in the evidence; of each stretch of the run, the highest.
SAMPLES_KEPT = 200
VERSIONS = (*RUNTIME_WHEELS, "numpy", "phiforge")
# Five are the fewest that bound a median; a model that takes longer to load has fewer.
LOADS, LOAD_SECONDS_MAX = 5, 300.0
POSITION_RUNS = 3
# A conversation: a first turn, its answer, and a second turn.
SECOND_TURN = worker.SecondTurn(first=256, answer=32, second=32, repeats=5)
SHORT_PROMPT_TOKENS = 16
CONTENTION_PROMPT_TOKENS, CONTENTION_REPEATS = 128, 5
IDLE_SECONDS = 0.5


@dataclass(frozen=True)
class _Job:
    """One variant, and how it is measured here."""

    variant: Path
    measure: Measure
    settings: Settings
    lengths: Sequence[int]
    context: int
    progress: Progress
    thorough: bool

    @property
    def opened(self) -> dict[str, Any]:
        return worker.opened(self.variant, self.settings.threads, self.settings.session_options)

    def watch(self, work: Work, meter: Meter | None = None) -> Watched:
        """Do some work in a process of its own."""
        return worker.watch_worker(
            self.variant, {**self.opened, **asdict(work), "text_ids": None}, self.progress, meter
        )


def measure_latency(
    variant: Path,
    *,
    variant_sha256: str,
    measure: Measure,
    progress: Progress,
    tuned: Settings | None = None,
    thorough: bool = False,
    gpu_vendor_id: int | None = None,
) -> Latency:
    """Measure load, first-token and decode times, memory and energy of a variant in processes of its own.

    Prompts that do not fit the variant's context together with the tokens decoded after them are left out.

    Args:
        variant: A complete variant folder.
        variant_sha256: What the evidence is about.
        measure: Warm-ups, repeats, prompt lengths, tokens to decode, and threads (None: what this machine has).
        progress: Told of the seconds gone; the total is not known and given as 0.
        tuned: Threads and session options chosen for this machine; they go before the profile's.
        thorough: Also first answers after pauses, a longer decode by context position, and times while other processes
            keep cores or the same accelerator busy.
        gpu_vendor_id: PCI id of the maker of the GPU that runs it, whose energy counter is then read.

    Raises:
        VariantUnusableError: The variant does not run, or no prompt length fits.
        FallbackError: This process is emulated.
    """
    machine = describe_machine()
    refuse_emulated(machine)
    settings = tuned or Settings(threads=measure.threads or default_threads())
    context, lengths = context_of(variant), fitting_lengths(variant, measure)
    job = _Job(variant, measure, settings, lengths, context, progress, thorough)
    meter = find_meter(provider_of(variant), gpu_vendor_id=gpu_vendor_id)
    resting = idle_watts(meter, IDLE_SECONDS) if meter else None
    found = job.watch(_work(job), meter)
    loads = worker.watch_worker(variant, {**job.opened, "loads": LOADS, "seconds_max": LOAD_SECONDS_MAX}, progress).raw
    contention = tuple(_contention(job)) if thorough else ()
    conditions = Conditions(
        machine=machine,
        provider=found.raw["provider"],
        threads=settings.threads,
        versions=tool_versions(VERSIONS),
        samples=measure.repeats,
        taken_at=now(),
        notes=tuple(_notes(job, found.raw, loads, tuned, meter)),
    )
    latency = _latency(variant_sha256, measure.warmups, conditions, found, loads).model_copy(
        update={"contention": contention, "energy": _energy(found, meter, resting)}
    )
    return _by_position(latency, found.raw["positions"], job)


def _latency(
    variant_sha256: str, warmups: int, conditions: Conditions, found: Watched, loads: Mapping[str, Any]
) -> Latency:
    """The evidence as far as the measuring process and that of the loads tell it."""
    return Latency(
        kind=Kind.MEASURED,
        conditions=conditions,
        variant_sha256=variant_sha256,
        warmups=warmups,
        load_ms=found.raw["load_ms"],
        load_cold_ms=tuple(loads["cold_ms"]),
        load_warm_ms=tuple(loads["warm_ms"]),
        rows=tuple(latency_row(row) for row in found.raw["rows"]),
        idle=tuple(
            IdleRow(idle_s=row["idle_s"], prompt_tokens=SHORT_PROMPT_TOKENS, ttft_ms=tuple(row["ttft_ms"]))
            for row in found.raw.get("idle", ())
        ),
        second_turn=_second_turn(found.raw),
        peak_anon_bytes=max((sample.anon_bytes for sample in found.memory), default=0),
        peak_rss_bytes=max((sample.rss_bytes for sample in found.memory), default=0),
        memory=thin(found.memory, SAMPLES_KEPT),
    )


def refuse_emulated(machine: Machine) -> None:
    """Refuse to measure in a process that the machine emulates: its times are not the device's.

    Raises:
        FallbackError: It is, as an x64 Python on a computer with Arm64.
    """
    if machine.process_architecture != machine.architecture:
        raise errors.FallbackError(
            "Nothing is measured in an emulated process.",
            why=f"This Python is for {machine.process_architecture} and the machine is {machine.architecture}: the "
            "system translates it, an x64 Python on Arm64 as any other, and the times would be the translation's.",
            fix=f"Install Python and phiforge for {machine.architecture}, and measure with these.",
        )


def provider_of(variant: Path) -> str:
    """Return the provider that a variant's folder promises, as "cpu", "dml", "webgpu", "qnn"."""
    from phiforge.runtime import variant as opening

    return opening.provider_of(opening.read_config(variant))


def fitting_lengths(variant: Path, measure: Measure) -> list[int]:
    """Return the prompt lengths that fit the context together with the tokens made after them, each once.

    Raises:
        VariantUnusableError: None fits, or the variant has no readable config.
    """
    context, window = context_of(variant), _window(variant)
    lengths = fitting(measure.prompt_tokens, measure.decode_tokens, context_tokens=context, window_tokens=window)
    if not lengths:
        raise worker.failed(
            variant, f"no prompt with {measure.decode_tokens} tokens after it fits its {context} of context"
        )
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
    between = percentiles(decode.ravel())
    return LatencyRow(
        prompt_tokens=row["prompt_tokens"],
        decode_tokens=decode.shape[1],
        repeats=len(first),
        ttft_p50_ms=float(np.percentile(first, 50)),
        ttft_p95_ms=float(np.percentile(first, 95)),
        prefill_tokens_per_s_p50=float(np.percentile(row["prompt_tokens"] * 1e3 / first, 50)),
        decode_tokens_per_s_p50=float(np.percentile(speeds, 50)),
        decode_tokens_per_s_p95=float(np.percentile(speeds, 5)),
        inter_token_p50_ms=between.p50,
        inter_token_p99_ms=between.p99,
        ttft_ms=tuple(first.tolist()),
        decode_tokens_per_s=tuple(speeds.tolist()),
        inter_token_percentiles_ms=between,
        inter_token_p99_interval_ms=interval_of_percentile(decode.ravel().tolist(), 0.99),
    )


def _work(job: _Job) -> Work:
    measure, more = job.measure, job.measure.thorough
    seconds = more.position_seconds_max if job.thorough else measure.position_seconds_max
    return Work(
        measure.warmups,
        measure.repeats,
        tuple(job.lengths),
        measure.decode_tokens,
        seconds_max=measure.seconds_max,
        positions=worker.Positions(POSITION_RUNS, seconds),
        second_turn=_conversation(job),
        idle=worker.Idle(tuple(more.idle_s), more.idle_repeats, SHORT_PROMPT_TOKENS) if job.thorough else None,
    )


def _conversation(job: _Job) -> worker.SecondTurn | None:
    """A conversation that fits the context; both turns fill whole windows, which a second turn may have to."""
    window = _window(job.variant)
    turn = SECOND_TURN
    while turn.first >= window and turn.first + turn.answer + turn.second + 2 * window >= job.context:
        turn = replace(turn, first=turn.first // 2)
    return turn if turn.first >= max(window, SHORT_PROMPT_TOKENS) else None


def _second_turn(raw: Mapping[str, Any]) -> SecondTurn | None:
    found = raw.get("second_turn")
    if not found:
        return None
    return SecondTurn(
        first_turn_tokens=found["first"] + found["answer"],
        second_turn_tokens=found["second"],
        kept_ttft_ms=tuple(found["kept_ms"]),
        anew_ttft_ms=tuple(found["anew_ms"]),
    )


def _by_position(latency: Latency, raw: Mapping[str, Any], job: _Job) -> Latency:
    """The evidence with the decode by context position and its cliffs, where there was one."""
    if not raw["decode_ms"]:
        return latency
    from phiforge.runtime.spans import recomputes_at
    from phiforge.runtime.variant import read_config

    runs = np.asarray(raw["decode_ms"], dtype=np.float64)
    first = raw["prompt_tokens"] + 1
    switch, window = recomputes_at(read_config(job.variant)), _window(job.variant)
    known = {place: "border of a chunk" for place in range(window, job.context, window) if window > 1}
    if switch is not None:
        known[switch] = "longrope switch: the runtime recomputes its KV cache"
    return latency.model_copy(
        update={"by_position": decode_bins(first, runs), "cliffs": find_cliffs(first, runs, known)}
    )


def _energy(found: Watched, meter: Meter | None, resting: float | None) -> Energy | None:
    """The energy of the decode by position, which is the longest stretch of nothing else."""
    raw = found.raw["positions"]
    if meter is None or not raw["decode_ms"]:
        return None
    tokens = sum(len(run) for run in raw["decode_ms"])
    return energy_of(meter, found.energy, [(start, stop) for start, stop in raw["between_s"]], tokens, resting)


def _contention(job: _Job) -> Iterator[ContentionRow]:
    """Measure one prompt length alone and while others work: on one core, on all, on the same accelerator."""
    cores = describe_machine().logical_cores
    length = max((n for n in job.lengths if n <= CONTENTION_PROMPT_TOKENS), default=job.lengths[0])
    work = Work(job.measure.warmups, CONTENTION_REPEATS, (length,), job.measure.decode_tokens)
    turns = {"prompt_tokens": length, "decode_tokens": job.measure.decode_tokens}
    for count in sorted({0, 1, max(1, cores // 2), cores}):
        yield _contended(job, work, busy_cores(count), count, accelerator=False)
    if provider_of(job.variant) != CPU:
        other = busy_accelerator(job.variant, job.opened, turns)
        yield _contended(job, work, other, 0, accelerator=True)


def _contended(
    job: _Job, work: Work, others: AbstractContextManager[None], count: int, *, accelerator: bool
) -> ContentionRow:
    with others:
        (row,) = job.watch(work).raw["rows"]
    figures = latency_row(row)
    return ContentionRow(
        busy_cores=count,
        busy_accelerator=accelerator,
        prompt_tokens=figures.prompt_tokens,
        ttft_p50_ms=median(figures.ttft_ms),
        decode_tokens_per_s_p50=figures.decode_tokens_per_s_p50,
    )


def _notes(
    job: _Job, raw: Mapping[str, Any], loads: Mapping[str, Any], tuned: Settings | None, meter: Meter | None
) -> Iterator[str]:
    measure = job.measure
    yield memory_note()
    yield "prompts are random token ids, each used once"
    left_out = sorted(set(measure.prompt_tokens) - set(job.lengths))
    if left_out:
        yield f"prompts left out, longer than the context allows: {', '.join(map(str, left_out))} tokens"
    elif not raw["late"]:
        last = max(job.lengths)
        yield f"prompts end at {last:,} tokens: the profile names none longer; the context is {job.context:,}"
    if raw["late"]:
        late = ", ".join(map(str, raw["late"]))
        yield f"prompts left out, they would end later than {measure.seconds_max:g} s: {late} tokens"
    if raw["positions"]["why"]:
        yield str(raw["positions"]["why"])
    yield "warm and cold loads are in a process of their own, which had loaded the libraries"
    if not loads["cold_ms"]:
        yield "no cold load: this system does not let the process drop the variant's files from its page cache"
    if meter is None:
        yield "no energy: this machine has no counter that this process may read"
    if tuned:
        yield f"tuned: {tuned.told()}"


def _window(variant: Path) -> int:
    from phiforge.runtime.variant import read_config, window_of

    return window_of(read_config(variant)) or 1
