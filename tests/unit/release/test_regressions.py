from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from phiforge.evidence import Comparison, ComparisonRow, Interval, Kind
from phiforge.gate import Finding, Outcome
from phiforge.intervals import interval_of_mean, student_t
from phiforge.release.differences import paired_mean
from phiforge.release.numbers import read_numbers
from phiforge.release.regressions import GUARDS, TIMES, find_regressions
from phiforge.release.standings import Standing
from phiforge.target import Regression
from phiforge.validation.statistics import block_means, clustered_mean
from unit.release.packages import CPU, MACHINE, NPU, Made, comparison, evidence, profile

OLD, NEW = "a" * 64, "b" * 64
ALLOWED = Regression()


def standing(
    sha256: str = OLD, *, size: int = 1000, runtime: str = "1.0", target: str = CPU, **numbers: Any
) -> Standing:
    made = Made(**{"runtime": runtime, **numbers})
    records = evidence(made, sha256, profile(target, "cpu" if target == CPU else "qnn")).values()
    return Standing(
        profile=target,
        variant_sha256=sha256,
        runtime=f"onnxruntime-genai {runtime}",
        readings=read_numbers(size, list(records)),
    )


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
        ({"right": 170}, "14 percentage points worse", "answer_recovery_fraction"),
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


def test_what_the_errors_of_both_explain_is_unverified_and_says_how_many_blocks_would_do() -> None:
    sides: dict[str, Any] = {"kl_error": 0.002, "blocks": ()}
    found = judged(standing(NEW, kl=0.0095, **sides), standing(**sides))["kl_mean_nats"]
    assert found.outcome is Outcome.UNVERIFIED
    assert (
        "5 % better (-52 to 42 %, 100 blocks of text), allowed are 10 %, and it cannot be told: about " in found.reason
    )
    assert "blocks of text would do if they are like these; fewer do where both releases have" in found.reason
    assert judged(standing(NEW, kl=0.03, **sides), standing(**sides))["kl_mean_nats"].outcome is Outcome.FAIL


def test_the_same_difference_is_decided_where_it_is_of_the_same_blocks() -> None:
    """The texts differ by far more than the variants do."""
    told = judged(standing(NEW, kl=0.0105, kl_error=0.002), standing(kl_error=0.002))["kl_mean_nats"]
    assert told.outcome is Outcome.PASS
    assert "5 % worse (4.58 to 5.42 %, paired over 100 blocks of text), allowed are 10 %" in told.reason
    assert told.bound == pytest.approx(0.0542, abs=1e-4)
    # Blocks of other sizes are not the same blocks.
    old = standing(kl_error=0.002)
    apart = tuple(replace(item, block_positions=(5, 15) * 50) if item.blocks else item for item in old.readings)
    found = judged(standing(NEW, kl=0.0105, kl_error=0.002), replace(old, readings=apart))
    assert found["kl_mean_nats"].outcome is Outcome.UNVERIFIED


def test_a_difference_on_both_sides_of_the_limit_is_neither() -> None:
    """Every second block is 30 % worse, the others 10 % better: 10 % in the mean, with a limit of 10 %."""
    blocks = tuple(factor * change for factor, change in zip((0.5, 1.5) * 50, (1.3, 1.3, 0.9, 0.9) * 25, strict=True))
    blocks = tuple(factor / 1.1 for factor in blocks)
    found = judged(standing(NEW, blocks=blocks, kl=0.011), standing())["kl_mean_nats"]
    assert (found.outcome, found.kind) == (Outcome.UNVERIFIED, Kind.MEASURED)
    assert "and it cannot be told" in found.reason


def test_too_few_blocks_tell_nothing_but_that_nothing_changed() -> None:
    few = standing(NEW, blocks=(0.9, 1.1) * 2, kl=0.0101)
    found = judged(few, standing(blocks=(0.9, 1.1) * 2))
    assert found["kl_mean_nats"].outcome is Outcome.UNVERIFIED
    assert "(? to ? %, paired over 4 blocks of text)" in found["kl_mean_nats"].reason
    assert found["kl_mean_nats"].reason.endswith("told: these are too few blocks of text: 9 are the fewest.")
    (one, other) = (standing(sha256, blocks=(1.0,), kl=kl) for sha256, kl in ((NEW, 0.0101), (OLD, 0.01)))
    assert judged(one, other)["kl_mean_nats"].reason.endswith("these are too few blocks of text: 9 are the fewest.")
    assert outcomes(standing(NEW, blocks=(1.0,)), standing(blocks=(1.0,)))["kl_mean_nats"] == "pass"


def test_differences_that_are_all_alike_do_not_tell_their_error() -> None:
    found = judged(standing(NEW, blocks=(1.0,) * 20, kl=0.0101), standing(blocks=(1.0,) * 20))["kl_mean_nats"]
    assert found.outcome is Outcome.UNVERIFIED
    assert found.reason.endswith("it cannot be told: the differences are all alike, so their error is not known.")


def test_an_end_of_the_interval_that_is_not_known_is_no_matter_of_the_limit() -> None:
    """Of the p99 of few positions there is no high end."""
    new = standing(NEW, p99=0.101)
    few = tuple(replace(item, number=item.number.model_copy(update={"high": None})) for item in new.readings)
    found = judged(replace(new, readings=few), standing())["kl_p99_nats"]
    assert found.outcome is Outcome.UNVERIFIED
    assert " to ? %, 100 blocks of text)" in found.reason
    assert found.reason.endswith("the evidence of one side does not say how sure it is, or has too few blocks of text.")


@pytest.mark.parametrize(("blocks", "outcome"), [(8, "unverified"), (9, "pass")])
def test_fewer_than_nine_blocks_decide_nothing_of_the_p99_either(blocks: int, outcome: str) -> None:
    def of(sha256: str, p99: float) -> Standing:
        records = evidence(Made(p99=p99), sha256, profile(CPU, "cpu"))
        records["drift.json"] = records["drift.json"].model_copy(update={"blocks": blocks})
        return replace(standing(sha256), readings=read_numbers(1000, list(records.values())))

    assert outcomes(of(NEW, 0.101), of(OLD, 0.1))["kl_p99_nats"] == outcome
    (number,) = [item.number for item in of(NEW, 0.1).readings if item.number.metric == "kl_p99_nats"]
    assert (number.high is None) == (blocks < 9)


def test_evidence_without_blocks_and_the_same_numbers_is_unchanged() -> None:
    found = judged(standing(NEW), standing(blocks=()))
    assert found["kl_mean_nats"].outcome is Outcome.PASS
    assert found["kl_mean_nats"].reason.endswith(": unchanged.")


def test_agreement_that_does_not_differ_in_any_block_still_has_a_bound() -> None:
    found = judged(standing(NEW, kl=0.0101), standing())["top1_agreement_fraction"]
    assert found.outcome is Outcome.PASS
    assert "0 percentage points worse (-0.275 to 0.275, paired over 100 blocks of text)" in found.reason


def test_equal_answers_pass_and_other_ones_need_their_interval() -> None:
    metric = "answer_recovery_fraction"
    assert outcomes(standing(NEW), standing())[metric] == "pass"
    found = judged(standing(NEW, right=197), standing())[metric]
    assert found.outcome is Outcome.UNVERIFIED
    assert "200 questions), allowed are 2 percentage points, and it cannot be told: about " in found.reason
    assert "questions would do if they are like these." in found.reason


def test_significant_and_small_is_allowed() -> None:
    small: dict[str, Any] = {"kl_error": 1e-9, "blocks": ()}
    assert outcomes(standing(NEW, kl=0.0109, **small), standing(**small))["kl_mean_nats"] == "pass"


@given(st.floats(0.001, 0.03), st.floats(0, 0.005))
def test_no_difference_passes_whose_upper_end_is_beyond_the_limit(kl: float, error: float) -> None:
    found = judged(standing(NEW, kl=kl, kl_error=error, blocks=()), standing(kl_error=error, blocks=()))["kl_mean_nats"]
    half = student_t(99) * math.hypot(error, error)
    expected = "fail" if kl - 0.01 - half > 0.001 else "pass" if kl - 0.01 + half <= 0.001 else "unverified"
    if kl != 0.01 and abs(abs(kl - 0.011) - half) > 1e-9:
        assert str(found.outcome) == expected


def test_the_paired_error_is_that_of_the_ratio_estimator() -> None:
    """Against NumPy's clustered mean of the single positions, with blocks of unequal size."""
    generator = np.random.default_rng(7)
    sizes = generator.integers(1, 65, 40)
    blocks = np.repeat(np.arange(40), sizes)
    one, other = (generator.exponential(size=len(blocks)) for _ in range(2))
    expected = clustered_mean(one - other, blocks)
    found = paired_mean(block_means(one, blocks), block_means(other, blocks), sizes.tolist())
    assert found.mean == pytest.approx(expected.mean)
    assert found.standard_error == pytest.approx(expected.standard_error)


def test_nineteen_of_twenty_paired_bounds_hold() -> None:
    """Simulated: the upper end is above the true difference in about 95 of 100, of blocks that are not too unlike."""
    generator = np.random.default_rng(3)
    held = 0
    for _ in range(400):
        texts = generator.lognormal(size=60)
        old = texts * generator.lognormal(0, 0.1, 60)
        new = texts * generator.lognormal(0, 0.1, 60) * 1.05
        estimate = paired_mean(new.tolist(), old.tolist(), [64] * 60)
        high = interval_of_mean(estimate, 60).high
        truth = 0.05 * math.exp(0.125) * math.exp(0.005)
        held += high is not None and high >= truth
    assert 0.92 <= held / 400 <= 0.98


def test_a_number_that_is_none_fails() -> None:
    for bad in (math.nan, math.inf):
        assert judged(standing(NEW, kl=bad), standing())["kl_mean_nats"].outcome is Outcome.FAIL
        # What was none before cannot be held against.
        held = judged(standing(NEW), standing(kl=bad))["kl_mean_nats"]
        assert held.outcome is Outcome.UNVERIFIED
        assert "there is no finite number to hold it against" in held.reason


def test_what_is_no_number_is_the_worst_of_several() -> None:
    def both(sha256: str, first: float, second: float) -> Standing:
        sides = standing(sha256, kl=first), standing(sha256, kl=second, dataset="9" * 64)
        return replace(sides[0], readings=(*sides[0].readings, *sides[1].readings))

    for new in (both(NEW, 5.0, math.nan), both(NEW, math.nan, 5.0)):
        found = judged(new, both(OLD, 0.01, 0.01))["kl_mean_nats"]
        assert (found.outcome, found.value) == (Outcome.FAIL, None)
        assert "which is no finite number" in found.reason


def test_other_texts_cannot_be_compared() -> None:
    found = judged(standing(NEW, dataset="9" * 64), standing())
    assert found["kl_mean_nats"].outcome is Outcome.UNVERIFIED
    assert found["kl_mean_nats"].reason.endswith("it was measured on other texts or over another top-k.")


def test_texts_that_this_release_lacks_leave_it_unverified() -> None:
    old, more = standing(), standing(dataset="9" * 64)
    both = replace(old, readings=(*old.readings, *more.readings))
    metrics = {"kl_mean_nats", "kl_p99_nats", "top1_agreement_fraction"}
    found = judged(standing(NEW), both)
    assert {name for name, item in found.items() if item.outcome is not Outcome.PASS} == metrics
    assert found["kl_mean_nats"].reason.endswith("on other texts or over another top-k than 1 of the 2 numbers before.")
    assert judged(standing(NEW, kl=0.03), both)["kl_mean_nats"].outcome is Outcome.FAIL
    # More than before is no fault.
    assert set(outcomes(replace(both, variant_sha256=NEW), old).values()) == {"pass"}


def with_length(side: Standing, tokens: str) -> Standing:
    """The same with each time once more, at another prompt length."""
    more = [
        replace(item, number=item.number.model_copy(update={"where": f" at a prompt of {tokens} tokens"}))
        for item in side.readings
        if item.number.where
    ]
    return replace(side, readings=(*side.readings, *more))


def test_prompt_lengths_that_this_release_lacks_leave_it_unverified() -> None:
    found = judged(standing(NEW), with_length(standing(), "1,024"))
    assert {name for name, item in found.items() if item.outcome is not Outcome.PASS} == set(TIMES)
    assert "at a prompt of 1,024 tokens cannot be compared" in found["ttft_ms"].reason
    assert found["ttft_ms"].reason.endswith("it was not measured.")
    slow = judged(standing(NEW, ttft_ms=20.0), with_length(standing(), "1,024"))["ttft_ms"]
    assert (slow.outcome, slow.value) == (Outcome.FAIL, 2.0)
    # Elsewhere is not there.
    other = with_length(standing(NEW, machine=MACHINE.model_copy(update={"processor": "another"})), "1,024")
    apart = tuple(item for item in other.readings if "1,024" in item.number.where)
    new = standing(NEW)
    held = judged(replace(new, readings=(*new.readings, *apart)), with_length(standing(), "1,024"))["ttft_ms"]
    assert held.reason.endswith("it was not measured on the machine that measured the previous release.")
    # Both in turn decides without.
    told = outcomes(standing(NEW), with_length(standing(), "1,024"), comparison(NEW, OLD, 1.0))
    assert {told[name] for name in TIMES} == {"pass"}


def test_of_several_machines_that_measured_the_previous_release_one_is_enough() -> None:
    old, other = standing(), standing(machine=MACHINE.model_copy(update={"processor": "another"}))
    assert set(outcomes(standing(NEW), replace(old, readings=(*old.readings, *other.readings))).values()) == {"pass"}


def test_every_finding_about_time_has_the_limit_in_one_unit() -> None:
    other = MACHINE.model_copy(update={"processor": "another"})
    few: dict[str, Any] = {"repeats": (1.0, 1.0)}
    cases = [
        judged(standing(NEW), standing()),
        judged(standing(NEW, machine=other), standing()),
        judged(standing(NEW, **few), standing()),
        judged(standing(), standing(machine=other)),
        judged(standing(NEW), standing(), comparison(NEW, OLD, 1.0)),
    ]
    assert {found[name].limit for found in cases for name in TIMES} == {1.1}


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


def test_the_same_files_and_runtime_take_the_same_time_and_memory() -> None:
    other = MACHINE.model_copy(update={"processor": "another"})
    timed = {*TIMES, "peak_anon_bytes"}
    found = outcomes(standing(OLD, machine=other), standing())
    assert {name for name in timed if found[name] == "pass"} == timed
    # What the same machine measured anew is not compared: the files are the same.
    assert outcomes(standing(OLD, peak_bytes=90_000_000), standing())["peak_anon_bytes"] == "pass"
    # By another runtime even the same files are not the same.
    told = judged(standing(OLD, machine=other, runtime="2.0"), standing())
    assert {name for name in timed if told[name].outcome is Outcome.UNVERIFIED} == timed
    for name in timed:
        assert "onnxruntime-genai 1.0 then, onnxruntime-genai 2.0 now" in told[name].reason
        assert "waive it by name with a reason" in told[name].reason


def test_a_comparison_by_one_runtime_tells_nothing_of_two() -> None:
    other = MACHINE.model_copy(update={"processor": "another"})
    sides = standing(NEW, machine=other, runtime="2.0"), standing()
    for version in ("1.0", "2.0"):
        assert outcomes(*sides, by_runtime(comparison(NEW, OLD, 1.0), version))["ttft_ms"] == "unverified"


@pytest.mark.parametrize("versions", [{"onnxruntime-genai": "9.0"}, {"onnxruntime": "1.0"}])
def test_a_comparison_by_another_runtime_than_the_profile_s_counts_for_nothing(versions: dict[str, str]) -> None:
    slow, made = standing(NEW, ttft_ms=20.0), comparison(NEW, OLD, 1.0)
    foreign = made.model_copy(update={"conditions": made.conditions.model_copy(update={"versions": versions})})
    assert outcomes(slow, standing(), foreign)["ttft_ms"] == "fail"
    windows = by_runtime(made, "1.0", "onnxruntime-genai-winml")
    assert outcomes(slow, standing(), windows)["ttft_ms"] == "pass"


def test_one_machine_may_measure_both_releases_each_by_its_own_runtime() -> None:
    assert outcomes(standing(NEW, runtime="2.0"), standing())["ttft_ms"] == "pass"
    assert outcomes(standing(NEW, runtime="2.0", ttft_ms=20.0), standing())["ttft_ms"] == "fail"
    assert outcomes(standing(NEW, runtime="2.0", peak_bytes=60_000_000), standing())["peak_anon_bytes"] == "fail"
    # Measured by the earlier runtime, it is not how this release runs.
    wrong = replace(standing(NEW), runtime="onnxruntime-genai 2.0")
    found = outcomes(wrong, standing())
    assert {name for name, outcome in found.items() if outcome == "unverified"} == {*TIMES, "peak_anon_bytes"}


def test_a_part_of_the_runtime_that_is_another_is_another_runtime() -> None:
    other = MACHINE.model_copy(update={"processor": "another"})
    sides = [standing(OLD, machine=machine) for machine in (other, MACHINE)]
    found = [
        replace(
            side,
            readings=tuple(
                replace(item, runtimes=(("onnxruntime", version), *item.runtimes)) if item.runtimes else item
                for item in side.readings
            ),
        )
        for side, version in zip(sides, ("1.31", "1.24"), strict=True)
    ]
    told = judged(found[0], found[1])
    assert told["ttft_ms"].outcome is Outcome.UNVERIFIED
    assert "(onnxruntime 1.24 then, 1.31 now)" in told["ttft_ms"].reason


def by_runtime(made: Comparison, version: str, package: str = "onnxruntime-genai") -> Comparison:
    conditions = made.conditions.model_copy(update={"versions": {package: version}})
    return made.model_copy(update={"conditions": conditions})


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
