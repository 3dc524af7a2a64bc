"""Predict a variant's speed and memory on a device by a roofline, and fit a roofline to measurements. Pure.

A run takes the longer of two times: what it moves over the memory's bandwidth, and what it computes over the compute
rate, each rate times an efficiency that was fitted to measurements; plus a time for each node (Williams, Waterman,
Patterson: Roofline, CACM 52(4), 2009; the time for each node is ours).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from phiforge import errors
from phiforge.evidence import MemoryNeed, PredictedRow
from phiforge.evidence_file import lasting
from phiforge.quantities import quantity

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import NDArray

    from phiforge.costs import Costs
    from phiforge.evidence import Conditions, Latency, Prediction

SHORTEST_PROMPT_TOKENS = 64
# Models whose bytes per token differ by so much tell the time for each node and the bandwidth apart.
SEPARATING_RATIO = 4.0
# Times, and two rates to fit to them; with fewer there would be nothing left to tell the error from.
LEAST_TIMES = 4
# A machine that reaches its rates exactly may seem to exceed them by so much.
ROUNDING = 1e-6


@dataclass(frozen=True, kw_only=True)
class Roof:
    """A device's rates, and what share of them is reached; `node_overhead_us` is the time for each node of a graph."""

    bandwidth_bytes_per_s: float
    operations_per_s: float
    bandwidth_efficiency_fraction: float
    compute_efficiency_fraction: float
    node_overhead_us: float = 0.0

    def run_ms(self, *, moved_bytes: int, operations: int, nodes: int) -> float:
        """Milliseconds of a run."""
        moving = moved_bytes / (self.bandwidth_bytes_per_s * self.bandwidth_efficiency_fraction)
        computing = operations / (self.operations_per_s * self.compute_efficiency_fraction)
        return 1e3 * max(moving, computing) + 1e-3 * nodes * self.node_overhead_us

    def of_run(self, run: TimedRun) -> float:
        """Milliseconds that a measured run should have taken."""
        return self.run_ms(moved_bytes=run.moved_bytes, operations=run.operations, nodes=run.nodes)


@dataclass(frozen=True, kw_only=True)
class PredictionError:
    """A predicted number beside the measured one; the error is (predicted - measured) / measured."""

    metric: Literal["ttft_ms", "decode_tokens_per_s"]
    prompt_tokens: int
    predicted: float
    measured: float
    error_fraction: float


@dataclass(frozen=True, kw_only=True)
class Held:
    """A prediction beside a measurement of the same variant, at the prompt lengths that both have.

    Only where it was made with the rates of the machine that measured (`of_machine`) are these errors of the
    prediction; otherwise they are differences between two machines too.
    """

    processor: str
    threads: int
    of_machine: bool
    errors: tuple[PredictionError, ...]

    @property
    def said(self) -> str:
        """What the errors are of, as a sentence."""
        measured = f"{self.processor}, {self.threads} thread{'' if self.threads == 1 else 's'}"
        if self.of_machine:
            return f"Predicted with the rates of the machine that measured: {measured}."
        return (
            f"Measured on another machine than the one predicted for: {measured}, whose rates are not known here. So "
            "the differences are between two machines, and no errors of the prediction."
        )


@dataclass(frozen=True, kw_only=True)
class TimedRun:
    """One measured run, and what it moved and computed."""

    moved_bytes: int
    operations: int
    nodes: int
    ms: float


@dataclass(frozen=True, kw_only=True)
class Fit:
    """Efficiencies fitted to runs; the error is the root of the mean square of the relative errors of their times."""

    roof: Roof
    runs: int
    error_fraction: float


def prompt_ms(costs: Costs, roof: Roof, tokens: int) -> float:
    """Predict the time to the first token of a prompt, in milliseconds."""
    return roof.run_ms(
        moved_bytes=costs.prompt_bytes(tokens),
        operations=costs.prompt_operations(tokens),
        nodes=costs.runs(tokens) * costs.nodes,
    )


def token_ms(costs: Costs, roof: Roof, context: int) -> float:
    """Predict the time of one token after `context` others, in milliseconds."""
    return roof.run_ms(
        moved_bytes=costs.token_bytes(context), operations=costs.token_operations(context), nodes=costs.nodes
    )


def predicted_rows(costs: Costs, roof: Roof, lengths: Sequence[int], *, decode_tokens: int) -> tuple[PredictedRow, ...]:
    """Predict each prompt length; decoding is at the middle of the `decode_tokens` that follow the prompt."""
    return tuple(
        PredictedRow(
            prompt_tokens=length,
            ttft_ms=prompt_ms(costs, roof, length),
            decode_tokens_per_s=1e3 / token_ms(costs, roof, length + decode_tokens // 2),
        )
        for length in lengths
    )


def predicted_lengths(context_tokens: int, decode_tokens: int, wanted: Iterable[int] = ()) -> tuple[int, ...]:
    """Return the prompt lengths to predict: those wanted, 64 and its doubles, and the longest that the context holds.

    Args:
        context_tokens: Tokens of prompt and answer together.
        decode_tokens: Tokens of the answer.
        wanted: Lengths to predict besides, such as those that a profile measures; too long ones are left out.
    """
    longest = context_tokens - decode_tokens - 1
    doubles = {SHORTEST_PROMPT_TOKENS << n for n in range(32)}
    return tuple(sorted(length for length in {longest, *doubles, *wanted} if 0 < length <= longest))


def memory_need(costs: Costs, context_tokens: int) -> MemoryNeed:
    """Return what a variant holds in memory with a full context; the runtime's own memory is not in it."""
    cache = costs.kv_cache_bytes * context_tokens
    workspace = costs.workspace_bytes(context_tokens)
    return MemoryNeed(
        context_tokens=context_tokens,
        weights_bytes=costs.stored_bytes,
        kv_cache_bytes_per_token=costs.kv_cache_bytes,
        kv_cache_bytes=cache,
        workspace_bytes=workspace,
        total_bytes=costs.stored_bytes + cache + workspace,
    )


def largest_context(costs: Costs, available_bytes: int, limit_tokens: int) -> int:
    """Return the most tokens of context that fit, at most `limit_tokens`; 0 if none does."""
    low, high = 0, limit_tokens
    while low < high:
        middle = (low + high + 1) // 2
        fits = memory_need(costs, middle).total_bytes <= available_bytes
        low, high = (middle, high) if fits else (low, middle - 1)
    return low


def hold(prediction: Prediction, latency: Latency) -> Held | None:
    """Hold a prediction against a measurement.

    Args:
        prediction: For a profile, or for a machine that measured as that profile says.
        latency: Measured as that profile says.

    Returns:
        For each common prompt length, in order, the error of the TTFT's median and of the decode speed's; None if the
        variants are not the same one or no prompt length is.
    """
    if prediction.variant_sha256 != latency.variant_sha256:
        return None
    measured = {row.prompt_tokens: row for row in latency.rows}
    found = []
    for row in prediction.rows:
        beside = measured.get(row.prompt_tokens)
        if beside is not None:
            found.append(_error("ttft_ms", row.prompt_tokens, row.ttft_ms, beside.ttft_p50_ms))
            speeds = row.decode_tokens_per_s, beside.decode_tokens_per_s_p50
            found.append(_error("decode_tokens_per_s", row.prompt_tokens, *speeds))
    there = latency.conditions
    if not found:
        return None
    return Held(
        processor=there.machine.processor,
        threads=there.threads,
        of_machine=_ran_on(prediction.conditions) == _ran_on(there),
        errors=tuple(found),
    )


def efficiency_told(prediction: Prediction) -> str:
    """Return where the efficiencies are from and what their error covers, in one sentence."""
    error = prediction.efficiency_error_fraction
    if error is None:
        return f"{prediction.efficiency_source}; how far off they are on this device is not known."
    return (
        f"{prediction.efficiency_source}; off by {quantity(error, 'fraction', 2)} in the root of the mean square of "
        "those fitted times alone, which says nothing of others."
    )


def _ran_on(conditions: Conditions) -> tuple[object, ...]:
    return lasting(conditions.machine), conditions.provider, conditions.threads


def timed_runs(costs: Costs, latency: Latency) -> tuple[TimedRun, ...]:
    """Return what a measurement says of single runs: of each prompt length the median TTFT and time of a token."""
    found = []
    for row in latency.rows:
        found.append(prompt_run(costs, row.prompt_tokens, row.ttft_p50_ms))
        found.append(token_run(costs, row.prompt_tokens + row.decode_tokens // 2, 1e3 / row.decode_tokens_per_s_p50))
    return tuple(found)


def prompt_run(costs: Costs, tokens: int, ms: float) -> TimedRun:
    """Return a measured time to the first token of a prompt, with what it moves and computes."""
    return TimedRun(
        moved_bytes=costs.prompt_bytes(tokens),
        operations=costs.prompt_operations(tokens),
        nodes=costs.runs(tokens) * costs.nodes,
        ms=ms,
    )


def token_run(costs: Costs, context: int, ms: float) -> TimedRun:
    """Return a measured time of one token after `context` others, with what it moves and computes."""
    return TimedRun(
        moved_bytes=costs.token_bytes(context), operations=costs.token_operations(context), nodes=costs.nodes, ms=ms
    )


def fit_roof(runs: Sequence[TimedRun], *, bandwidth_bytes_per_s: float, operations_per_s: float) -> Fit:
    """Fit the efficiencies, and the time for each node, to measured runs by least squares of the relative errors.

    The time for each node is fitted only where the runs tell it from the bandwidth: those of models whose bytes per
    token differ much. Otherwise it is 0.

    Args:
        runs: Of one machine.
        bandwidth_bytes_per_s: The machine's memory bandwidth.
        operations_per_s: The machine's compute rate.

    Raises:
        EvidenceInvalidError: There are too few runs, all are bound by the same limit, or they are faster than the
            rates allow.
    """
    if len(runs) < LEAST_TIMES:
        raise _unfit(f"There are {len(runs)} times, and a fit needs {LEAST_TIMES}.")
    moved = np.array([run.moved_bytes / bandwidth_bytes_per_s for run in runs])
    computed = np.array([run.operations / operations_per_s for run in runs])
    nodes = np.array([run.nodes for run in runs], dtype=np.float64)
    seconds = np.array([run.ms for run in runs]) / 1e3
    separate = bool(moved.max() / moved.min() >= SEPARATING_RATIO)
    solved = _solve(moved, computed, nodes if separate else np.zeros_like(nodes), seconds)
    if (solved[:2] < 1 - ROUNDING).any():
        raise _unfit("The machine was faster than the rates given: a rate is too low, or the model fits its cache.")
    roof = Roof(
        bandwidth_bytes_per_s=bandwidth_bytes_per_s,
        operations_per_s=operations_per_s,
        bandwidth_efficiency_fraction=min(1.0, float(1 / solved[0])),
        compute_efficiency_fraction=min(1.0, float(1 / solved[1])),
        node_overhead_us=float(solved[2] * 1e6),
    )
    told = [roof.of_run(run) / run.ms - 1 for run in runs]
    return Fit(roof=roof, runs=len(runs), error_fraction=float(np.sqrt(np.mean(np.square(told)))))


def _solve(
    moved: NDArray[np.float64], computed: NDArray[np.float64], nodes: NDArray[np.float64], seconds: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return the factors of the times at full bandwidth and compute, and the seconds of a node.

    Runs that compute more for each byte than some run are bound by compute, and those that compute less by bandwidth:
    every place of that border is tried, and the one with the least error is taken.
    """
    order = np.argsort(computed / moved)
    best: tuple[float, NDArray[np.float64]] | None = None
    for border in range(1, len(order)):
        bound = np.zeros(len(order), dtype=bool)
        bound[order[border:]] = True
        columns = np.stack([np.where(bound, 0, moved), np.where(bound, computed, 0), nodes], axis=1)
        factors = _least_squares(columns / seconds[:, None])
        if (factors[:2] > 0).all():
            told = np.maximum(moved * factors[0], computed * factors[1]) + nodes * factors[2]
            error = float(np.sum(np.square(told / seconds - 1)))
            if best is None or error < best[0]:
                best = error, factors
    if best is None or _is_bound_alike(moved, computed, best[1]):
        raise _unfit("All runs are bound by the same limit, so nothing tells the other: give short and long prompts.")
    return best[1]


def _is_bound_alike(moved: NDArray[np.float64], computed: NDArray[np.float64], factors: NDArray[np.float64]) -> bool:
    bound = computed * factors[1] > moved * factors[0]
    return bool(bound.all() or not bound.any())


def _least_squares(columns: NDArray[np.float64]) -> NDArray[np.float64]:
    """Solve columns @ x = 1; the last factor is left out where it has no column or would be negative."""
    ones = np.ones(len(columns))
    if columns[:, 2].any():
        solved = np.linalg.lstsq(columns, ones)[0]
        if solved[2] >= 0:
            return np.asarray(solved)
    return np.append(np.linalg.lstsq(columns[:, :2], ones)[0], 0.0)


def _error(
    metric: Literal["ttft_ms", "decode_tokens_per_s"], length: int, predicted: float, measured: float
) -> PredictionError:
    return PredictionError(
        metric=metric,
        prompt_tokens=length,
        predicted=predicted,
        measured=measured,
        error_fraction=predicted / measured - 1,
    )


def _unfit(why: str) -> errors.EvidenceInvalidError:
    return errors.EvidenceInvalidError(
        "The efficiencies cannot be fitted to this evidence.",
        why=why,
        fix="Give latency of one machine with short and long prompts, best of several models; measure it with "
        "`phiforge bench`.",
    )
