"""Predictions of the embedded model: what its graph costs, what stands in its package, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import phiforge
from phiforge import errors
from phiforge.catalog import find_project
from phiforge.checkpoint.nano import CHECKPOINT_DIR
from phiforge.evidence import Kind, Latency, Prediction, load_evidence
from phiforge.graph.costs import graph_costs
from phiforge.roofline import Held, PredictionError
from phiforge.verbs.build import BuildResult

EVIDENCE = Path("evidence", "cpu-int4")


def test_the_graph_costs_what_the_configuration_says(nano_variant: Path) -> None:
    """Counted by hand from config.json, for blocks of 128 int4 weights with a float32 scale and an int4 zero point."""
    config = json.loads((CHECKPOINT_DIR / "config.json").read_text(encoding="utf-8"))
    hidden, inner, layers = (config[key] for key in ("hidden_size", "intermediate_size", "num_hidden_layers"))
    heads, shared = config["num_attention_heads"], config["num_key_value_heads"]
    size, vocabulary = hidden // heads, config["vocab_size"]
    shapes = [
        ((heads + 2 * shared) * size, hidden), (hidden, heads * size), (inner, hidden), (inner, hidden),
        (hidden, inner),
    ]  # fmt: skip

    def stored(rows: int, columns: int) -> int:
        return rows * (columns // 2 + columns // 128 * 4 + -(-columns // 128 * 4 // 8))

    costs = graph_costs(nano_variant / "model.onnx")
    assert costs.weight_operations == layers * sum(2 * rows * columns for rows, columns in shapes)
    assert costs.head_operations == 2 * vocabulary * hidden
    assert costs.pair_operations == layers * heads * 4 * size
    assert costs.kv_cache_bytes == layers * 2 * shared * size * 4
    norms = 4 * hidden * (2 * layers + 1)
    layer_bytes = layers * sum(stored(rows, columns) for rows, columns in shapes)
    row = stored(1, hidden)
    assert costs.weight_bytes == pytest.approx(layer_bytes + stored(vocabulary, hidden) + norms + row, abs=8)
    assert costs.stored_bytes == (nano_variant / "model.onnx.data").stat().st_size
    assert not costs.head_every_position


def test_the_graph_costs_what_the_plan_said(nano_build: BuildResult, nano_variant: Path) -> None:
    from phiforge.roofline import memory_need

    ((device,),) = (variant.devices for variant in nano_build.plan.variants)
    need = memory_need(graph_costs(nano_variant / "model.onnx"), device.context_tokens)
    assert (need.weights_bytes, need.kv_cache_bytes) == (device.weights_bytes, device.kv_cache_bytes)
    assert need.workspace_bytes == pytest.approx(device.workspace_bytes, rel=1e-3)
    assert device.context_tokens == 2048


def test_a_package_holds_its_predictions(nano_build: BuildResult) -> None:
    assert nano_build.package is not None
    found = load_evidence(nano_build.package / EVIDENCE / "prediction-cpu-x64.json")
    measured = load_evidence(nano_build.package / EVIDENCE / "latency-cpu-x64.json")
    assert isinstance(found, Prediction)
    assert isinstance(measured, Latency)
    assert found.kind is Kind.PREDICTED
    assert found.variant_sha256 == measured.variant_sha256
    assert {row.prompt_tokens for row in measured.rows} <= {row.prompt_tokens for row in found.rows}
    # What was predicted depends on variant and profile alone, so that a build that is repeated makes the same package.
    assert found.conditions.taken_at is None
    assert found.conditions.machine.logical_cores == 0


def test_a_prediction_is_held_against_the_packages_own_measurement(nano_build: BuildResult, tmp_path: Path) -> None:
    assert nano_build.package is not None
    (made,) = phiforge.predict([nano_build.package], output=tmp_path).predicted
    (held,) = made.held
    assert {error.metric for error in held.errors} == {"ttft_ms", "decode_tokens_per_s"}
    assert not held.of_machine
    assert made.as_measured is None
    assert load_evidence(made.path) == made.prediction


def test_the_error_is_of_the_machine_that_measured(nano_build: BuildResult, tmp_path: Path) -> None:
    """With rates ten times the profile's, the prediction for the device stays, and that for the machine is faster."""
    assert nano_build.package is not None
    (plain,) = phiforge.predict([nano_build.package], output=tmp_path / "a").predicted
    rates = plain.prediction.bandwidth_bytes_per_s, plain.prediction.operations_per_s
    (made,) = phiforge.predict(
        [nano_build.package],
        output=tmp_path / "b",
        bandwidth_bytes_per_s=10 * rates[0],
        operations_per_s=10 * rates[1],
    ).predicted
    (held,) = made.held
    assert made.prediction == plain.prediction
    assert held.of_machine
    assert made.as_measured is not None
    there = load_evidence(made.as_measured)
    measured = load_evidence(nano_build.package / EVIDENCE / "latency-cpu-x64.json")
    assert isinstance(there, Prediction)
    assert isinstance(measured, Latency)
    assert (there.bandwidth_bytes_per_s, there.conditions.machine) == (10 * rates[0], measured.conditions.machine)
    assert [error.predicted for error in held.errors if error.metric == "ttft_ms"] == [
        row.ttft_ms for row in there.rows if row.prompt_tokens in {item.prompt_tokens for item in measured.rows}
    ]
    assert all(error.predicted < other.predicted for error, other in _first_tokens(held, plain.held[0]))

    phiforge.report([nano_build.package], output=tmp_path / "report", evidence=[made.as_measured])
    text = (tmp_path / "report" / "report.md").read_text(encoding="utf-8")
    assert "Predicted with the rates of the machine that measured" in text
    assert "Measured on another machine than the one predicted for" in text


def _first_tokens(one: Held, other: Held) -> list[tuple[PredictionError, PredictionError]]:
    sides = ([error for error in held.errors if error.metric == "ttft_ms"] for held in (one, other))
    return list(zip(*sides, strict=True))


def test_efficiencies_are_fitted_to_the_packages_own_measurement(nano_build: BuildResult, tmp_path: Path) -> None:
    """Rates far above this machine's, so that no efficiency exceeds 1; what is left is whatever the machine does."""
    assert nano_build.package is not None
    found = phiforge.predict(
        [nano_build.package], output=tmp_path, fit=True, bandwidth_bytes_per_s=1e13, operations_per_s=1e15
    )
    assert found.fitted is not None
    roof = found.fitted.fit.roof
    (made,) = found.predicted
    assert made.prediction.bandwidth_efficiency_fraction == roof.bandwidth_efficiency_fraction
    assert made.prediction.efficiency_error_fraction == found.fitted.fit.error_fraction
    assert "phi-4-nano" in made.prediction.efficiency_source


def test_a_fit_needs_the_rates_of_the_machine(nano_build: BuildResult, tmp_path: Path) -> None:
    assert nano_build.package is not None
    with pytest.raises(errors.EvidenceInvalidError) as caught:
        phiforge.predict([nano_build.package], output=tmp_path, fit=True)
    assert "--operations-per-s" in caught.value.fix


def test_a_variant_needs_a_profile(nano_variant: Path, tmp_path: Path) -> None:
    with pytest.raises(errors.ProfileUnknownError):
        phiforge.predict([nano_variant], output=tmp_path)
    (made,) = phiforge.predict([nano_variant], target="cpu-x64", output=tmp_path).predicted
    assert made.prediction.profile == "cpu-x64"


def test_a_device_that_is_too_small_is_told_before_anything_is_built(tmp_path: Path) -> None:
    text = (find_project() / "targets" / "cpu-x64.toml").read_text(encoding="utf-8")
    small = tmp_path / "small.toml"
    small.write_text(text.replace("memory_bytes = 8_589_934_592", "memory_bytes = 20_000_000"), encoding="utf-8")
    with pytest.raises(errors.DeviceTooSmallError) as caught:
        phiforge.build(CHECKPOINT_DIR, targets=[str(small)], output=tmp_path / "out")
    assert "tokens would fit" in caught.value.fix
    assert not list((tmp_path / "out").rglob("*.onnx"))
