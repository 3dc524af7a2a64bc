"""Where a page shows one of several records, it is the one that was judged."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from phiforge.evidence import Kind, MemoryNeed, PredictedRow, Prediction
from phiforge.gate import RULES, Finding, Lack, Outcome
from phiforge.reporting.charts import charts
from phiforge.reporting.chosen import measured_beside, prediction_beside
from phiforge.reporting.content import key_numbers, sections
from phiforge.reporting.matrix import matrix
from phiforge.reporting.missing import Missing, missing
from phiforge.target import Budgets
from unit.reporting import samples

if TYPE_CHECKING:
    from phiforge.evidence import AnyEvidence, Latency, Machine
    from phiforge.reporting import Report

OTHER = samples.MACHINE.model_copy(update={"processor": "another"})


def on(machine: Machine, factor: float) -> Latency:
    """Latency on another machine, so many times as slow."""
    made = samples.latency()
    rows = tuple(
        row.model_copy(
            update={
                "ttft_p50_ms": row.ttft_p50_ms * factor,
                "decode_tokens_per_s_p50": row.decode_tokens_per_s_p50 / factor,
            }
        )
        for row in made.rows
    )
    conditions = made.conditions.model_copy(update={"machine": machine})
    peak = round(made.peak_anon_bytes * factor)
    return made.model_copy(update={"rows": rows, "conditions": conditions, "peak_anon_bytes": peak})


def prediction(machine: Machine, threads: int, speed: float) -> Prediction:
    """What a roofline says of a machine; the profile's device has no threads."""
    return Prediction(
        kind=Kind.PREDICTED,
        conditions=samples.conditions().model_copy(update={"machine": machine, "threads": threads}),
        variant_sha256=samples.VARIANT,
        profile="cpu-x64",
        bandwidth_bytes_per_s=1e10,
        operations_per_s=1e12,
        bandwidth_efficiency_fraction=0.6,
        compute_efficiency_fraction=0.3,
        efficiency_source="made up",
        rows=(PredictedRow(prompt_tokens=1024, ttft_ms=1000.0, decode_tokens_per_s=speed),),
        memory=MemoryNeed(
            context_tokens=4096,
            weights_bytes=1,
            kv_cache_bytes_per_token=1,
            kv_cache_bytes=1,
            workspace_bytes=1,
            total_bytes=4,
        ),
    )


@pytest.mark.parametrize("turned", [False, True])
def test_the_headline_is_of_the_record_that_was_judged(turned: bool) -> None:
    fast, slow = on(OTHER, 0.5), samples.latency()
    fewer = samples.tasks().model_copy(update={"overall": samples.score("overall", 750, 534, lost=90, gained=1, p=0.0)})
    records: tuple[AnyEvidence, ...] = (fast, slow, samples.tasks(), fewer)
    report = samples.report(evidence=tuple(reversed(records)) if turned else records)
    shown = {item.title: item for item in key_numbers(report)}
    assert shown["Decode speed"].value == "9.87 tokens/s"
    assert shown["Time to first token"].value == "12,411 ms"
    assert shown["Peak anonymous memory"].value == "1.2 GB"
    assert shown["Answer recovery"].value == "83.33 %"
    names = [shown[title].evidence for title in ("Decode speed", "Answer recovery")]
    assert names == (["latency", "tasks"] if turned else ["latency-measured", "tasks-measured"])
    # The matrix shows the same.
    (row,) = matrix(samples.fleet(report)).rows
    assert [row.values[0].evidence, row.values[5].evidence] == names


def test_the_headline_has_a_time_that_was_not_measured_only_where_none_was() -> None:
    for records in ((samples.latency(Kind.SURROGATE), on(OTHER, 0.5)), (samples.latency(Kind.SURROGATE),)):
        report = samples.report(evidence=records, budgets=Budgets(variant_bytes_max=1))
        shown = {item.title: item for item in key_numbers(report)}
        expected = Kind.MEASURED if len(records) == 2 else Kind.SURROGATE
        assert {shown[title].kind for title in ("Decode speed", "Peak anonymous memory")} == {expected}


@pytest.mark.parametrize("turned", [False, True])
def test_the_matrix_notes_the_prediction_for_the_profile_s_device(turned: bool) -> None:
    device, there = prediction(OTHER, 0, 20.0), prediction(samples.MACHINE, 4, 40.0)
    for records, said in (((there, device), "20"), ((there,), "40")):
        report = samples.report(evidence=tuple(reversed(records)) if turned else records)
        (row,) = matrix(samples.fleet(report)).rows
        assert row.values[0].note == f"not measured; predicted {said} at 1,024 tokens"
        drawn = [name for name in charts(report) if name.startswith("prediction")]
        assert drawn == (["prediction-predicted"] if len(records) == 2 and not turned else ["prediction"])


@pytest.mark.parametrize("turned", [False, True])
def test_a_prediction_stands_beside_the_machine_that_it_is_for(turned: bool) -> None:
    device, there = prediction(OTHER, 0, 20.0), prediction(samples.MACHINE, 4, 40.0)
    here, slower = samples.latency(), on(OTHER, 2.0)
    timed = (slower, here) if turned else (here, slower)
    report = samples.report(evidence=(*timed, device, there))
    assert measured_beside(report, there) is here
    assert measured_beside(report, device) is slower
    assert prediction_beside(report, here) is there
    assert prediction_beside(report, slower) is device
    # Nothing that was not measured stands beside one.
    assert measured_beside(samples.report(evidence=(samples.latency(Kind.SURROGATE), device)), device) is None
    (entry,) = samples.fleet(report).entries
    captions = [item.tables[0].caption for item in sections(entry) if item.key.startswith("prediction")]
    assert [caption.split(" is ")[0] for caption in captions] == ["Difference", "Error"]


def told(report: Report) -> list[Missing]:
    (entry,) = samples.fleet(report).entries
    return [item for item in missing(entry) if any(item.what.startswith(rule.title) for rule in RULES.values())]


BENCH, VALIDATE = "phiforge bench mini.ortpackage --target cpu-x64", "phiforge validate mini.ortpackage"


def test_what_few_samples_leave_open_is_missing_certainty() -> None:
    report = samples.report(evidence=(samples.drift(),), budgets=Budgets(kl_mean_nats_max=0.0214))
    assert told(report) == [Missing("Mean KL divergence with enough certainty", "with more samples", VALIDATE)]


def test_what_was_measured_at_some_lengths_is_missing_at_every_one() -> None:
    """Too few repeats at those there are do not hide the others."""
    made = samples.latency()
    for repeats in (5, 3):
        row = made.rows[0].model_copy(update={"ttft_ms": made.rows[0].ttft_ms[:repeats]})
        part = made.model_copy(update={"rows": (row,)})
        report = samples.report(evidence=(part,), budgets=Budgets(ttft_p50_ms_max=14_000.0))
        what = "Time to first token (p50) at every prompt length"
        assert told(report) == [Missing(what, "on a machine of the profile (x86-64 CPU)", BENCH)]
        found: Finding = report.verdict.findings[0]
        assert (found.outcome, found.lacking) == (Outcome.UNVERIFIED, Lack.PROMPT_LENGTHS)
        assert "it is not known at prompts of 128, 512, 1,024 tokens" in found.reason
        assert ("3 repeats give no bound" in found.reason) == (repeats == 3)


def test_what_is_of_another_kind_lacks_no_samples() -> None:
    """Drift and times of another kind are told as such; of agreement its kind is."""
    records = (samples.drift(Kind.SURROGATE), samples.latency(Kind.EMULATED), samples.agreement())
    budgets = Budgets(kl_mean_nats_max=0.03, ttft_p50_ms_max=14_000.0, emulator_relative_error_max=0.02)
    report = samples.report(evidence=records, budgets=budgets)
    assert [item.lacking for item in report.verdict.findings[:3]] == [Lack.KIND] * 3
    what = "Relative logit error of the emulator of a kind that this profile accepts (measured)"
    assert told(report) == [Missing(what, "on a machine of the profile (x86-64 CPU)", VALIDATE)]


def test_what_passes_or_fails_lacks_nothing() -> None:
    for limit in (0.03, 0.01):
        report = samples.report(evidence=(samples.drift(),), budgets=Budgets(kl_mean_nats_max=limit))
        assert report.verdict.findings[0].lacking is None
        assert not told(report)
