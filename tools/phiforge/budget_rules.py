"""What each budget is read from, and how sure the number is. Pure."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING, TypeAlias

from phiforge.evidence import (
    Agreement,
    AnyEvidence,
    Drift,
    Estimate,
    Interval,
    Kind,
    Latency,
    LatencyRow,
    Tasks,
    TaskScore,
)
from phiforge.intervals import (
    FEWEST_GROUPS,
    UNKNOWN,
    effective_share,
    fewest_values,
    interval_of_clustered_proportion,
    interval_of_mean,
    interval_of_median,
    interval_of_recovery,
    samples_needed,
)

if TYPE_CHECKING:
    from phiforge.quantities import Unit

_P99_VALUES = fewest_values(0.99, upper=True)
_MEDIAN_VALUES = fewest_values(0.5, upper=True)


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How sure a number is that comes from samples.

    Attributes:
        interval: Of the number; an end is None where the samples are too few for it.
        count: How many samples; what they are, the rule says.
        fewest: With how many there is an interval at all, as far as that is known.
        at: The interval that so many samples would give if they were like these.
    """

    interval: Interval
    count: int
    fewest: int
    at: Callable[[int], Interval]


@dataclass(frozen=True)
class Reading:
    """One number that a budget can be judged on.

    Attributes:
        value: The number, or None where the evidence cannot show one; `absent` then says why.
        kind: How it was come by; None for a fact of the files themselves.
        where: What tells it from other readings of the same budget, as " at a prompt of 512 tokens".
        absent: Why there is no number.
        sampling: How sure a number from samples is; None where the evidence does not say, or no samples are drawn.
        tokens: Of the prompt and decoded after it, where the number is of one prompt length.
        once: Whether it was seen a single time by its nature, so that it needs no bound though the rule has samples.
    """

    value: float | None
    kind: Kind | None
    where: str = ""
    absent: str = ""
    sampling: Sampling | None = None
    tokens: tuple[int, int] | None = None
    once: bool = False


Reader: TypeAlias = Callable[[AnyEvidence], tuple[Reading, ...]]


@dataclass(frozen=True)
class Rule:
    """How one budget is judged.

    Attributes:
        title: What is limited, in words; begins a sentence.
        unit: The unit of limit and value.
        needs: The sort of evidence it is read from; None for a fact of the files.
        read: Returns the readings one piece of evidence holds, none if it is of another sort.
        samples: What the number is estimated from, in the plural, so that its confidence bound is judged; "" where it
            is no estimate: a size, a maximum that was seen, a difference between two computations of the same tokens.
        by_prompt: Whether it must be known at every prompt length that the profile measures.
    """

    title: str
    unit: Unit
    needs: str | None
    read: Reader
    samples: str = ""
    by_prompt: bool = False

    @property
    def measured_only(self) -> bool:
        """Whether only `measured` evidence counts, as for all time and memory."""
        return self.needs == "latency"


def kl_mean_sampling(drift: Drift) -> Sampling:
    """Of the mean KL divergence."""
    return _mean_sampling(drift.kl_nats, drift.blocks)


def _mean_sampling(estimate: Estimate, blocks: int, change: Callable[[float], float] = float) -> Sampling:
    """Of a mean over blocks of text, or of a rising function of one."""

    def at(count: int) -> Interval:
        return _through(change, interval_of_mean(_with_blocks(estimate, blocks, count), count))

    return _block_sampling(blocks, at)


def top1_sampling(drift: Drift) -> Sampling:
    """Of the top-1 agreement, a share of the positions."""
    estimate, blocks = drift.top1_agreement_fraction, drift.blocks

    def at(count: int) -> Interval:
        return interval_of_clustered_proportion(
            _with_blocks(estimate, blocks, count), groups=count, count=round(drift.positions * count / blocks)
        )

    return _block_sampling(blocks, at)


def _with_blocks(estimate: Estimate, blocks: int, count: int) -> Estimate:
    """A mean over another number of blocks that are like these."""
    return Estimate(mean=estimate.mean, standard_error=estimate.standard_error * math.sqrt(blocks / count))


def _block_sampling(blocks: int, at: Callable[[int], Interval]) -> Sampling:
    return Sampling(interval=_of_enough(blocks, at), count=blocks, fewest=FEWEST_GROUPS, at=at)


def _of_enough(blocks: int, at: Callable[[int], Interval]) -> Interval:
    """What these blocks give, if they are enough to decide by."""
    return at(blocks) if blocks >= FEWEST_GROUPS else UNKNOWN


def _rooted_sampling(value: float, interval: Interval, *, count: int, fewest: int) -> Sampling:
    """Of a number whose interval is known as such: with more samples it shrinks with the root of their number."""

    def at(wanted: int) -> Interval:
        shrink = math.sqrt(count / wanted)
        return _through(lambda end: value + (end - value) * shrink, interval)

    return Sampling(interval=interval, count=count, fewest=fewest, at=at)


def _through(change: Callable[[float], float], interval: Interval) -> Interval:
    low, high = (None if end is None else change(end) for end in (interval.low, interval.high))
    return Interval(low=low, high=high)


def _exp(value: float) -> float:
    return math.exp(value) if value < 700 else math.inf


def _drift(read: Callable[[Drift], float], sampling: Callable[[Drift], Sampling | None]) -> Reader:
    def reader(evidence: AnyEvidence) -> tuple[Reading, ...]:
        if not isinstance(evidence, Drift):
            return ()
        if evidence.positions < 1:
            return (Reading(None, evidence.kind, absent="the drift evidence covers no position"),)
        return (Reading(read(evidence), evidence.kind, sampling=sampling(evidence)),)

    return reader


def kl_p99_sampling(drift: Drift) -> Sampling | None:
    """Of the 99th percentile of the KL divergence; None where the evidence does not say how sure it is."""
    interval = drift.kl_p99_interval_nats
    if interval is None:
        return None
    return _rooted_sampling(
        drift.kl_percentiles_nats.p99,
        _of_enough(drift.blocks, lambda _: interval),
        count=drift.blocks,
        fewest=max(FEWEST_GROUPS, _p99_blocks(drift)),
    )


def _p99_blocks(drift: Drift) -> int:
    """How many blocks, more than there are, a bound of a p99 needs if the positions of a block are independent."""
    each, blocks = drift.positions / max(drift.blocks, 1), drift.blocks
    return samples_needed(blocks, lambda count: count > blocks and _counting(count, each) >= _P99_VALUES) or 0


def _counting(blocks: int, each: float) -> float:
    return blocks * each * effective_share(blocks) if blocks > 1 else 0.0


def _recovery(evidence: AnyEvidence) -> tuple[Reading, ...]:
    if not isinstance(evidence, Tasks):
        return ()
    overall = evidence.overall
    if overall.reference_correct < 1:
        absent = f"the reference answers none of {overall.questions:,} questions correctly, so there is nothing to keep"
        return (Reading(None, evidence.kind, absent=absent),)
    return (Reading(overall.recovery_fraction, evidence.kind, sampling=_recovery_sampling(overall)),)


def _recovery_sampling(score: TaskScore) -> Sampling | None:
    def at(count: int) -> Interval:
        share = count / score.questions
        return interval_of_recovery(
            reference_correct=score.reference_correct * share,
            to_right=score.flips_to_right * share,
            to_wrong=score.flips_to_wrong * share,
            count=count,
        )

    if score.recovery_interval_fraction is None:
        return None
    return Sampling(interval=score.recovery_interval_fraction, count=score.questions, fewest=1, at=at)


def _against_cpu(what: str) -> Reader:
    """Readings of a comparison of `what` with the CPU, in prefill and in decode."""

    def reader(evidence: AnyEvidence) -> tuple[Reading, ...]:
        if not isinstance(evidence, Agreement) or not evidence.comparison.startswith(f"{what}-"):
            return ()
        where = f" in {evidence.comparison.removeprefix(f'{what}-')}"
        if evidence.positions < 1 or evidence.relative_logit_error is None:
            lacks = "covers no position" if evidence.positions < 1 else "holds no error of the logits"
            return (Reading(None, evidence.kind, where, absent=f"the agreement evidence{where} {lacks}"),)
        return (Reading(evidence.relative_logit_error, evidence.kind, where),)

    return reader


def _float16(evidence: AnyEvidence) -> tuple[Reading, ...]:
    if not isinstance(evidence, Agreement) or evidence.comparison != "float32":
        return ()
    if evidence.positions < 1 or evidence.relative_spread_error is None:
        return (Reading(None, evidence.kind, absent="the agreement evidence against float32 holds no error"),)
    return (Reading(evidence.relative_spread_error, evidence.kind),)


def _latency(read: Callable[[Latency], float]) -> Reader:
    def reader(evidence: AnyEvidence) -> tuple[Reading, ...]:
        return (Reading(read(evidence), evidence.kind),) if isinstance(evidence, Latency) else ()

    return reader


def _loads(evidence: AnyEvidence) -> tuple[Reading, ...]:
    """The load in a new process, of which there is one, and those repeated after it; each must keep the limit."""
    if not isinstance(evidence, Latency):
        return ()
    again = evidence.load_warm_ms
    if not again:
        return (Reading(evidence.load_ms, evidence.kind),)
    middle = median(again)
    return (
        Reading(evidence.load_ms, evidence.kind, " in a new process", once=True),
        Reading(middle, evidence.kind, " in the median of the loads after it", sampling=_repeats(middle, again)),
    )


def _rows(read: Callable[[LatencyRow], float], sampling: Callable[[LatencyRow], Sampling | None]) -> Reader:
    def reader(evidence: AnyEvidence) -> tuple[Reading, ...]:
        if not isinstance(evidence, Latency):
            return ()
        if not evidence.rows:
            return (Reading(None, evidence.kind, absent="the latency evidence has no rows"),)
        return tuple(
            Reading(
                read(row),
                evidence.kind,
                f" at a prompt of {row.prompt_tokens:,} tokens",
                sampling=sampling(row),
                tokens=(row.prompt_tokens, row.decode_tokens),
            )
            for row in evidence.rows
        )

    return reader


def _repeats(value: float, values: Sequence[float]) -> Sampling | None:
    """Of the median of some repeats; None where single repeats are not in the evidence."""
    if not values:
        return None
    return _rooted_sampling(value, interval_of_median(values), count=len(values), fewest=_MEDIAN_VALUES)


def _first_token(row: LatencyRow) -> Sampling | None:
    return _repeats(row.ttft_p50_ms, row.ttft_ms)


def _prefill(row: LatencyRow) -> Sampling | None:
    speeds = [row.prompt_tokens * 1e3 / time if time > 0 else math.inf for time in row.ttft_ms]
    return _repeats(row.prefill_tokens_per_s_p50, speeds)


def _decode(row: LatencyRow) -> Sampling | None:
    return _repeats(row.decode_tokens_per_s_p50, row.decode_tokens_per_s)


def _inter_token(row: LatencyRow) -> Sampling | None:
    if row.inter_token_p99_interval_ms is None:
        return None
    return _rooted_sampling(
        row.inter_token_p99_ms,
        row.inter_token_p99_interval_ms,
        count=row.repeats * row.decode_tokens,
        fewest=_P99_VALUES,
    )


def _nothing(_: AnyEvidence) -> tuple[Reading, ...]:
    return ()


_BLOCKS, _QUESTIONS, _REPEATS, _TOKENS, _LOADS = "blocks of text", "questions", "repeats", "tokens", "loads"

RULES: dict[str, Rule] = {
    "kl_mean_nats_max": Rule(
        "Mean KL divergence",
        "nats",
        "drift",
        _drift(lambda d: d.kl_nats.mean, kl_mean_sampling),
        _BLOCKS,
    ),
    "kl_p99_nats_max": Rule(
        "KL divergence at p99", "nats", "drift", _drift(lambda d: d.kl_percentiles_nats.p99, kl_p99_sampling), _BLOCKS
    ),
    "top1_agreement_fraction_min": Rule(
        "Top-1 agreement",
        "fraction",
        "drift",
        _drift(lambda d: d.top1_agreement_fraction.mean, top1_sampling),
        _BLOCKS,
    ),
    "perplexity_ratio_max": Rule(
        "Perplexity ratio",
        "ratio",
        "drift",
        _drift(lambda d: d.perplexity_ratio, lambda d: _mean_sampling(d.perplexity_log_ratio_nats, d.blocks, _exp)),
        _BLOCKS,
    ),
    "answer_recovery_fraction_min": Rule("Answer recovery", "fraction", "tasks", _recovery, _QUESTIONS),
    "emulator_relative_error_max": Rule(
        "Relative logit error of the emulator", "fraction", "agreement", _against_cpu("emulator")
    ),
    "provider_relative_error_max": Rule(
        "Relative logit error of the provider", "fraction", "agreement", _against_cpu("provider")
    ),
    "float16_relative_error_max": Rule("Relative logit error of float16", "fraction", "agreement", _float16),
    "variant_bytes_max": Rule("Variant size", "bytes", None, _nothing),
    "load_ms_max": Rule("Load time", "ms", "latency", _loads, _LOADS),
    "ttft_p50_ms_max": Rule(
        "Time to first token (p50)",
        "ms",
        "latency",
        _rows(lambda r: r.ttft_p50_ms, _first_token),
        _REPEATS,
        by_prompt=True,
    ),
    "prefill_tokens_per_s_min": Rule(
        "Prefill speed (p50)",
        "tokens/s",
        "latency",
        _rows(lambda r: r.prefill_tokens_per_s_p50, _prefill),
        _REPEATS,
        by_prompt=True,
    ),
    "decode_tokens_per_s_min": Rule(
        "Decode speed (p50)",
        "tokens/s",
        "latency",
        _rows(lambda r: r.decode_tokens_per_s_p50, _decode),
        _REPEATS,
        by_prompt=True,
    ),
    "inter_token_p99_ms_max": Rule(
        "Time between tokens (p99)",
        "ms",
        "latency",
        _rows(lambda r: r.inter_token_p99_ms, _inter_token),
        _TOKENS,
        by_prompt=True,
    ),
    "peak_anon_bytes_max": Rule("Peak anonymous memory", "bytes", "latency", _latency(lambda e: e.peak_anon_bytes)),
}
