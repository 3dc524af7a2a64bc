"""How a prediction is shown beside a measurement: what its error covers, and whose machine it is of."""

from __future__ import annotations

from pathlib import Path

import pytest

from phiforge import errors
from phiforge.cli.prediction import show_predictions
from phiforge.evidence import Conditions, Kind, Latency, LatencyRow, Machine, MemoryNeed, PredictedRow, Prediction
from phiforge.reporting.content_latency import prediction as section
from phiforge.roofline import Fit, Roof, hold
from phiforge.verbs.fitting import Fitted, machine_rates
from phiforge.verbs.predict import Predicted, Predictions

MACHINE = Machine(
    processor="a processor", architecture="x86_64", process_architecture="x86_64", logical_cores=2, physical_cores=2,
    memory_bytes=1 << 34, system="a system",
)  # fmt: skip
THERE = Conditions(machine=MACHINE, provider="cpu", threads=2, versions={})
DEVICE = THERE.model_copy(update={"machine": MACHINE.model_copy(update={"processor": "a stated PC"}), "threads": 0})
MEASURED = Latency(
    kind=Kind.MEASURED, conditions=THERE, variant_sha256="v", warmups=1, load_ms=1.0,
    rows=(
        LatencyRow(
            prompt_tokens=128, decode_tokens=64, repeats=5, ttft_p50_ms=100.0, ttft_p95_ms=100.0,
            prefill_tokens_per_s_p50=1280.0, decode_tokens_per_s_p50=10.0, decode_tokens_per_s_p95=10.0,
            inter_token_p50_ms=100.0, inter_token_p99_ms=100.0,
        ),
    ),
    peak_anon_bytes=1, peak_rss_bytes=1, memory=(),
)  # fmt: skip
FIT = "fitted to 8 times, without long ones; off by 4.3 % in the root of the mean square of those fitted times alone"


def predicted(conditions: Conditions) -> Prediction:
    return Prediction(
        kind=Kind.PREDICTED, conditions=conditions, variant_sha256="v", profile="p", bandwidth_bytes_per_s=1e9,
        operations_per_s=1e12, bandwidth_efficiency_fraction=0.6, compute_efficiency_fraction=0.3,
        efficiency_source="fitted to 8 times, without long ones", efficiency_error_fraction=0.043,
        rows=(PredictedRow(prompt_tokens=128, ttft_ms=90.0, decode_tokens_per_s=12.0),),
        memory=MemoryNeed(
            context_tokens=1, weights_bytes=1, kv_cache_bytes_per_token=1, kv_cache_bytes=1, workspace_bytes=1,
            total_bytes=3,
        ),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("conditions", "column", "said", "not_said"),
    [
        (THERE, "Error", "Predicted with the rates of the machine that measured: a processor, 2 threads", "another"),
        (DEVICE, "Difference", "Measured on another machine than the one predicted for: a processor", "Error"),
    ],
    ids=["that machine", "another"],
)
def test_the_report_tells_an_error_from_a_difference(
    conditions: Conditions, column: str, said: str, not_said: str
) -> None:
    found = section(predicted(conditions), "prediction", "", MEASURED)
    assert FIT in found.intro
    (times, _) = found.tables
    assert times.columns.count(column) == 2
    assert said in times.caption
    assert not_said not in (*times.columns, times.caption)


def test_the_report_without_a_measurement_says_nothing_of_machines() -> None:
    found = section(predicted(DEVICE), "prediction", "", None)
    assert found.tables[0].caption == "Error is predicted ÷ measured minus 1"


@pytest.mark.parametrize(
    ("conditions", "said", "not_said"),
    [
        (THERE, "Predicted with the rates of the machine that measured", "difference"),
        (DEVICE, "Give its rates with --bandwidth-bytes-per-s and --operations-per-s", "error -10 %"),
    ],
    ids=["that machine", "another"],
)
def test_the_terminal_tells_an_error_from_a_difference(
    conditions: Conditions,
    said: str,
    not_said: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("COLUMNS", "400")
    made = predicted(conditions)
    held = hold(made, MEASURED)
    assert held is not None
    roof = Roof(
        bandwidth_bytes_per_s=1e9,
        operations_per_s=1e12,
        bandwidth_efficiency_fraction=0.6,
        compute_efficiency_fraction=0.3,
    )
    item = Predicted(variant="v", profile="p", prediction=made, path=Path("p.json"), held=(held,))
    fitted = Fitted(fit=Fit(roof=roof, runs=8, error_fraction=0.0431), source="s")
    show_predictions(Predictions(predicted=(item,), fitted=fitted))

    out = capsys.readouterr().out
    assert said in out
    assert FIT in out
    assert "efficiency_error_fraction = 0.043  # over these 8 times alone" in out
    assert "-10 %" in out
    assert not_said not in out


def test_rates_are_of_one_machine_whose_rates_are_known() -> None:
    rates = machine_rates([MEASURED, MEASURED], 1e9, 1e12)
    assert (rates.bandwidth_bytes_per_s, rates.operations_per_s, rates.conditions) == (1e9, 1e12, THERE)

    other = MEASURED.model_copy(update={"conditions": DEVICE})
    for measured, bandwidth, operations, why in (
        ([], 1e9, 1e12, "None of the measured latency"),
        ([MEASURED, other], 1e9, 1e12, "several machines"),
        ([MEASURED], 1e9, None, "compute rate"),
        ([MEASURED], None, 1e12, "not this one"),
    ):
        with pytest.raises(errors.EvidenceInvalidError) as caught:
            machine_rates(measured, bandwidth, operations)
        assert why in caught.value.why
