from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from phiforge.evidence import Comparison, ComparisonRow, Interval
from phiforge.gate import Finding, Outcome
from phiforge.release.numbers import read_numbers
from phiforge.release.regressions import GUARDS, TIMES, Standing, find_regressions
from phiforge.target import Regression
from unit.release.packages import CPU, MACHINE, NPU, Made, comparison, evidence, profile

OLD, NEW = "a" * 64, "b" * 64
ALLOWED = Regression()


def standing(
    sha256: str = OLD, *, size: int = 1000, runtime: str = "r 1", target: str = CPU, **numbers: Any
) -> Standing:
    records = evidence(Made(**numbers), sha256, profile(target, "cpu" if target == CPU else "qnn")).values()
    return Standing(profile=target, variant_sha256=sha256, runtime=runtime, readings=read_numbers(size, list(records)))


def judged(new: Standing, old: Standing, *comparisons: Comparison) -> dict[str, Finding]:
    found = find_regressions(new, old, ALLOWED, comparisons)
    return {item.budget.removeprefix("regression:"): item for item in found}


def outcomes(new: Standing, old: Standing, *comparisons: Comparison) -> dict[str, str]:
    return {name: str(item.outcome) for name, item in judged(new, old, *comparisons).items()}


def test_the_same_again_passes_every_check() -> None:
    found = outcomes(standing(NEW), standing())
    assert found == dict.fromkeys([*GUARDS, *TIMES], "pass")


@pytest.mark.parametrize(
    ("number", "worse", "metric"),
    [
        ({"size": 1060}, "6 % worse", "variant_bytes"),
        ({"kl": 0.012}, "20 % worse", "kl_mean_nats"),
        ({"p99": 0.2}, "100 % worse", "kl_p99_nats"),
        ({"top1": 0.93}, "2 percentage points worse", "top1_agreement_fraction"),
        ({"right": 188}, "5 percentage points worse", "answer_recovery_fraction"),
        ({"peak_bytes": 60_000_000}, "20 % worse", "peak_anon_bytes"),
    ],
)
def test_each_number_that_is_worse_than_allowed_fails_by_its_name(
    number: dict[str, Any], worse: str, metric: str
) -> None:
    found = judged(standing(NEW, **number), standing())
    failed = {name for name, item in found.items() if item.outcome is Outcome.FAIL}
    assert failed == {metric}
    assert worse in found[metric].reason
    # The other way round it got better.
    assert set(outcomes(standing(NEW), standing(**number)).values()) == {"pass"}


def test_what_the_errors_of_both_explain_is_not_worse() -> None:
    found = judged(standing(NEW, kl=0.012, kl_error=0.002), standing(kl_error=0.002))
    assert found["kl_mean_nats"].outcome is Outcome.PASS
    assert "which the errors of both explain" in found["kl_mean_nats"].reason


def test_significant_and_small_is_allowed() -> None:
    assert outcomes(standing(NEW, kl=0.0109, kl_error=1e-9), standing(kl_error=1e-9))["kl_mean_nats"] == "pass"


def test_a_number_that_is_none_fails() -> None:
    found = judged(standing(NEW, kl=float("nan")), standing())
    assert found["kl_mean_nats"].outcome is Outcome.FAIL


def test_other_texts_cannot_be_compared() -> None:
    found = judged(standing(NEW, dataset="9" * 64), standing())
    assert found["kl_mean_nats"].outcome is Outcome.UNVERIFIED
    assert found["kl_mean_nats"].reason.endswith("it was measured on other texts.")


def test_evidence_that_is_gone_is_unverified() -> None:
    old = standing()
    bare = replace(standing(NEW), readings=read_numbers(1000, []))
    assert outcomes(bare, old) == {**dict.fromkeys([*GUARDS, *TIMES], "unverified"), "variant_bytes": "pass"}


def test_a_kind_is_held_against_the_same_kind_alone() -> None:
    assert outcomes(standing(NEW, target=CPU), standing(target=NPU))["kl_mean_nats"] == "unverified"


def test_nothing_is_said_of_what_was_never_measured() -> None:
    assert not {*TIMES, "peak_anon_bytes"} & set(outcomes(standing(NEW, target=NPU), standing(target=NPU)))


@pytest.mark.parametrize(
    ("ratio", "spread", "outcome"),
    [
        (1.3, 0.05, "fail"),
        (1.12, 0.01, "fail"),
        (1.05, 0.01, "pass"),
        (0.8, 0.01, "pass"),
        (1.02, 0.2, "unverified"),
        (1.12, 0.05, "unverified"),
    ],
)
def test_a_comparison_decides_by_its_interval(ratio: float, spread: float, outcome: str) -> None:
    found = judged(standing(NEW), standing(), comparison(NEW, OLD, ratio, spread))
    assert {str(found[name].outcome) for name in TIMES} == {outcome}
    assert "allowed are 1.1 times" in found["ttft_ms"].reason or outcome == "unverified"


def test_a_comparison_counts_before_two_runs() -> None:
    slow = standing(NEW, ttft_ms=20.0)
    assert outcomes(slow, standing())["ttft_ms"] == "fail"
    assert outcomes(slow, standing(), comparison(NEW, OLD, 1.0))["ttft_ms"] == "pass"


def test_a_comparison_of_other_variants_is_passed_over() -> None:
    slow = standing(NEW, decode_tokens_per_s=50.0)
    for other in (comparison(NEW, "c" * 64, 1.0), comparison("c" * 64, OLD, 1.0)):
        assert outcomes(slow, standing(), other)["decode_tokens_per_s"] == "fail"


def test_the_worst_row_of_a_comparison_counts() -> None:
    made = comparison(NEW, OLD, 1.0)
    slow = made.rows[1].model_copy(
        update={"prompt_tokens": 512, "ratio_p50": 1.5, "ratio_interval": Interval(low=1.4, high=1.6)}
    )
    found = judged(standing(NEW), standing(), made.model_copy(update={"rows": (*made.rows, slow)}))
    assert (found["ttft_ms"].outcome, found["decode_tokens_per_s"].outcome) == (Outcome.PASS, Outcome.FAIL)
    assert "at a prompt of 512 tokens" in found["decode_tokens_per_s"].reason


def test_two_runs_of_one_machine_are_told_apart_from_noise() -> None:
    noisy = (0.5, 0.7, 0.9, 1.0, 1.1, 1.5, 2.0)
    assert outcomes(standing(NEW, ttft_ms=13.0), standing())["ttft_ms"] == "fail"
    assert outcomes(standing(NEW, ttft_ms=13.0, repeats=noisy), standing(repeats=noisy))["ttft_ms"] == "unverified"


def test_too_few_repeats_tell_nothing() -> None:
    found = judged(standing(NEW, repeats=(1.0, 1.0)), standing())
    assert found["ttft_ms"].outcome is Outcome.UNVERIFIED
    assert "too few repeats" in found["ttft_ms"].reason


def test_another_machine_cannot_be_compared() -> None:
    other = MACHINE.model_copy(update={"processor": "another"})
    found = outcomes(standing(NEW, machine=other), standing())
    assert {name for name, outcome in found.items() if outcome == "unverified"} == {*TIMES, "peak_anon_bytes"}


def test_the_same_files_and_runtime_take_the_same_time() -> None:
    other = MACHINE.model_copy(update={"processor": "another"})
    assert outcomes(standing(OLD, machine=other), standing())["ttft_ms"] == "pass"
    assert outcomes(standing(OLD, machine=other, runtime="r 2"), standing())["ttft_ms"] == "unverified"


@given(st.floats(0.01, 100), st.floats(0, 0.5))
def test_a_comparison_never_passes_what_is_beyond_doubt_too_slow(ratio: float, spread: float) -> None:
    interval = Interval(low=ratio * (1 - spread), high=ratio * (1 + spread))
    row = ComparisonRow(metric="ttft", prompt_tokens=1, ratios=(), ratio_p50=ratio, ratio_interval=interval)
    made = comparison(NEW, OLD, 1.0).model_copy(update={"rows": (row,)})
    outcome = judged(standing(NEW), standing(), made)["ttft_ms"].outcome
    assert interval.low is not None and interval.high is not None
    assert (outcome is Outcome.FAIL) == (interval.low > 1.1)
    if outcome is Outcome.PASS:
        assert interval.high <= 1.1 or interval.low <= 1 <= interval.high
