"""A variant against another one in one interleaved run: what disturbs the machine meets both alike.

Each round asks both in the order new, old, old, new, so that a steady drift of the machine falls out of its ratio. Both
are open in processes of their own, one waits while the other runs; after some rounds both are opened anew, because a
process may be a little faster or slower than its twin for as long as it lives.
"""

from __future__ import annotations

import contextlib
import json
import math
import subprocess
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import psutil

from phiforge.evidence import Comparison, ComparisonRow, Conditions, Interval, Kind
from phiforge.intervals import interval_of_median
from phiforge.machine import default_threads, describe_machine, now, tool_versions
from phiforge.stalls import ended_if_stalled
from phiforge.validation.latency import VERSIONS, provider_of, refuse_emulated
from phiforge.validation.worker import command, end, environment, failed, last_words, opened
from phiforge.variant import context_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from phiforge.validation.worker import Progress

Metric = Literal["ttft", "decode"]
Side = Literal["within", "beyond"]
METRICS: tuple[Metric, ...] = ("ttft", "decode")
# Lengths that are compared: a usual prompt, and a long one whose cache weighs. First tokens are compared at the longest
# that fits: those of short prompts differ from one to the next far more than from one variant to the other.
PROMPT_TOKENS = (128, 512)
DECODE_TOKENS = 64
BLOCK_SECONDS = 0.1
# Slower than this is worse; what is not decided after the most rounds stays so.
ALLOWED_FRACTION = 0.10
ROUNDS_MAX, SECONDS_MAX = 96, 1800.0
ROUNDS_OPEN = 6
# Both are held open at once where so many times their files are free in memory.
_MEMORY_FACTOR = 1.5


@dataclass(frozen=True)
class Block:
    """What is timed at once: one turn with its decoded tokens, then first tokens until so many seconds are over."""

    prompt_tokens: int
    decode_tokens: int
    seconds: float = BLOCK_SECONDS
    metrics: tuple[Metric, ...] = METRICS


@dataclass(frozen=True)
class Times:
    """The times of one block: to the first token (lower quartile), and of the median decoded token.

    On a busy machine both are much steadier than means: what held a single token or turn up is not the variant's.
    """

    ttft_ms: float
    decode_ms: float

    def of(self, metric: Metric) -> float:
        """The time of one metric in ms."""
        return self.ttft_ms if metric == "ttft" else self.decode_ms


@dataclass(frozen=True)
class Stop:
    """When a comparison ends that was not told its rounds: when it is decided, or when the time is over."""

    allowed_fraction: float = ALLOWED_FRACTION
    seconds_max: float = SECONDS_MAX


# Times a block of one variant; the number tells the prompts.
Ask = Callable[[Block, int], Times]


def compare_folders(
    new: Path,
    old: Path,
    *,
    new_sha256: str,
    old_sha256: str,
    rounds: int | None = None,
    allowed_fraction: float = ALLOWED_FRACTION,
    seconds_max: float = SECONDS_MAX,
    threads: int | None = None,
    progress: Progress = lambda step, done, total: None,
) -> Comparison:
    """Compare two variants that run on the same device of this machine.

    Args:
        new: A complete variant folder.
        old: The one it is held against.
        new_sha256: What the evidence is about.
        old_sha256: What it is held against.
        rounds: How many; None for as many as it takes, from 12 to 96: until every interval lies within the allowed
            slowdown, or one beyond it, and did so six rounds before; or until `seconds_max` are over.
        allowed_fraction: The slowdown that is still no regression.
        seconds_max: After which no round is begun, if `rounds` is None.
        threads: Threads of the CPU operators; None for what this machine has.
        progress: Told of the rounds.

    Raises:
        VariantUnusableError: One of them does not run, or has no room for any prompt.
        FallbackError: This process is emulated.
    """
    machine = describe_machine()
    refuse_emulated(machine)
    blocks = _blocks(new, old)
    used = threads or default_threads()
    pair = Pair(new, old, used)
    ratios = _rounds(pair, blocks, rounds, Stop(allowed_fraction, seconds_max), progress)
    rows = [
        ratio_row(metric, block.prompt_tokens, ratios[metric, block]) for block in blocks for metric in block.metrics
    ]
    return Comparison(
        kind=Kind.MEASURED,
        conditions=Conditions(
            machine=machine,
            provider=pair.provider,
            threads=used,
            versions=tool_versions(VERSIONS),
            samples=len(rows[0].ratios),
            taken_at=now(),
            notes=pair.notes(),
        ),
        variant_sha256=new_sha256,
        against_sha256=old_sha256,
        rounds=len(rows[0].ratios),
        rows=tuple(rows),
    )


def _blocks(new: Path, old: Path) -> list[Block]:
    """What a round asks of both, at the lengths that fit both contexts."""
    room = min(context_of(new), context_of(old)) - DECODE_TOKENS - 1
    lengths = [length for length in PROMPT_TOKENS if length <= room]
    if not lengths:
        raise failed(new, f"no prompt of {PROMPT_TOKENS[0]} tokens with {DECODE_TOKENS} after it fits both contexts")
    return [
        *(Block(length, DECODE_TOKENS, 0.0, ("decode",)) for length in lengths[:-1]),
        Block(lengths[-1], DECODE_TOKENS),
    ]


def ratio_row(metric: Metric, prompt_tokens: int, ratios: Sequence[float]) -> ComparisonRow:
    """Return the figures of one metric: the median of the rounds' ratios, and its order-statistic interval."""
    return ComparisonRow(
        metric=metric,
        prompt_tokens=prompt_tokens,
        ratios=tuple(ratios),
        ratio_p50=median(ratios),
        ratio_interval=interval_of_median(ratios),
    )


def round_ratio(new: Sequence[float], old: Sequence[float]) -> float:
    """Return the time of the new one over that of the old one in one round, each asked twice."""
    return sum(new) / sum(old)


def side(interval: Interval, allowed_fraction: float) -> Side | None:
    """Return on which side of the allowed slowdown an interval of ratios lies, None where it lies on both."""
    limit = 1 + allowed_fraction
    if interval.high is not None and interval.high <= limit:
        return "within"
    if interval.low is not None and interval.low > limit:
        return "beyond"
    return None


def compare_in_turn(
    ask_new: Ask, ask_old: Ask, blocks: Sequence[Block], numbers: Iterable[int], tell: Callable[[int], None]
) -> dict[tuple[Metric, Block], list[float]]:
    """Ask both in turn, round after round, and return the ratios of the rounds.

    Args:
        ask_new: Times a block of the new one; the number tells the prompts, which are the same for both.
        ask_old: So for the old one.
        blocks: What a round asks.
        numbers: Of the rounds.
        tell: Told the number of each round that begins.
    """
    ratios: dict[tuple[Metric, Block], list[float]] = {
        (metric, block): [] for block in blocks for metric in block.metrics
    }
    for number in numbers:
        tell(number)
        for block in blocks:
            # The first of a round was often the slower one; so each is first as often as the other.
            first, second = (ask_new, ask_old) if number % 2 else (ask_old, ask_new)
            outer, inner = [first(block, number)], [second(block, number), second(block, number)]
            outer.append(first(block, number))
            new, old = (outer, inner) if number % 2 else (inner, outer)
            for metric in block.metrics:
                ratio = round_ratio([times.of(metric) for times in new], [times.of(metric) for times in old])
                ratios[metric, block].append(ratio)
    return ratios


def _rounds(
    pair: Pair, blocks: Sequence[Block], rounds: int | None, stop: Stop, progress: Progress
) -> dict[tuple[Metric, Block], list[float]]:
    """Go through the rounds until they are over or decide; return their ratios."""
    most = rounds or ROUNDS_MAX
    ratios: dict[tuple[Metric, Block], list[float]] = {
        (metric, block): [] for block in blocks for metric in block.metrics
    }
    before: list[Side | None] = []
    done, ends = 0, math.inf if rounds else time.monotonic() + stop.seconds_max
    while done < most:
        numbers = range(done, min(done + ROUNDS_OPEN, most))
        with pair.opened() as (ask_new, ask_old):
            found = compare_in_turn(
                ask_new,
                ask_old,
                blocks,
                _in_time(numbers, ends),
                lambda number: progress("comparing, rounds", number, most),
            )
        for key, values in found.items():
            ratios[key] += values
        done += len(next(iter(found.values())))
        sides = [side(interval_of_median(values), stop.allowed_fraction) for values in ratios.values()]
        twice = [now if now == then else None for now, then in zip(sides, before or [None] * len(sides), strict=True)]
        decided = None not in twice or "beyond" in twice
        if rounds is None and (decided or time.monotonic() > ends):
            break
        before = sides
    progress("comparing, rounds", most, most)
    return ratios


def _in_time(numbers: Sequence[int], ends: float) -> Iterator[int]:
    """The numbers of rounds that begin before the time is over, the first of all in any case."""
    for number in numbers:
        if number and time.monotonic() > ends:
            return
        yield number


class Pair:
    """Two variants that are opened together, or in turn where the memory is too small for both."""

    def __init__(self, new: Path, old: Path, threads: int) -> None:
        self.new, self.old, self.threads = new, old, threads
        self.provider = provider_of(new)
        needed = _MEMORY_FACTOR * sum(_bytes(folder) for folder in (new, old))
        self.together = psutil.virtual_memory().available > needed

    @contextlib.contextmanager
    def opened(self) -> Iterator[tuple[Ask, Ask]]:
        """Open both, and give what asks each."""
        if not self.together:
            yield self._anew(self.new), self._anew(self.old)
            return
        with _server(self.new, self.threads) as ask_new, _server(self.old, self.threads) as ask_old:
            yield ask_new, ask_old

    def notes(self) -> tuple[str, ...]:
        """Say how they were asked."""
        held = "both held open and asked in turn" if self.together else "opened in turn: both do not fit the memory"
        return (
            f"interleaved, {held}; each round asks new, old, old, new, or old, new, new, old",
            f"decoding: the median of {DECODE_TOKENS} tokens; first token: the lower quartile of {BLOCK_SECONDS:g} s",
            "prompts are random token ids, the same for both",
            f"the processes are started anew every {ROUNDS_OPEN} rounds",
        )

    def _anew(self, folder: Path) -> Ask:
        def ask(block: Block, number: int) -> Times:
            with _server(folder, self.threads) as ask_it:
                return ask_it(block, number)

        return ask


@contextlib.contextmanager
def _server(variant: Path, threads: int) -> Iterator[Ask]:
    """Hold a variant open in a process of its own; give what times its blocks."""
    with tempfile.TemporaryDirectory(prefix="phiforge-compare-") as name:
        request, said = Path(name) / "request.json", Path(name) / "stderr.txt"
        request.write_text(json.dumps(opened(variant, threads, {})), encoding="utf-8", newline="\n")
        with said.open("wb") as errors_to:
            process = subprocess.Popen(
                command("phiforge.runtime.bench_server", str(request)),
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors_to, env=environment(),
                encoding="utf-8",
            )  # fmt: skip
            try:
                _hear(process, variant, said)

                def ask(block: Block, number: int) -> Times:
                    return _ask(process, variant, said, block, number)

                ask(Block(PROMPT_TOKENS[0], DECODE_TOKENS, 0.0), 0)  # to warm up
                yield ask
            finally:
                end(process)
                for stream in (process.stdin, process.stdout):
                    with contextlib.suppress(BrokenPipeError):
                        if stream is not None:
                            stream.close()


def _ask(process: subprocess.Popen[str], variant: Path, said: Path, block: Block, number: int) -> Times:
    question = {
        "prompt_tokens": block.prompt_tokens, "decode_tokens": block.decode_tokens, "seconds": block.seconds,
        "seed": number, "whole": False,
    }  # fmt: skip
    assert process.stdin is not None
    with contextlib.suppress(BrokenPipeError):  # its end is seen where its answer fails to come
        process.stdin.write(json.dumps(question) + "\n")
        process.stdin.flush()
    found = _hear(process, variant, said)
    return Times(ttft_ms=float(np.percentile(found["ttft_ms"], 25)), decode_ms=median(found["decode_ms"]))


def _hear(process: subprocess.Popen[str], variant: Path, said: Path) -> dict[str, Any]:
    assert process.stdout is not None
    with ended_if_stalled(process) as stall:
        line = process.stdout.readline()
    if not line:
        process.wait()
        raise failed(variant, stall.why or last_words(said) or f"its process ended with {process.returncode}")
    found: dict[str, Any] = json.loads(line)
    return found


def _bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
