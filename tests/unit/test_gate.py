"""The gate's rules, one by one."""

from __future__ import annotations

import math
import re
from statistics import median
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from phiforge import errors
from phiforge.evidence import (
    Agreement,
    Drift,
    Estimate,
    Interval,
    Kind,
    Latency,
    LatencyRow,
    Probe,
    Probes,
    Tasks,
    TaskScore,
)
from phiforge.gate import REQUIRED_PROBES, RULES, Finding, Outcome, Verdict, exit_code, judge, number, quantity
from phiforge.intervals import FEWEST_GROUPS, student_t
from phiforge.prompt_lengths import PromptLengths
from phiforge.target import Budgets
from unit.reporting import samples

if TYPE_CHECKING:
    from collections.abc import Sequence

    from phiforge.evidence import AnyEvidence

MEASURED = (Kind.MEASURED,)
NO_DRIFT = Budgets(kl_mean_nats_max=0.03)
# Of the first row of the sample's latency.
FIRST = PromptLengths(prompt_tokens=(16,), decode_tokens=64)


def verdict(
    budgets: Budgets,
    *evidence: AnyEvidence,
    accepts: Sequence[Kind] = MEASURED,
    size: int = samples.VARIANT_BYTES,
    lengths: PromptLengths | None = FIRST,
) -> Verdict:
    return judge(budgets, accepts, evidence, variant_sha256=samples.VARIANT, variant_bytes=size, lengths=lengths)


def finding(
    budgets: Budgets,
    *evidence: AnyEvidence,
    accepts: Sequence[Kind] = MEASURED,
    lengths: PromptLengths | None = FIRST,
) -> Finding:
    """The first finding, which is about the only budget set."""
    return verdict(budgets, *evidence, accepts=accepts, lengths=lengths).findings[0]


def drift(kl: float, kind: Kind = Kind.MEASURED, error: float = 0.001, **update: Any) -> Drift:
    return samples.drift(kind).model_copy(update={"kl_nats": Estimate(mean=kl, standard_error=error), **update})


REQUIRED = tuple(Probe(name=name, passed=True, detail="As the original.") for name in REQUIRED_PROBES)


def probes(*items: Probe, kind: Kind = Kind.MEASURED) -> Probes:
    """These, after those that every variant must have."""
    return samples.probes(kind).model_copy(update={"probes": (*REQUIRED, *items)})


def latency_rows(*rows: LatencyRow) -> Latency:
    return samples.latency().model_copy(update={"rows": rows})


def loading(first: float, *again: float) -> Latency:
    """Latency of so long a load in a new process, and of so long ones after it."""
    return samples.latency().model_copy(update={"load_ms": first, "load_warm_ms": again})


def decoding(*speeds: float) -> dict[str, Any]:
    """The fields of a row whose repeats decoded so fast."""
    return {"decode_tokens_per_s": speeds, "decode_tokens_per_s_p50": median(speeds)}


def agreement(comparison: str, error: float | None, kind: Kind = Kind.MEASURED, **update: Any) -> Agreement:
    """Agreement of a GPU variant: against float32 over the spread of the logits, against the CPU over their norm."""
    field = "relative_spread_error" if comparison == "float32" else "relative_logit_error"
    return samples.agreement(kind=kind).model_copy(update={"comparison": comparison, field: error, **update})


def test_every_budget_has_a_rule() -> None:
    assert set(RULES) == set(Budgets.model_fields)
    assert {name for name, rule in RULES.items() if rule.needs == "latency"} == {
        "load_ms_max",
        "ttft_p50_ms_max",
        "prefill_tokens_per_s_min",
        "decode_tokens_per_s_min",
        "inter_token_p99_ms_max",
        "peak_anon_bytes_max",
    }


# Each budget with a limit that the sample keeps, one it breaks, and the value the rule reads.
CASES: dict[str, tuple[float, float, float]] = {
    "kl_mean_nats_max": (0.03, 0.02, 0.02134),
    "kl_p99_nats_max": (0.5, 0.2, 0.2017),
    "top1_agreement_fraction_min": (0.92, 0.95, 0.9341),
    "perplexity_ratio_max": (1.05, 1.01, 1.01873),
    "answer_recovery_fraction_min": (0.96, 0.995, 529 / 534),
    "emulator_relative_error_max": (0.02, 0.01, 0.0123),
    "provider_relative_error_max": (0.01, 0.005, 0.0061),
    "float16_relative_error_max": (0.005, 0.001, 0.0021),
    "variant_bytes_max": (3_000_000_000, 2_900_000_000, samples.VARIANT_BYTES),
    "load_ms_max": (3000.0, 2000.0, 2318.4),
    "ttft_p50_ms_max": (14_000.0, 10_000.0, 12_411.0),
    "prefill_tokens_per_s_min": (40.0, 50.0, 16 / 331 * 1000),
    "decode_tokens_per_s_min": (9.0, 11.0, 9.87),
    "inter_token_p99_ms_max": (140.0, 120.0, 1310 / 9.87),
    "peak_anon_bytes_max": (2_000_000_000, 1_000_000_000, 1_204_813_824),
}


def test_every_budget_has_a_case() -> None:
    assert set(CASES) == set(Budgets.model_fields)


@pytest.mark.parametrize("name", CASES)
def test_a_budget_is_read_from_its_evidence(name: str) -> None:
    kept, broken, value = CASES[name]
    emulator = samples.agreement(kind=Kind.MEASURED)
    alike = (emulator, agreement("provider-prefill", 0.0061), agreement("float32", 0.0021))
    records = (samples.drift(), samples.tasks(), samples.probes(), loading(2318.4, *[1200.0] * 5), *alike)
    for limit, outcome in ((kept, Outcome.PASS), (broken, Outcome.FAIL)):
        result = verdict(Budgets.model_validate({name: limit}), *records)
        first = result.findings[0]
        assert (first.budget, first.limit, first.outcome) == (name, limit, outcome)
        assert first.value == pytest.approx(value)
        assert result.outcome is outcome


def test_a_value_at_its_limit_passes() -> None:
    assert finding(Budgets(kl_mean_nats_max=0.03), drift(0.03, error=0.0)).outcome is Outcome.PASS
    row = samples.latency().rows[0].model_copy(update=decoding(*[5.0] * 5))
    assert finding(Budgets(decode_tokens_per_s_min=5.0), latency_rows(row)).outcome is Outcome.PASS


def test_a_hair_over_the_limit_fails_and_the_reason_shows_it() -> None:
    found = finding(Budgets(kl_mean_nats_max=0.03), drift(0.0300000001))
    assert found.outcome is Outcome.FAIL
    assert found.reason == "Mean KL divergence is 0.0300000001 nats, over the maximum of 0.03 nats."


@pytest.mark.parametrize("name", [name for name in CASES if name != "variant_bytes_max"])
def test_absent_evidence_is_unverified(name: str) -> None:
    found = finding(Budgets.model_validate({name: CASES[name][0]}), samples.probes())
    assert (found.outcome, found.value, found.kind) == (Outcome.UNVERIFIED, None, None)
    assert "there is no" in found.reason


def test_the_size_is_judged_without_evidence() -> None:
    found = finding(Budgets(variant_bytes_max=1_000), accepts=())
    assert (found.outcome, found.kind) == (Outcome.FAIL, None)


def test_a_kind_not_accepted_is_unverified_even_over_the_limit() -> None:
    found = finding(NO_DRIFT, drift(9.0, Kind.SURROGATE))
    assert (found.outcome, found.value, found.kind) == (Outcome.UNVERIFIED, 9.0, Kind.SURROGATE)
    assert found.reason == "Mean KL divergence of 9 nats is surrogate; this budget accepts only measured."


def test_a_kind_the_profile_accepts_is_judged() -> None:
    found = finding(NO_DRIFT, drift(0.01, Kind.EMULATED), accepts=(Kind.MEASURED, Kind.EMULATED))
    assert (found.outcome, found.kind) == (Outcome.PASS, Kind.EMULATED)


@pytest.mark.parametrize("kind", [Kind.EMULATED, Kind.SURROGATE, Kind.PREDICTED])
def test_time_and_memory_need_measured_whatever_is_accepted(kind: Kind) -> None:
    for name in ("decode_tokens_per_s_min", "peak_anon_bytes_max", "load_ms_max"):
        budgets = Budgets.model_validate({name: CASES[name][0]})
        assert finding(budgets, samples.latency(kind), accepts=tuple(Kind)).outcome is Outcome.UNVERIFIED


def test_time_counts_when_measured_even_if_accepts_does_not_name_it() -> None:
    measured = loading(2318.4, *[1200.0] * 5)
    assert finding(Budgets(load_ms_max=3000.0), measured, accepts=(Kind.EMULATED,)).outcome is Outcome.PASS


def test_of_two_records_the_worse_accepted_one_counts() -> None:
    found = finding(NO_DRIFT, drift(0.01), drift(0.05), drift(9.0, Kind.SURROGATE))
    assert (found.value, found.outcome) == (0.05, Outcome.FAIL)


def test_every_accepted_kind_must_pass_and_says_which_it_is() -> None:
    accepts = (Kind.SURROGATE, Kind.EMULATED)
    records = (drift(0.01, Kind.SURROGATE), drift(0.04, Kind.EMULATED), drift(9.0, Kind.PREDICTED))
    result = verdict(NO_DRIFT, *records, accepts=accepts)
    assert [(item.kind, item.value, item.outcome) for item in result.findings[:2]] == [
        (Kind.SURROGATE, 0.01, Outcome.PASS),
        (Kind.EMULATED, 0.04, Outcome.FAIL),
    ]
    assert result.findings[0].reason == (
        "Mean KL divergence is 0.01 nats (surrogate), within the maximum of 0.03 nats; "
        "with 95 % confidence it is at most 0.01167 nats (64 blocks of text)."
    )
    assert result.outcome is Outcome.FAIL


def test_kinds_not_accepted_are_unverified_one_by_one() -> None:
    result = verdict(NO_DRIFT, drift(0.01, Kind.SURROGATE), drift(0.01, Kind.EMULATED))
    assert [(item.kind, item.outcome) for item in result.findings[:2]] == [
        (Kind.SURROGATE, Outcome.UNVERIFIED),
        (Kind.EMULATED, Outcome.UNVERIFIED),
    ]


@given(values=st.lists(st.tuples(st.sampled_from(Kind), st.floats(0, 0.06)), min_size=1, max_size=6))
def test_no_kind_hides_another(values: list[tuple[Kind, float]]) -> None:
    accepts = (Kind.SURROGATE, Kind.EMULATED)
    result = verdict(NO_DRIFT, *(drift(kl, kind, error=0.0) for kind, kl in values), accepts=accepts)
    about = [item.outcome for item in result.findings if item.budget == "kl_mean_nats_max"]
    counting = [kl for kind, kl in values if kind in accepts]
    assert (set(about) == {Outcome.PASS}) == (bool(counting) and all(kl <= 0.03 for kl in counting))


EMULATOR = Budgets(emulator_relative_error_max=0.02)
EMULATED = (Kind.EMULATED,)


def test_the_emulator_is_judged_on_its_worse_agreement() -> None:
    both = (samples.agreement(), samples.agreement("emulator-decode", 0.0213))
    found = finding(EMULATOR, *both, accepts=EMULATED)
    assert (found.outcome, found.value, found.kind) == (Outcome.FAIL, 0.0213, Kind.EMULATED)
    assert found.reason == (
        "Relative logit error of the emulator is 2.13 % in decode (emulated), over the maximum of 2 %."
    )


def test_agreement_with_another_variant_says_nothing_of_the_emulator() -> None:
    found = finding(EMULATOR, samples.agreement("other-variant", 0.0001), accepts=EMULATED)
    assert (found.outcome, found.value) == (Outcome.UNVERIFIED, None)


@pytest.mark.parametrize("nothing", [samples.agreement(error=None), samples.agreement(positions=0)])
def test_agreement_that_shows_nothing_is_unverified(nothing: AnyEvidence) -> None:
    assert finding(EMULATOR, nothing, accepts=EMULATED).outcome is Outcome.UNVERIFIED
    better = samples.agreement("emulator-decode", 0.001)
    assert finding(EMULATOR, nothing, better, accepts=EMULATED).outcome is Outcome.UNVERIFIED


GPU = {
    "provider-decode": Budgets(provider_relative_error_max=0.01),
    "float32": Budgets(float16_relative_error_max=0.01),
}
GPU_KINDS = (Kind.MEASURED, Kind.SURROGATE)


@pytest.mark.parametrize("comparison", GPU)
@pytest.mark.parametrize(
    ("error", "kind", "outcome"),
    [
        (0.01, Kind.SURROGATE, Outcome.PASS),
        (0.0100001, Kind.SURROGATE, Outcome.FAIL),
        (math.nan, Kind.MEASURED, Outcome.FAIL),
        (math.inf, Kind.MEASURED, Outcome.FAIL),
        (0.001, Kind.EMULATED, Outcome.UNVERIFIED),
        (None, Kind.MEASURED, Outcome.UNVERIFIED),
    ],
)
def test_a_gpus_agreement_is_judged(comparison: str, error: float | None, kind: Kind, outcome: Outcome) -> None:
    found = finding(GPU[comparison], agreement(comparison, error, kind), accepts=GPU_KINDS)
    assert found.outcome is outcome
    assert found.value == (error if error is not None and math.isfinite(error) else None)


@pytest.mark.parametrize("comparison", GPU)
def test_a_gpus_budget_needs_its_own_comparison(comparison: str) -> None:
    others = {"provider-prefill", "float32", "other-variant", "emulator-decode"}
    others -= {"provider-prefill"} if comparison.startswith("provider") else {comparison}
    found = finding(GPU[comparison], *(agreement(other, 0.001) for other in sorted(others)))
    assert (found.outcome, found.value, found.kind) == (Outcome.UNVERIFIED, None, None)
    empty = agreement(comparison, 0.001, positions=0)
    assert finding(GPU[comparison], empty).outcome is Outcome.UNVERIFIED


def test_the_provider_is_judged_on_the_worse_of_prefill_and_decode_and_says_which() -> None:
    both = (agreement("provider-prefill", 0.02), agreement("provider-decode", 0.001))
    found = finding(GPU["provider-decode"], *both)
    assert found.reason == "Relative logit error of the provider is 2 % in prefill, over the maximum of 1 %."


def test_float16_is_judged_over_the_spread_of_the_logits() -> None:
    """Not over their norm, which a constant in all logits makes as large as it likes."""
    far = agreement("float32", 0.02, relative_logit_error=1e-6)
    assert finding(GPU["float32"], far).outcome is Outcome.FAIL


def test_agreement_of_a_kind_not_accepted_is_unverified() -> None:
    assert finding(EMULATOR, samples.agreement()).outcome is Outcome.UNVERIFIED


def test_a_speed_nobody_measured_says_that_the_device_must() -> None:
    found = finding(Budgets(decode_tokens_per_s_min=5.0), *samples.npu_evidence(), accepts=tuple(Kind))
    assert (found.outcome, found.value) == (Outcome.UNVERIFIED, None)
    assert found.reason == (
        "Decode speed (p50) is not known: there is no latency evidence; it must be measured on the device."
    )


def test_evidence_of_another_variant_is_refused() -> None:
    with pytest.raises(errors.EvidenceInvalidError, match="drift evidence belongs to another variant"):
        verdict(NO_DRIFT, samples.drift(variant_sha256="0" * 64))


def test_the_worst_row_counts_and_is_named() -> None:
    found = finding(Budgets(decode_tokens_per_s_min=10.0), samples.latency())
    assert found.reason == (
        "Decode speed (p50) is 9.87 tokens/s at a prompt of 1,024 tokens, under the minimum of 10 tokens/s."
    )


@given(speeds=st.lists(st.floats(min_value=0.01, max_value=1e4), min_size=1, max_size=6))
def test_the_worst_row_is_the_slowest(speeds: list[float]) -> None:
    row = samples.latency().rows[0]
    latency = latency_rows(*(row.model_copy(update=decoding(*[speed] * 5)) for speed in speeds))
    found = finding(Budgets(decode_tokens_per_s_min=5.0), latency)
    assert found.value == min(speeds)
    assert (found.outcome is Outcome.PASS) == all(speed >= 5.0 for speed in speeds)


TIMES = ("ttft_p50_ms_max", "prefill_tokens_per_s_min", "decode_tokens_per_s_min", "inter_token_p99_ms_max")
ALL = samples.LENGTHS


def test_which_budgets_are_judged_at_every_prompt_length() -> None:
    assert {name for name, rule in RULES.items() if rule.by_prompt} == set(TIMES)


@pytest.mark.parametrize("name", TIMES)
def test_a_time_passes_only_where_every_prompt_length_was_measured(name: str) -> None:
    budgets, rows = Budgets.model_validate({name: CASES[name][0]}), samples.latency().rows
    assert finding(budgets, samples.latency(), lengths=ALL).outcome is Outcome.PASS
    for left_out in range(len(rows)):
        kept = rows[:left_out] + rows[left_out + 1 :]
        found = finding(budgets, latency_rows(*kept), lengths=ALL)
        assert (found.outcome, found.value is None) == (Outcome.UNVERIFIED, False)
        assert f"not known at prompts of {rows[left_out].prompt_tokens:,} tokens with 64 decoded" in found.reason
        assert "`phiforge bench`" in found.reason


def test_several_lengths_that_are_missing_are_all_named() -> None:
    found = finding(Budgets(ttft_p50_ms_max=5000.0), latency_rows(samples.latency().rows[0]), lengths=ALL)
    assert "is 331 ms at a prompt of 16 tokens, within the maximum of 5,000 ms; with 95 % confidence" in found.reason
    assert "but it is not known at prompts of 128, 512, 1,024 tokens with 64 decoded after each;" in found.reason


def test_a_short_prompt_that_is_too_slow_fails_though_longer_ones_are_missing() -> None:
    found = finding(Budgets(ttft_p50_ms_max=300.0), latency_rows(samples.latency().rows[0]), lengths=ALL)
    assert found.outcome is Outcome.FAIL


def test_several_records_cover_the_lengths_together() -> None:
    first, *others = samples.latency().rows
    budgets = Budgets(ttft_p50_ms_max=14_000.0)
    assert finding(budgets, latency_rows(first), latency_rows(*others), lengths=ALL).outcome is Outcome.PASS


@pytest.mark.parametrize(("decoded", "outcome"), [(1, "unverified"), (63, "unverified"), (64, "pass"), (65, "pass")])
def test_a_row_with_fewer_tokens_decoded_covers_no_length(decoded: int, outcome: str) -> None:
    row = samples.latency().rows[0].model_copy(update={"decode_tokens": decoded})
    assert finding(Budgets(ttft_p50_ms_max=5000.0), latency_rows(row)).outcome == outcome


@pytest.mark.parametrize(
    ("lengths", "doubt"),
    [
        (None, "nothing says at which prompt lengths"),
        (PromptLengths(prompt_tokens=(), decode_tokens=64), "no prompt length of the profile fits the variant's"),
    ],
)
def test_without_lengths_no_time_passes(lengths: PromptLengths | None, doubt: str) -> None:
    found = finding(Budgets(ttft_p50_ms_max=14_000.0), samples.latency(), lengths=lengths)
    assert found.outcome is Outcome.UNVERIFIED
    assert doubt in found.reason


def test_one_token_shows_nothing_of_a_profile_that_measures_sixteen_to_1024() -> None:
    row = samples.latency().rows[0].model_copy(update={"prompt_tokens": 1, "decode_tokens": 1})
    for name in TIMES:
        found = finding(Budgets.model_validate({name: CASES[name][0]}), latency_rows(row), lengths=ALL)
        assert found.outcome is not Outcome.PASS


def test_latency_without_rows_is_unverified() -> None:
    found = finding(Budgets(decode_tokens_per_s_min=5.0), latency_rows())
    assert (found.outcome, found.value) == (Outcome.UNVERIFIED, None)


def test_drift_over_no_position_is_unverified() -> None:
    assert finding(NO_DRIFT, drift(0.0, positions=0)).outcome is Outcome.UNVERIFIED


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_no_finite_number_never_passes(bad: float) -> None:
    assert finding(NO_DRIFT, drift(bad)).outcome is Outcome.FAIL
    row = samples.latency().rows[0]
    latency = latency_rows(row, row.model_copy(update={"decode_tokens_per_s_p50": bad}))
    found = finding(Budgets(decode_tokens_per_s_min=1.0), latency)
    assert (found.outcome, found.value) == (Outcome.FAIL, None)


def test_recovery_of_nothing_is_unverified() -> None:
    empty: TaskScore = samples.score("overall", 120, 0, lost=0, gained=0, p=1.0).model_copy(
        update={"recovery_fraction": 1.0}
    )
    tasks: Tasks = samples.tasks().model_copy(update={"overall": empty})
    found = finding(Budgets(answer_recovery_fraction_min=0.98), tasks)
    assert (found.outcome, found.value) == (Outcome.UNVERIFIED, None)
    assert "none of 120 questions" in found.reason


def test_a_failed_blocking_probe_fails_everything() -> None:
    result = verdict(NO_DRIFT, drift(0.01), probes(Probe(name="stops", passed=False, detail="It never stops.")))
    assert result.outcome is Outcome.FAIL
    assert result.findings[-1].budget == "probe:stops"
    assert result.findings[-1].value == 0.0


def test_a_failed_blocking_probe_fails_on_any_kind() -> None:
    failed = probes(Probe(name="stops", passed=False, detail="It never stops."), kind=Kind.SURROGATE)
    assert verdict(NO_DRIFT, drift(0.01), failed).outcome is Outcome.FAIL


def test_a_failed_advisory_probe_is_no_finding() -> None:
    items = (
        Probe(name="stops", passed=True, detail="It stops."),
        Probe(name="style", passed=False, blocking=False, detail="It rambles."),
    )
    result = verdict(NO_DRIFT, drift(0.01), probes(*items))
    assert [item.budget for item in result.findings] == [
        "kl_mean_nats_max", *(f"probe:{name}" for name in REQUIRED_PROBES), "probe:stops",
    ]  # fmt: skip
    assert result.outcome is Outcome.PASS


def test_a_probe_passed_on_a_kind_not_accepted_is_unverified() -> None:
    passed = Probe(name="stops", passed=True, detail="It stops.")
    assert verdict(NO_DRIFT, drift(0.01), probes(passed, kind=Kind.SURROGATE)).outcome is Outcome.UNVERIFIED
    both = (probes(passed), probes(passed, kind=Kind.SURROGATE))
    assert verdict(NO_DRIFT, drift(0.01), *both).outcome is Outcome.PASS
    assert verdict(NO_DRIFT, drift(0.01), *reversed(both)).outcome is Outcome.PASS


@pytest.mark.parametrize("evidence", [(), (probes().model_copy(update={"probes": ()}),)])
def test_no_blocking_probe_is_unverified(evidence: tuple[Probes, ...]) -> None:
    result = verdict(NO_DRIFT, drift(0.01), *evidence)
    assert (result.outcome, result.findings[-1].budget) == (Outcome.UNVERIFIED, "probes")


@pytest.mark.parametrize("lacking", REQUIRED_PROBES)
def test_a_probe_that_every_variant_has_must_be_there(lacking: str) -> None:
    some = probes().model_copy(update={"probes": tuple(item for item in REQUIRED if item.name != lacking)})
    result = verdict(NO_DRIFT, drift(0.01), some)
    assert (result.outcome, result.findings[-1].budget) == (Outcome.UNVERIFIED, f"probe:{lacking}")


def test_no_budget_at_all_is_unverified() -> None:
    result = verdict(Budgets(), samples.drift(), samples.probes(), samples.latency())
    assert (result.outcome, result.findings[0].budget) == (Outcome.UNVERIFIED, "budgets")


def test_any_fail_outweighs_any_unverified() -> None:
    result = verdict(Budgets(kl_mean_nats_max=0.01, load_ms_max=1.0), drift(0.02))
    assert {item.outcome for item in result.findings} == {Outcome.FAIL, Outcome.UNVERIFIED}
    assert result.outcome is Outcome.FAIL


@given(
    kl=st.floats(allow_nan=True, allow_infinity=True),
    error=st.one_of(st.floats(min_value=0), st.just(math.nan)),
    limit=st.floats(min_value=1e-6, max_value=10),
    kind=st.sampled_from(Kind),
    accepts=st.lists(st.sampled_from(Kind), min_size=1, unique=True),
)
def test_a_pass_is_always_an_accepted_number_whose_bound_keeps_the_limit(
    kl: float, error: float, limit: float, kind: Kind, accepts: list[Kind]
) -> None:
    found = finding(Budgets(kl_mean_nats_max=limit), drift(kl, kind, error), accepts=accepts)
    passes = kind in accepts and math.isfinite(kl) and kl + student_t(63) * error <= limit
    assert (found.outcome is Outcome.PASS) == passes
    broken = not (math.isfinite(kl) and kl <= limit)
    assert (found.outcome is Outcome.FAIL) == (kind in accepts and broken)


# Estimates: the bound decides. 64 blocks: Student's t has 63 degrees of freedom, 1.6694 at 95 %.


def test_a_value_whose_bound_breaks_the_limit_is_unverified_and_says_how_many_would_do() -> None:
    found = finding(NO_DRIFT, drift(0.0288, error=0.001))
    assert (found.outcome, found.value) == (Outcome.UNVERIFIED, 0.0288)
    assert found.bound == pytest.approx(0.0288 + 1.6694 * 0.001, abs=1e-7)
    assert found.reason == (
        "Mean KL divergence is 0.0288 nats, within the maximum of 0.03 nats, but with 95 % confidence only at most "
        "0.03047 nats (64 blocks of text; about 130 would do if they are like these)."
    )
    # 64 * (1.6694 / 1.2)^2 = 123.9; the reason rounds up to two digits.
    enough = drift(0.0288, error=0.001 * math.sqrt(64 / 130), blocks=130)
    assert finding(NO_DRIFT, enough).outcome is Outcome.PASS
    assert finding(NO_DRIFT, drift(0.0288, error=0.001 * math.sqrt(64 / 110), blocks=110)).outcome is Outcome.UNVERIFIED


def test_a_value_on_the_limit_needs_more_samples_than_there_are() -> None:
    assert "no number of them would do" in finding(NO_DRIFT, drift(0.03)).reason


@given(kl=st.floats(0.001, 0.029), error=st.floats(1e-5, 0.05), blocks=st.integers(FEWEST_GROUPS, 500))
def test_the_number_that_is_named_is_enough_and_half_of_it_is_not(kl: float, error: float, blocks: int) -> None:
    found = finding(NO_DRIFT, drift(kl, error=error, blocks=blocks))
    if found.outcome is Outcome.PASS:
        return
    named = re.search(r"about ([\d,]+) would do", found.reason)
    assert named, found.reason
    count = int(named[1].replace(",", ""))
    for more, outcome in ((count, Outcome.PASS), (max(blocks, count // 2), Outcome.UNVERIFIED)):
        again = drift(kl, error=error * math.sqrt(blocks / more), blocks=more)
        assert finding(NO_DRIFT, again).outcome is outcome or more == blocks == count


BY_BLOCKS = {
    name: CASES[name][0]
    for name in ("kl_mean_nats_max", "kl_p99_nats_max", "top1_agreement_fraction_min", "perplexity_ratio_max")
}


@pytest.mark.parametrize("name", BY_BLOCKS)
@pytest.mark.parametrize(("blocks", "outcome"), [(0, "unverified"), (1, "unverified"), (8, "unverified"), (9, "pass")])
def test_fewer_than_nine_blocks_have_no_bound(name: str, blocks: int, outcome: str) -> None:
    few = samples.drift().model_copy(update={"blocks": blocks})
    found = finding(Budgets.model_validate({name: BY_BLOCKS[name]}), few)
    assert (found.outcome, found.bound is None) == (outcome, outcome == "unverified")
    if outcome == "unverified":
        assert f"{blocks} blocks of text give no bound at 95 % confidence: 9 are needed" in found.reason


def test_blocks_without_a_difference_are_not_certain() -> None:
    """All of 14 blocks agree wholly: Clopper and Pearson's bound of 499 positions, made fewer for 13 degrees."""
    alike = drift(0.0, top1_agreement_fraction=Estimate(mean=1.0, standard_error=0.0), blocks=14, positions=499)
    effective = 499 * (1.6448536 / student_t(13)) ** 2
    found = finding(Budgets(top1_agreement_fraction_min=0.92), alike)
    assert found.outcome is Outcome.PASS
    assert found.bound == pytest.approx(0.05 ** (1 / effective), abs=1e-7)
    strict = finding(Budgets(top1_agreement_fraction_min=0.995), alike)
    assert strict.outcome is Outcome.UNVERIFIED
    named = re.search(r"(\d+) would do", strict.reason)
    assert named
    for blocks, outcome in ((int(named[1]), Outcome.PASS), (int(named[1]) // 2, Outcome.UNVERIFIED)):
        more = alike.model_copy(update={"blocks": blocks, "positions": round(499 * blocks / 14)})
        assert finding(Budgets(top1_agreement_fraction_min=0.995), more).outcome is outcome


@pytest.mark.parametrize(("positions", "outcome"), [(100, Outcome.UNVERIFIED), (4000, Outcome.PASS)])
def test_an_agreement_is_no_surer_than_of_independent_positions(positions: int, outcome: Outcome) -> None:
    """However little the blocks differ: 94 of 100 positions show no 92 %."""
    steady = drift(
        0.0, top1_agreement_fraction=Estimate(mean=0.94, standard_error=1e-9), blocks=64, positions=positions
    )
    assert finding(Budgets(top1_agreement_fraction_min=0.92), steady).outcome is outcome


def test_an_agreement_that_differs_from_block_to_block_is_judged_by_the_blocks() -> None:
    """0.94 with an error of 0.015 over 9 blocks: Student's t leaves 0.912, however many positions there are."""
    uneven = drift(0.0, top1_agreement_fraction=Estimate(mean=0.94, standard_error=0.015), blocks=9, positions=10**6)
    found = finding(Budgets(top1_agreement_fraction_min=0.92), uneven)
    assert found.outcome is Outcome.UNVERIFIED
    assert found.bound is not None
    assert found.bound <= 0.94 - 1.8595 * 0.015 + 1e-6


LACKING: dict[str, AnyEvidence] = {
    "kl_p99_nats_max": samples.drift().model_copy(update={"kl_p99_interval_nats": None}),
    "answer_recovery_fraction_min": samples.tasks().model_copy(
        update={"overall": samples.tasks().overall.model_copy(update={"recovery_interval_fraction": None})}
    ),
    "ttft_p50_ms_max": latency_rows(samples.latency().rows[0].model_copy(update={"ttft_ms": ()})),
    "prefill_tokens_per_s_min": latency_rows(samples.latency().rows[0].model_copy(update={"ttft_ms": ()})),
    "decode_tokens_per_s_min": latency_rows(samples.latency().rows[0].model_copy(update={"decode_tokens_per_s": ()})),
    "inter_token_p99_ms_max": latency_rows(
        samples.latency().rows[0].model_copy(update={"inter_token_p99_interval_ms": None})
    ),
}


@pytest.mark.parametrize("name", LACKING)
def test_evidence_that_does_not_say_how_sure_it_is_never_passes(name: str) -> None:
    found = finding(Budgets.model_validate({name: CASES[name][0]}), LACKING[name])
    assert (found.outcome, found.bound) == (Outcome.UNVERIFIED, None)
    assert "does not say how sure that is" in found.reason


def test_which_budgets_are_estimates() -> None:
    assert {name for name, rule in RULES.items() if not rule.samples} == {
        "variant_bytes_max",
        "peak_anon_bytes_max",
        "emulator_relative_error_max",
        "provider_relative_error_max",
        "float16_relative_error_max",
    }


def test_the_slowest_of_five_repeats_is_the_bound_of_their_median() -> None:
    row = samples.latency().rows[0]
    steady = latency_rows(row.model_copy(update=decoding(9.0, 10.0, 11.0, 12.0, 13.0)))
    found = finding(Budgets(decode_tokens_per_s_min=9.0), steady)
    assert (found.outcome, found.value, found.bound) == (Outcome.PASS, 11.0, 9.0)
    one_slow = latency_rows(row.model_copy(update=decoding(4.0, 10.0, 11.0, 12.0, 13.0)))
    found = finding(Budgets(decode_tokens_per_s_min=9.0), one_slow)
    assert (found.outcome, found.value, found.bound) == (Outcome.UNVERIFIED, 11.0, 4.0)
    # The bound is 7 away, 2 are allowed: 5 * (7 / 2)^2 = 61.25.
    assert "(5 repeats; about 62 would do if they are like these)" in found.reason


@pytest.mark.parametrize(
    ("first", "again", "outcome", "value", "bound"),
    [
        (900.0, (500.0, 510.0, 520.0, 530.0, 540.0), "pass", 900.0, None),
        (1001.0, (500.0, 510.0, 520.0, 530.0, 540.0), "fail", 1001.0, None),
        (900.0, (500.0, 510.0, 1020.0, 1030.0, 1040.0), "fail", 1020.0, None),
        (900.0, (500.0, 510.0, 520.0, 530.0, 1001.0), "unverified", 520.0, 1001.0),
        (900.0, (500.0, 510.0, 520.0, 530.0), "unverified", 515.0, None),
        (900.0, (), "unverified", 900.0, None),
    ],
)
def test_a_load_is_judged_in_a_new_process_and_by_the_bound_of_those_after_it(
    first: float, again: tuple[float, ...], outcome: str, value: float, bound: float | None
) -> None:
    found = finding(Budgets(load_ms_max=1000.0), loading(first, *again))
    assert (found.outcome, found.value, found.bound) == (outcome, value, bound)
    assert len(again) != 4 or "4 loads give no bound at 95 % confidence: 5 are needed" in found.reason


def test_four_repeats_have_no_bound() -> None:
    row = samples.latency().rows[0].model_copy(update=decoding(10.0, 11.0, 12.0, 13.0))
    found = finding(Budgets(decode_tokens_per_s_min=9.0), latency_rows(row))
    assert found.outcome is Outcome.UNVERIFIED
    assert "4 repeats give no bound at 95 % confidence: 5 are needed" in found.reason


def test_few_questions_without_a_flip_show_little() -> None:
    """With nothing flipped the bound is at n / (n + 2.706) of the questions: 98 % take 133 of them."""
    for questions, outcome in ((60, Outcome.UNVERIFIED), (132, Outcome.UNVERIFIED), (133, Outcome.PASS)):
        overall = samples.score("overall", questions, questions, lost=0, gained=0, p=1.0)
        found = finding(
            Budgets(answer_recovery_fraction_min=0.98), samples.tasks().model_copy(update={"overall": overall})
        )
        assert (found.outcome, found.value) == (outcome, 1.0)
        if outcome is Outcome.UNVERIFIED:
            assert "about 140 would do" in found.reason


def test_an_interval_that_is_better_than_its_value_does_not_help() -> None:
    made_up = drift(0.01, kl_p99_interval_nats=Interval(low=0.0, high=0.0))
    found = finding(Budgets(kl_p99_nats_max=0.25), made_up)
    assert (found.outcome, found.bound) == (Outcome.PASS, 0.2017)


@pytest.mark.parametrize(("positions", "blocks", "fewest"), [(64, 4, 21), (310, 10, 12), (1000, 3, 9)])
def test_a_p99_of_too_few_positions_or_blocks_says_how_many_blocks(positions: int, blocks: int, fewest: int) -> None:
    few = drift(0.01, kl_p99_interval_nats=Interval(low=0.1, high=None), positions=positions, blocks=blocks)
    found = finding(Budgets(kl_p99_nats_max=0.5), few)
    assert found.outcome is Outcome.UNVERIFIED
    assert f"{blocks} blocks of text give no bound at 95 % confidence: {fewest} are needed" in found.reason


def test_the_perplexity_ratio_s_bound_is_of_its_logarithm() -> None:
    found = finding(Budgets(perplexity_ratio_max=1.05), samples.drift())
    assert found.bound == pytest.approx(math.exp(0.01856 + 1.6694 * 0.0013), abs=1e-6)


@pytest.mark.parametrize(("outcome", "code"), [(Outcome.PASS, 0), (Outcome.FAIL, 3), (Outcome.UNVERIFIED, 4)])
def test_exit_codes(outcome: Outcome, code: int) -> None:
    assert exit_code(Verdict(outcome=outcome, findings=())) == code


def test_a_verdict_survives_json() -> None:
    result = samples.report().verdict
    assert Verdict.model_validate_json(result.model_dump_json()) == result


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0, "0"), (0.0213, "0.0213"), (12_411.0, "12,411"), (2.4e-7, "2.4e-7"), (1.0, "1"), (-0.5, "-0.5")],
)
def test_numbers_are_short_and_exact_enough(value: float, text: str) -> None:
    assert number(value) == text


def test_quantities_carry_units() -> None:
    assert quantity(0.9341, "fraction") == "93.41 %"
    assert quantity(2_941_337_088, "bytes") == "2.941 GB"
    assert quantity(999_999_999, "bytes") == "1 GB"
    assert quantity(512, "bytes") == "512 bytes"
    assert quantity(12_411.0, "ms") == "12,411 ms"


@given(value=st.floats(min_value=-1e15, max_value=1e15), digits=st.integers(2, 10))
def test_written_numbers_stay_close(value: float, digits: int) -> None:
    assert float(number(value, digits).replace(",", "")) == pytest.approx(value, rel=10.0 ** (1 - digits), abs=1e-300)


def test_of_several_verdicts_fail_is_the_worst() -> None:
    kept, broken = verdict(NO_DRIFT, drift(0.01), samples.probes()), verdict(NO_DRIFT, drift(0.1), samples.probes())
    unknown = verdict(NO_DRIFT)
    assert [exit_code(kept), exit_code(kept, unknown), exit_code(unknown, broken, kept)] == [0, 4, 3]
