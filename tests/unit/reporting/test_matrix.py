"""The matrix of models and devices, what is missing, and the forms for other tools."""

from __future__ import annotations

import json
import math
import statistics

import pytest
import yaml
from typer.main import get_command

import fleet as made_up
from phiforge.cli.app import app
from phiforge.evidence import AnyEvidence, Estimate, Kind, Latency
from phiforge.gate import Outcome
from phiforge.reporting import Fleet, llama_bench_json, make_fleet, perf_yaml, report_markdown
from phiforge.reporting.matrix import COLUMNS, Row, matrix
from phiforge.reporting.missing import missing
from phiforge.reporting.names import evidence_names
from phiforge.reporting.schema import slug
from phiforge.target import Budgets
from unit.reporting import samples


@pytest.fixture(scope="module")
def fleet() -> Fleet:
    return made_up.fleet(made_up.MODELS[:2])


def _row(given: Fleet, key: str) -> Row:
    return next(row for row in matrix(given).rows if row.key == key)


def test_it_has_a_row_for_each_model_and_device_with_measured_times(fleet: Fleet) -> None:
    rows = matrix(fleet).rows
    assert len(rows) == len({row.key for row in rows}) == 24
    row = _row(fleet, "made-up-mini-instruct/cpu-x64-desktop")
    assert len(row.values) == len(COLUMNS)
    latency = fleet.entries[0].report.latency
    assert latency is not None
    last = latency.rows[-1]
    assert [value.order for value in row.values[:3]] == [
        last.decode_tokens_per_s_p50,
        last.ttft_p50_ms,
        latency.peak_anon_bytes,
    ]
    assert [value.kind for value in row.values] == ["measured"] * 3 + ["fact"] + ["measured"] * 2


def test_a_prediction_is_never_a_value(fleet: Fleet) -> None:
    row = _row(fleet, "made-up-mini-instruct/qnn-phone")
    for value in row.values[:3]:
        assert (value.shown, value.order, value.kind) == ("—", None, "")
        assert value.note.startswith("not measured; predicted ")
    assert row.kinds == ("emulated",)


def test_surrogate_latency_is_not_a_value_either() -> None:
    given = samples.fleet(samples.report(evidence=(samples.drift(), samples.latency(Kind.SURROGATE))))
    (row,) = matrix(given).rows
    assert [value.note for value in row.values[:3]] == ["not measured"] * 3


def test_times_are_at_a_prompt_that_all_measured() -> None:
    short = samples.latency().model_copy(update={"rows": samples.latency().rows[:2]})
    full, part = samples.report(), samples.report(evidence=(samples.drift(), short))
    both = matrix(samples.fleet(full, part))
    assert both.prompt_tokens == 128
    assert [row.values[1].order for row in both.rows] == [1542.0, 1542.0]
    odd = short.model_copy(update={"rows": (short.rows[0].model_copy(update={"prompt_tokens": 7}),)})
    apart = matrix(samples.fleet(full, samples.report(evidence=(odd,))))
    assert apart.prompt_tokens is None
    assert [row.values[0].note for row in apart.rows] == ["at 1,024 tokens", "at 7 tokens"]


def test_of_two_devices_the_slower_stands_in_the_matrix() -> None:
    fast = samples.latency()
    rows = tuple(row.model_copy(update={"decode_tokens_per_s_p50": 1.5}) for row in fast.rows)
    slow = fast.model_copy(update={"rows": rows})
    (row,) = matrix(samples.fleet(samples.report(evidence=(fast, slow)))).rows
    assert row.values[0].order == 1.5
    assert row.values[0].evidence == "latency-measured"


def test_equal_names_get_keys_of_their_own() -> None:
    (entry,) = samples.fleet().entries
    keys = [item.key for item in make_fleet([entry, entry, entry], "1").entries]
    assert keys == ["Phi-4-mini-instruct/cpu-x64", "Phi-4-mini-instruct/cpu-x64-2", "Phi-4-mini-instruct/cpu-x64-3"]
    assert slug("a b/<c>'") == "c"
    assert slug("///") == "x"


def test_the_markdown_has_the_matrix_with_kinds(fleet: Fleet) -> None:
    lines = report_markdown(fleet).splitlines()
    (row,) = [line for line in lines if line.startswith("| made-up-mini-instruct | Made-up phone NPU |")]
    assert "— not measured; predicted " in row
    assert "emulated |" in row


def test_what_is_missing_names_the_command() -> None:
    (entry,) = samples.fleet(samples.npu_report()).entries
    told = {item.what: item for item in missing(entry)}
    wanted = told["Measured latency and memory"]
    # On an NPU `measure` refuses: its drift cannot be measured there.
    assert wanted.command == "phiforge bench mini.ortpackage --target qnn-x-elite"
    assert "machine of the profile" in wanted.where
    assert told["Refusals"].command == "phiforge validate mini.ortpackage"
    (bare,) = samples.fleet(samples.report(evidence=())).entries
    assert {"Drift", "Answers to tasks", "Probes"} <= {item.what for item in missing(bare)}
    given = bare.model_copy(update={"path": "../the packages/mini.ortpackage"})
    for item in missing(given):
        assert not item.command or "'../the packages/mini.ortpackage'" in item.command
    assert missing(given)[0].command == "phiforge measure '../the packages/mini.ortpackage' --target cpu-x64"


@pytest.mark.parametrize("evidence", [(), samples.npu_evidence(), (samples.latency(), samples.drift())])
def test_every_command_that_is_named_exists(evidence: tuple[AnyEvidence, ...]) -> None:
    (entry,) = samples.fleet(samples.report(evidence=evidence)).entries
    commands = get_command(app).commands  # type: ignore[attr-defined]
    for item in missing(entry):
        if item.command:
            program, verb, *words = item.command.split()
            assert program == "phiforge"
            known = {option for parameter in commands[verb].params for option in parameter.opts}
            assert {word for word in words if word.startswith("--")} <= known


def test_a_name_cannot_smuggle_a_command_in() -> None:
    (entry,) = samples.fleet(samples.report(evidence=())).entries
    entry = entry.model_copy(update={"package": "p; rm -rf ~"})
    assert missing(entry)[0].command == "phiforge measure 'p; rm -rf ~' --target cpu-x64"


def test_evidence_of_a_kind_that_is_not_accepted_is_missing() -> None:
    report = samples.report(evidence=(samples.drift(Kind.SURROGATE), samples.latency()))
    (entry,) = samples.fleet(report).entries
    told = {item.what: item.command for item in missing(entry)}
    assert told["Drift of a kind that this profile accepts (measured)"] == (
        "phiforge measure mini.ortpackage --target cpu-x64"
    )


def test_llama_bench_rows_are_the_measured_repeats(fleet: Fleet) -> None:
    tests = json.loads(llama_bench_json(fleet))
    measured = [record for entry in fleet.entries for record in entry.report.evidence if isinstance(record, Latency)]
    assert len(tests) == 2 * sum(len(record.rows) for record in measured)
    prompt, generation = tests[:2]
    row = measured[0].rows[0]
    assert (prompt["n_prompt"], prompt["n_gen"], prompt["n_depth"]) == (64, 0, 0)
    assert (generation["n_prompt"], generation["n_gen"], generation["n_depth"]) == (0, 64, 64)
    assert prompt["samples_ns"] == [round(time * 1e6) for time in row.ttft_ms]
    assert prompt["avg_ts"] == pytest.approx(statistics.fmean(64 / time * 1000 for time in row.ttft_ms))
    assert generation["samples_ts"] == list(row.decode_tokens_per_s)
    assert generation["avg_ns"] == pytest.approx(
        statistics.fmean(64 / speed * 1e9 for speed in row.decode_tokens_per_s), rel=1e-6
    )
    assert prompt["stddev_ns"] == pytest.approx(statistics.stdev(row.ttft_ms) * 1e6, rel=1e-6)
    assert prompt["test_time"] == "2026-11-20T09:30:00Z"
    assert prompt["model_n_params"] == 3_836_021_760


# What llama.cpp's tools/llama-bench/llama-bench.cpp writes (test::get_fields, and the samples of its json_printer), at
# commit 0104b151c56d54143e2e3554aabe9e2b2b8dbdba.
LLAMA_BENCH_FIELDS = frozenset(
    """
    build_commit build_number cpu_info gpu_info backends model_filename model_type model_size model_n_params n_batch
    n_ubatch n_threads cpu_mask cpu_strict poll type_k type_v n_gpu_layers n_cpu_moe split_mode main_gpu no_kv_offload
    flash_attn devices tensor_split tensor_buft_overrides load_mode embeddings no_op_offload no_host fit_target
    fit_min_ctx n_prompt n_gen n_depth test_time avg_ns stddev_ns avg_ts stddev_ts samples_ns samples_ts
    """.split()
)
# What its scripts/compare-llama-bench.py cannot do without (LLAMA_BENCH_KEY_PROPERTIES and check_keys), at commit
# 9f797bab0c5934eca3d8d4c374979fc3416fb86e.
LLAMA_BENCH_KEYS = frozenset(
    """
    cpu_info gpu_info backends n_gpu_layers n_cpu_moe tensor_buft_overrides model_filename model_type n_batch n_ubatch
    embeddings cpu_mask cpu_strict poll n_threads type_k type_v use_mmap no_kv_offload split_mode main_gpu tensor_split
    flash_attn n_prompt n_gen n_depth build_commit test_time avg_ts
    """.split()
)


def test_llama_bench_rows_have_every_field_that_is_read(fleet: Fleet) -> None:
    for test in json.loads(llama_bench_json(fleet)):
        assert test.keys() == LLAMA_BENCH_FIELDS | LLAMA_BENCH_KEYS
        # The script joins by equal values, and null equals nothing.
        assert None not in test.values()


def test_exports_leave_out_what_was_not_measured() -> None:
    given = samples.fleet(samples.report(evidence=(samples.drift(), samples.latency(Kind.EMULATED))))
    assert json.loads(llama_bench_json(given)) == []
    assert yaml.safe_load(perf_yaml(given)) == {"supported_devices": [], "precisions": {}}


def test_perf_yaml_has_ai_hub_s_shape(fleet: Fleet) -> None:
    content = yaml.safe_load(perf_yaml(fleet))
    assert "Made-up phone NPU" not in content["supported_devices"]
    component = content["precisions"]["cpu-int4"]["components"]["made-up-mini-instruct"]
    metrics = component["performance_metrics"]["Made-up x64 desktop CPU"]["onnxruntime-genai-cpu"]["llm_metrics"]
    latency = fleet.entries[0].report.latency
    assert latency is not None
    for found, row in zip(metrics, latency.rows, strict=True):
        assert found["context_length"] == row.prompt_tokens + row.decode_tokens
        assert found["tokens_per_second"] == row.decode_tokens_per_s_p50
        reach = found["time_to_first_token_range_milliseconds"]
        assert (reach["min"], reach["max"]) == (min(row.ttft_ms), max(row.ttft_ms))


def test_the_drift_that_was_judged_stands_in_the_matrix() -> None:
    """The emulator's few blocks leave the budget unverified, and they are the worse ones."""
    report = samples.npu_report()
    (row,) = matrix(samples.fleet(report)).rows
    found = [item for item in report.verdict.findings if item.budget == "kl_mean_nats_max"]
    assert {str(item.outcome) for item in found} == {"pass", "unverified"}
    (deciding,) = [item for item in found if item.outcome is Outcome.UNVERIFIED]
    assert (row.values[4].order, row.values[4].kind) == (deciding.value, deciding.kind) == (0.02302, "emulated")
    assert row.values[4].evidence == "drift-emulated"


@pytest.mark.parametrize("turned", [False, True])
def test_of_several_records_the_one_that_was_judged_is_shown(turned: bool) -> None:
    worse = samples.drift().model_copy(update={"kl_nats": Estimate(mean=5.0, standard_error=0.1)})
    fewer = samples.tasks().model_copy(update={"overall": samples.score("overall", 750, 534, lost=90, gained=1, p=0.0)})
    records: list[AnyEvidence] = [samples.drift(), worse, samples.tasks(), fewer]
    report = samples.report(evidence=tuple(reversed(records)) if turned else tuple(records))
    (row,) = matrix(samples.fleet(report)).rows
    judged = {item.budget: item.value for item in report.verdict.findings}
    assert row.values[4].order == judged["kl_mean_nats_max"] == 5.0
    assert row.values[5].order == judged["answer_recovery_fraction_min"] == fewer.overall.recovery_fraction
    assert "5 nats" in report_markdown(samples.fleet(report))


def test_the_record_that_decided_is_shown_where_another_is_worse_and_sure() -> None:
    sure, unsure = (
        samples.drift().model_copy(update={"kl_nats": Estimate(mean=mean, standard_error=error)})
        for mean, error in ((0.025, 1e-6), (0.02, 0.1))
    )
    for records in ((sure, unsure), (unsure, sure)):
        report = samples.report(evidence=records)
        (found,) = [item for item in report.verdict.findings if item.budget == "kl_mean_nats_max"]
        assert (found.outcome, found.value) == (Outcome.UNVERIFIED, 0.02)
        (row,) = matrix(samples.fleet(report)).rows
        assert row.values[4].order == 0.02


@pytest.mark.parametrize("accepts", [Kind.MEASURED, Kind.SURROGATE])
def test_without_a_budget_the_worst_of_an_accepted_kind_is_shown(accepts: Kind) -> None:
    records = [
        samples.drift(kind).model_copy(update={"kl_nats": Estimate(mean=mean, standard_error=0.1)})
        for kind, mean in ((Kind.SURROGATE, 0.1), (Kind.SURROGATE, 0.2), (Kind.EMULATED, 0.3))
    ]
    report = samples.report(evidence=tuple(records), budgets=Budgets(variant_bytes_max=1), accepts=(accepts,))
    (row,) = matrix(samples.fleet(report)).rows
    assert row.values[4].order == (0.2 if accepts is Kind.SURROGATE else 0.3)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_number_that_is_none_is_not_hidden_behind_another(bad: float) -> None:
    broken = samples.drift().model_copy(update={"kl_nats": Estimate(mean=bad, standard_error=0.1)})
    for records in ((samples.drift(), broken), (broken, samples.drift())):
        for budgets in (samples.BUDGETS, Budgets(variant_bytes_max=1)):
            given = samples.fleet(samples.report(evidence=records, budgets=budgets))
            (row,) = matrix(given).rows
            assert row.values[4].order is None
            name = next(
                item for item, known in zip(
                    evidence_names(given.entries[0].report.evidence), given.entries[0].report.evidence, strict=True
                ) if known is broken
            )  # fmt: skip
            assert row.values[4].evidence == name


def test_each_time_is_the_worst_of_all_devices_that_measured_it() -> None:
    one = samples.latency()
    slow_start = tuple(
        row.model_copy(update={"ttft_p50_ms": 99_999.0, "decode_tokens_per_s_p50": 99.0}) for row in one.rows
    )
    other = one.model_copy(update={"rows": slow_start, "peak_anon_bytes": 1})
    for records in ((one, other), (other, one)):
        (row,) = matrix(samples.fleet(samples.report(evidence=records))).rows
        last = one.rows[-1]
        assert [value.order for value in row.values[:3]] == [
            last.decode_tokens_per_s_p50,
            99_999.0,
            one.peak_anon_bytes,
        ]
