"""The measured rows of a report in the forms of other tools: llama-bench's JSON, and AI Hub's perf.yaml.

Both hold measured numbers alone; what was emulated, stood in for or predicted has no place in a form that does not say
so.
"""

from __future__ import annotations

import json
import statistics
from typing import TYPE_CHECKING, Any

import yaml

from phiforge.evidence import Kind, Latency

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from phiforge.evidence import LatencyRow
    from phiforge.reporting.schema import Entry, Fleet


# llama.cpp's settings that a variant of ONNX Runtime GenAI does not have, which whoever reads the file asks for: zero,
# off or empty, and none of them null, since scripts/compare-llama-bench.py joins rows by equal values.
LLAMA_BENCH_UNUSED: dict[str, int | str | bool] = {
    "n_batch": 0,
    "n_ubatch": 0,
    "cpu_mask": "0x0",
    "cpu_strict": False,
    "poll": 0,
    "type_k": "",
    "type_v": "",
    "n_gpu_layers": 0,
    "n_cpu_moe": 0,
    "split_mode": "none",
    "main_gpu": 0,
    "no_kv_offload": False,
    "flash_attn": 0,
    "devices": "",
    "tensor_split": "0.00",
    "tensor_buft_overrides": "none",
    "use_mmap": False,
    "load_mode": "",
    "embeddings": False,
    "no_op_offload": 0,
    "no_host": False,
    "fit_target": 0,
    "fit_min_ctx": 0,
}


def llama_bench_json(fleet: Fleet) -> str:
    """Return the measured rows in the shape that llama.cpp's `llama-bench -o json` prints.

    Fields, their meaning and the tests' names are those of llama.cpp, tools/llama-bench/llama-bench.cpp (test::
    get_fields): for each prompt length a test of the prompt (n_prompt, n_gen 0; here until the first token) and one of
    generation (n_gen) behind that prompt (n_depth). `samples_ns` and `samples_ts` are the repeats, of which avg is the
    mean and stddev the sample standard deviation. Rows whose repeats were not kept are left out. Settings of llama.cpp
    that do not exist here have neutral values (`LLAMA_BENCH_UNUSED`), and say nothing of the measurement.
    """
    tests = [test for entry in fleet.entries for latency in _measured(entry) for test in _tests(entry, latency)]
    return json.dumps(tests, indent=2, ensure_ascii=False) + "\n"


def perf_yaml(fleet: Fleet) -> str:
    """Return the measured rows in the shape of AI Hub Models' perf.yaml.

    The shape is that of qai_hub_models (scorecard/perf_yaml.py): precisions, components, performance_metrics by device
    and runtime, llm_metrics by context length. `context_length` is the prompt with what was generated behind it, and
    the range of the time to first token is of the repeats; where these were not kept, of p50 and p95.
    """
    precisions: dict[str, Any] = {}
    devices: list[str] = []
    for entry in fleet.entries:
        report = entry.report
        metrics = [_metrics(row) for latency in _measured(entry) for row in latency.rows]
        if not metrics:
            continue
        devices.append(report.profile.title)
        precision = precisions.setdefault(report.pipeline.name, {"components": {}})
        component = precision["components"].setdefault(report.checkpoint.name, {"performance_metrics": {}})
        runtimes = component["performance_metrics"].setdefault(report.profile.title, {})
        runtime = f"{report.profile.runtime_package}-{report.profile.provider}"
        runtimes.setdefault(runtime, {"llm_metrics": []})["llm_metrics"] += metrics
    content = {"supported_devices": list(dict.fromkeys(devices)), "precisions": precisions}
    return yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=120)


def _measured(entry: Entry) -> Iterator[Latency]:
    for record in entry.report.evidence:
        if isinstance(record, Latency) and record.kind is Kind.MEASURED:
            yield record


def _tests(entry: Entry, latency: Latency) -> Iterator[dict[str, Any]]:
    for row in latency.rows:
        if row.ttft_ms:
            times = [time * 1e6 for time in row.ttft_ms]
            yield {
                **_about(entry, latency),
                "n_prompt": row.prompt_tokens,
                "n_gen": 0,
                "n_depth": 0,
                **_samples(latency, times, [row.prompt_tokens / time * 1e9 for time in times]),
            }
        if row.decode_tokens_per_s:
            times = [row.decode_tokens / speed * 1e9 for speed in row.decode_tokens_per_s]
            yield {
                **_about(entry, latency),
                "n_prompt": 0,
                "n_gen": row.decode_tokens,
                "n_depth": row.prompt_tokens,
                **_samples(latency, times, list(row.decode_tokens_per_s)),
            }


def _about(entry: Entry, latency: Latency) -> dict[str, Any]:
    report, given = entry.report, latency.conditions
    device = given.provider != "cpu"
    versions = given.versions
    return {
        "build_commit": f"phiforge {versions.get('phiforge', report.phiforge_version)}",
        "build_number": 0,
        "cpu_info": given.machine.processor,
        "gpu_info": report.profile.title if device else "",
        "backends": f"onnxruntime-genai {versions.get('onnxruntime-genai', '')} {given.provider}".replace("  ", " "),
        "model_filename": f"{entry.package}/{report.pipeline.name}",
        "model_type": f"{report.checkpoint.name} {report.pipeline.name}",
        "model_size": report.variant.bytes,
        "model_n_params": report.checkpoint.parameters,
        "n_threads": given.threads,
        **LLAMA_BENCH_UNUSED,
    }


def _samples(latency: Latency, times_ns: Sequence[float], speeds: Sequence[float]) -> dict[str, Any]:
    taken = latency.conditions.taken_at
    return {
        "test_time": "" if taken is None else taken.strftime("%Y-%m-%dT%H:%M:%SZ"),
        "avg_ns": round(statistics.fmean(times_ns)),
        "stddev_ns": round(_deviation(times_ns)),
        "avg_ts": statistics.fmean(speeds),
        "stddev_ts": _deviation(speeds),
        "samples_ns": [round(time) for time in times_ns],
        "samples_ts": list(speeds),
    }


def _deviation(values: Sequence[float]) -> float:
    return statistics.stdev(values) if len(values) > 1 else 0.0


def _metrics(row: LatencyRow) -> dict[str, Any]:
    times = row.ttft_ms or (row.ttft_p50_ms, row.ttft_p95_ms)
    return {
        "context_length": row.prompt_tokens + row.decode_tokens,
        "tokens_per_second": row.decode_tokens_per_s_p50,
        "time_to_first_token_range_milliseconds": {"min": min(times), "max": max(times)},
        "prefill_tokens_per_second": row.prefill_tokens_per_s_p50,
    }
