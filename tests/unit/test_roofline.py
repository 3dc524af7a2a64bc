from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from phiforge import errors
from phiforge.costs import ARENA_FACTOR, Activations, Costs
from phiforge.evidence import Conditions, Kind, Latency, LatencyRow, Machine, MemoryNeed, PredictedRow, Prediction
from phiforge.roofline import (
    Roof,
    TimedRun,
    efficiency_told,
    fit_roof,
    hold,
    largest_context,
    memory_need,
    predicted_lengths,
    predicted_rows,
    prompt_ms,
    timed_runs,
    token_ms,
)

COSTS = Costs(
    stored_bytes=2_400_000_000,
    weight_bytes=2_000_000_000,
    weight_operations=6_400_000_000,
    head_operations=1_200_000_000,
    head_every_position=False,
    pair_operations=400_000,
    kv_cache_bytes=262_144,
    activations=(
        Activations(bytes_per_token=140_000, bytes_besides=0),
        Activations(bytes_per_token=0, bytes_besides=9),
    ),
    nodes=372,
)
SMALL = replace(COSTS, weight_bytes=2_000_000, weight_operations=9_000_000, head_operations=500_000, nodes=86)
ROOF = Roof(
    bandwidth_bytes_per_s=50e9,
    operations_per_s=1e12,
    bandwidth_efficiency_fraction=0.5,
    compute_efficiency_fraction=0.25,
    node_overhead_us=2.0,
)
MACHINE = Machine(
    processor="made up", architecture="x86_64", process_architecture="x86_64", logical_cores=2, physical_cores=2,
    memory_bytes=1 << 34, system="Linux",
)  # fmt: skip
CONDITIONS = Conditions(machine=MACHINE, provider="cpu", threads=2, versions={})


def latency(times: dict[int, tuple[float, float]], sha: str = "v", decode_tokens: int = 64) -> Latency:
    """Measured latency: for each prompt length the TTFT and the decode speed."""
    rows = tuple(
        LatencyRow(
            prompt_tokens=length, decode_tokens=decode_tokens, repeats=5, ttft_p50_ms=ttft, ttft_p95_ms=ttft,
            prefill_tokens_per_s_p50=length * 1e3 / ttft, decode_tokens_per_s_p50=speed,
            decode_tokens_per_s_p95=speed, inter_token_p50_ms=1e3 / speed, inter_token_p99_ms=1e3 / speed,
        )
        for length, (ttft, speed) in times.items()
    )  # fmt: skip
    return Latency(
        kind=Kind.MEASURED, conditions=CONDITIONS, variant_sha256=sha, warmups=1, load_ms=1.0, rows=rows,
        peak_anon_bytes=1, peak_rss_bytes=1, memory=(),
    )  # fmt: skip


def prediction(rows: tuple[PredictedRow, ...], sha: str = "v") -> Prediction:
    need = MemoryNeed(
        context_tokens=1, weights_bytes=1, kv_cache_bytes_per_token=1, kv_cache_bytes=1, workspace_bytes=1,
        total_bytes=3,
    )  # fmt: skip
    return Prediction(
        kind=Kind.PREDICTED, conditions=CONDITIONS, variant_sha256=sha, profile="p", bandwidth_bytes_per_s=1.0,
        operations_per_s=1.0, bandwidth_efficiency_fraction=1.0, compute_efficiency_fraction=1.0,
        efficiency_source="made up", rows=rows, memory=need,
    )  # fmt: skip


def test_a_run_takes_the_longer_of_moving_and_computing_and_a_time_for_each_node() -> None:
    moving = ROOF.run_ms(moved_bytes=25_000_000_000, operations=1, nodes=0)
    computing = ROOF.run_ms(moved_bytes=1, operations=500_000_000_000, nodes=0)
    both = ROOF.run_ms(moved_bytes=25_000_000_000, operations=500_000_000_000, nodes=1000)
    assert moving == pytest.approx(1000)
    assert computing == pytest.approx(2000)
    assert both == pytest.approx(2002)


def test_a_token_is_bound_by_bandwidth_and_a_long_prompt_by_compute() -> None:
    """By hand: 2.0 GB and 1,001 tokens of cache at 25 GB/s; 1,000 tokens at 250 GFLOP/s."""
    assert token_ms(COSTS, ROOF, 1000) == pytest.approx((2e9 + 1001 * 262_144) / 25e9 * 1e3 + 372 * 2e-3)
    operations = 1000 * 6.4e9 + 1.2e9 + 1000 * 1001 / 2 * 4e5
    assert prompt_ms(COSTS, ROOF, 1000) == pytest.approx(operations / 250e9 * 1e3 + 372 * 2e-3)


@given(st.integers(1, 300), st.booleans())
def test_a_prompt_costs_what_its_tokens_cost_one_by_one(tokens: int, every: bool) -> None:
    costs = replace(COSTS, head_every_position=every)
    heads = tokens if every else 1
    alone = sum(costs.token_operations(context) - costs.head_operations for context in range(tokens))
    assert costs.prompt_operations(tokens) == alone + heads * costs.head_operations


def test_graphs_of_fixed_shape_read_the_weights_for_every_window() -> None:
    windows = replace(COSTS, window_tokens=64)
    assert windows.prompt_bytes(65) == 2 * COSTS.weight_bytes + 65 * COSTS.kv_cache_bytes
    assert windows.prompt_operations(65) == windows.prompt_operations(128)
    assert windows.workspace_bytes(4096) == round(ARENA_FACTOR * 64 * 140_000)


@given(st.floats(0.05, 1), st.floats(0.05, 1), st.floats(0, 20))
def test_a_fit_finds_the_efficiencies_that_made_the_times(moving: float, computing: float, overhead: float) -> None:
    roof = replace(
        ROOF, bandwidth_efficiency_fraction=moving, compute_efficiency_fraction=computing, node_overhead_us=overhead
    )
    runs = made_runs(roof, COSTS) + made_runs(roof, SMALL)
    tokens = [run for run in runs if run.operations / (1e12 * computing) < run.moved_bytes / (50e9 * moving)]
    assume(len({run.moved_bytes for run in tokens}) > 2 and len(tokens) < len(runs) - 1)
    fit = fit_roof(runs, bandwidth_bytes_per_s=50e9, operations_per_s=1e12)
    assert fit.roof.bandwidth_efficiency_fraction == pytest.approx(moving, rel=1e-3)
    assert fit.roof.compute_efficiency_fraction == pytest.approx(computing, rel=1e-3)
    assert fit.roof.node_overhead_us == pytest.approx(overhead, rel=1e-3, abs=1e-3)
    assert fit.error_fraction < 1e-3


def made_runs(roof: Roof, costs: Costs) -> tuple[TimedRun, ...]:
    lengths = (16, 128, 1024, 4096)
    rows = predicted_rows(costs, roof, lengths, decode_tokens=64)
    return timed_runs(costs, latency({row.prompt_tokens: (row.ttft_ms, row.decode_tokens_per_s) for row in rows}))


def test_times_of_one_model_do_not_tell_the_time_of_a_node() -> None:
    roof = replace(ROOF, node_overhead_us=20.0)
    fit = fit_roof(made_runs(roof, COSTS)[:4], bandwidth_bytes_per_s=50e9, operations_per_s=1e12)
    assert fit.roof.node_overhead_us == 0


@given(st.lists(st.floats(0.9, 1.1), min_size=16, max_size=16))
def test_the_error_of_a_fit_is_of_the_size_of_the_noise(noise: list[float]) -> None:
    runs = [
        replace(run, ms=run.ms * factor)
        for run, factor in zip(made_runs(ROOF, COSTS) + made_runs(ROOF, SMALL), noise, strict=True)
    ]
    fit = fit_roof(runs, bandwidth_bytes_per_s=50e9, operations_per_s=1e12)
    spread = math.sqrt(sum((factor - 1) ** 2 for factor in noise) / len(noise))
    assert fit.error_fraction <= 1.2 * spread + 1e-6


def test_what_cannot_be_fitted_is_refused() -> None:
    runs = made_runs(ROOF, COSTS)
    with pytest.raises(errors.EvidenceInvalidError, match="cannot be fitted") as few:
        fit_roof(runs[:3], bandwidth_bytes_per_s=50e9, operations_per_s=1e12)
    assert "3 times" in few.value.why
    with pytest.raises(errors.EvidenceInvalidError) as alike:
        fit_roof([runs[1]] * 4, bandwidth_bytes_per_s=50e9, operations_per_s=1e12)
    assert "bound by the same limit" in alike.value.why


def test_rates_that_the_times_exceed_are_refused() -> None:
    with pytest.raises(errors.EvidenceInvalidError) as caught:
        fit_roof(made_runs(ROOF, COSTS) + made_runs(ROOF, SMALL), bandwidth_bytes_per_s=10e9, operations_per_s=1e12)
    assert "faster" in caught.value.why


def test_errors_stand_beside_what_was_measured() -> None:
    rows = tuple(PredictedRow(prompt_tokens=n, ttft_ms=90.0, decode_tokens_per_s=12.0) for n in (16, 128))
    held = hold(prediction(rows), latency({128: (100.0, 10.0), 512: (1.0, 1.0)}))
    assert held is not None
    assert [(e.metric, e.prompt_tokens, e.measured) for e in held.errors] == [
        ("ttft_ms", 128, 100.0),
        ("decode_tokens_per_s", 128, 10.0),
    ]
    assert [e.error_fraction for e in held.errors] == pytest.approx([-0.1, 0.2])


def test_another_variant_or_prompt_is_not_compared() -> None:
    rows = (PredictedRow(prompt_tokens=128, ttft_ms=90.0, decode_tokens_per_s=12.0),)
    assert hold(prediction(rows, "v"), latency({128: (100.0, 10.0)}, "w")) is None
    assert hold(prediction(rows, "v"), latency({64: (100.0, 10.0)}, "v")) is None


@pytest.mark.parametrize(
    ("change", "of_machine"),
    [
        ({}, True),
        ({"machine": MACHINE.model_copy(update={"memory_bytes": (1 << 34) - 1000, "power_source": "mains"})}, True),
        ({"machine": MACHINE.model_copy(update={"processor": "another"})}, False),
        ({"threads": 1}, False),
        ({"provider": "dml"}, False),
    ],
)
def test_errors_are_of_the_prediction_on_the_machine_that_measured_alone(
    change: dict[str, object], of_machine: bool
) -> None:
    rows = (PredictedRow(prompt_tokens=128, ttft_ms=90.0, decode_tokens_per_s=12.0),)
    made = prediction(rows)
    made = made.model_copy(update={"conditions": made.conditions.model_copy(update=change)})
    held = hold(made, latency({128: (100.0, 10.0)}))
    assert held is not None
    assert held.of_machine == of_machine
    assert ("no errors of the prediction" in held.said) != of_machine
    assert "made up, 2 threads" in held.said


def test_the_error_of_a_fit_says_in_one_sentence_what_it_covers() -> None:
    made = prediction(()).model_copy(
        update={"efficiency_source": "fitted to 8 times, without others", "efficiency_error_fraction": 0.0431}
    )
    assert efficiency_told(made) == (
        "fitted to 8 times, without others; off by 4.3 % in the root of the mean square of those fitted times alone, "
        "which says nothing of others."
    )
    borrowed = made.model_copy(update={"efficiency_source": "borrowed", "efficiency_error_fraction": None})
    assert efficiency_told(borrowed) == "borrowed; how far off they are on this device is not known."


@given(st.integers(0, 12_000_000_000), st.integers(1, 40_000))
def test_the_largest_context_fits_and_one_more_does_not(available: int, limit: int) -> None:
    found = largest_context(COSTS, available, limit)
    assert 0 <= found <= limit
    if found:
        assert memory_need(COSTS, found).total_bytes <= available
    if found < limit:
        assert memory_need(COSTS, found + 1).total_bytes > available


def test_memory_is_weights_and_cache_and_workspace() -> None:
    need = memory_need(COSTS, 4096)
    assert need.kv_cache_bytes == 4096 * 262_144
    assert need.workspace_bytes == round(ARENA_FACTOR * 4096 * 140_000)
    assert need.total_bytes == 2_400_000_000 + 4096 * 262_144 + round(ARENA_FACTOR * 4096 * 140_000)


def test_prompts_double_up_to_the_longest_that_the_context_holds() -> None:
    assert predicted_lengths(1024, 64, (16, 128, 5000)) == (16, 64, 128, 256, 512, 959)
    assert predicted_lengths(64, 64) == ()
