"""A made-up fleet of 5 models on 12 devices with full evidence, to see how a report of that size reads and loads.

No number in it was measured. The numbers follow simple laws (speed by bandwidth, drift by bits) and are the same every
time.
"""

from __future__ import annotations

import hashlib
import random
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import pairwise
from typing import TYPE_CHECKING

from phiforge import evidence as ev
from phiforge.evidence import Estimate, Interval, Kind, Percentiles
from phiforge.gate import judge
from phiforge.prompt_lengths import PromptLengths
from phiforge.reporting import Entry, Fleet, Report, Source, make_entry, make_fleet
from phiforge.reporting.schema import PipelineFacts, ProfileFacts, Stage, VariantFacts, first_of, further_than
from phiforge.target import Budgets
from phiforge.variant import CheckpointFacts, WeightGroup

if TYPE_CHECKING:
    from collections.abc import Sequence

    from phiforge.evidence import AnyEvidence

NOTICE = "Made up: no number on this page was measured. It shows what a report of many models and devices looks like."
PROMPTS = (64, 128, 256, 512, 1024, 2048, 4096)
SWITCH = 4096
TAKEN = datetime(2026, 11, 20, 9, 30, tzinfo=UTC)


@dataclass(frozen=True)
class Model:
    """A made-up model: parameters, bits per weight, layers' KV bytes per token."""

    name: str
    parameters: int
    bits: float
    kv_bytes: int


@dataclass(frozen=True)
class Device:
    """A made-up device: what it is called, its provider, memory bandwidth and operations per second."""

    name: str
    title: str
    provider: str
    bandwidth: float
    operations: float
    kind: Kind = Kind.MEASURED


MODELS = (
    Model("made-up-mini-instruct", 3_836_021_760, 4.9, 131_072),
    Model("made-up-mini-reasoning", 3_836_021_760, 5.1, 131_072),
    Model("made-up-large", 14_659_507_200, 4.6, 204_800),
    Model("made-up-large-reasoning", 14_659_507_200, 4.8, 204_800),
    Model("made-up-nano", 5_242_880, 6.2, 4096),
)
DEVICES = (
    Device("cpu-x64-desktop", "Made-up x64 desktop CPU", "cpu", 51e9, 1.2e12),
    Device("cpu-x64-server", "Made-up x64 server CPU", "cpu", 180e9, 4.0e12),
    Device("cpu-arm64-laptop", "Made-up Arm laptop CPU", "cpu", 120e9, 2.1e12),
    Device("cpu-arm64-board", "Made-up Arm board CPU", "cpu", 17e9, 0.2e12),
    Device("directml-integrated", "Made-up integrated GPU, DirectML", "dml", 68e9, 4.1e12),
    Device("directml-discrete", "Made-up discrete GPU, DirectML", "dml", 448e9, 22e12),
    Device("webgpu-laptop", "Made-up laptop GPU, WebGPU", "webgpu", 100e9, 5.2e12),
    Device("webgpu-phone", "Made-up phone GPU, WebGPU", "webgpu", 60e9, 2.4e12, Kind.SURROGATE),
    Device("qnn-laptop", "Made-up laptop NPU", "qnn", 135e9, 45e12),
    Device("qnn-phone", "Made-up phone NPU", "qnn", 76e9, 34e12, Kind.EMULATED),
    Device("qnn-board", "Made-up board NPU", "qnn", 34e9, 12e12, Kind.EMULATED),
    Device("cpu-x64-old", "Made-up old laptop CPU", "cpu", 19e9, 0.3e12),
)
BUDGETS = Budgets(
    kl_mean_nats_max=0.03,
    kl_p99_nats_max=0.5,
    top1_agreement_fraction_min=0.9,
    perplexity_ratio_max=1.05,
    answer_recovery_fraction_min=0.95,
    variant_bytes_max=12_000_000_000,
    ttft_p50_ms_max=60_000.0,
    decode_tokens_per_s_min=5.0,
    peak_anon_bytes_max=8_589_934_592,
)


def fleet(models: Sequence[Model] = MODELS, devices: Sequence[Device] = DEVICES) -> Fleet:
    """The whole matrix; the same every time."""
    entries = [_entry(model, device) for model in models for device in devices]
    return make_fleet(entries, "0.1.0", (NOTICE,))


def _entry(model: Model, device: Device) -> Entry:
    variant = _sha(model.name, device.provider)
    records = _records(model, device, variant)
    report = _report(model, device, variant, records)
    sources = {
        id(record): Source(
            file=f"{model.name}.ortpackage/evidence/{device.provider}/{record.evidence}.json",
            sha256=_sha(model.name, device.name, record.evidence),
            href=f"../{model.name}.ortpackage/evidence/{device.provider}/{record.evidence}.json",
        )
        for record in report.evidence
    }
    return make_entry(f"{model.name}.ortpackage", _sha(model.name), report, sources)


def _report(model: Model, device: Device, variant: str, records: tuple[AnyEvidence, ...]) -> Report:
    size = _bytes(model)
    accepts = (Kind.MEASURED, Kind.EMULATED, Kind.SURROGATE)
    first = (
        first_of(ev.Drift, records),
        first_of(ev.Tasks, records),
        first_of(ev.Probes, records),
        first_of(ev.Latency, records),
    )
    return Report(
        phiforge_version="0.1.0",
        title=f"{model.name} on {device.title}",
        checkpoint=CheckpointFacts(
            name=model.name,
            family="made-up",
            fingerprint=_sha(model.name, "checkpoint"),
            parameters=model.parameters,
            bytes=2 * model.parameters,
        ),
        profile=ProfileFacts(
            name=device.name,
            title=device.title,
            provider=device.provider,
            runtime_package="onnxruntime-genai",
            runtime_version="0.18.0",
            accepts=accepts,
        ),
        pipeline=PipelineFacts(name=f"{device.provider}-int4", options={"block_size": "32"}),
        variant=VariantFacts(
            sha256=variant,
            bytes=size,
            bits_per_weight=model.bits,
            operators={"MatMulNBits": 129, "GroupQueryAttention": 32, "Mul": 64, "Sigmoid": 32},
            weights=(
                WeightGroup(
                    group="all",
                    tensors=129,
                    bits=4,
                    block_size=32,
                    symmetric=False,
                    bytes=size,
                    bits_per_weight=model.bits,
                ),
            ),
        ),
        stages=(Stage(stage="quantize", seconds=412.7, reused=False),),
        drift=first[0],
        tasks=first[1],
        probes=first[2],
        latency=first[3],
        further=further_than(first, records),
        budgets=BUDGETS,
        verdict=judge(
            BUDGETS,
            accepts,
            records,
            variant_sha256=variant,
            variant_bytes=size,
            lengths=PromptLengths(prompt_tokens=PROMPTS, decode_tokens=64),
        ),
        limits=("Everything here is made up.",),
    )


def _records(model: Model, device: Device, variant: str) -> tuple[AnyEvidence, ...]:
    noise = random.Random(f"{model.name} {device.name}")
    conditions = _conditions(device)
    made: list[AnyEvidence] = [
        _drift(model, device, variant, conditions, noise),
        _tasks(device, variant, conditions, noise),
        _probes(device, variant, conditions),
        _free_running(device, variant, conditions, noise),
        _refusals(device, variant, conditions),
        _prediction(model, device, variant, conditions),
    ]
    if device.kind is Kind.MEASURED:
        made += [_latency(model, device, variant, conditions, noise), _comparison(variant, conditions, noise)]
    return tuple(made)


def _conditions(device: Device) -> ev.Conditions:
    architecture = "arm64" if "arm" in device.name or "qnn" in device.name or "phone" in device.name else "x86_64"
    machine = ev.Machine(
        processor=f"Made-up processor of {device.title}",
        architecture=architecture,
        process_architecture=architecture,
        logical_cores=12,
        physical_cores=12,
        memory_bytes=33_653_346_304,
        system="Made-up system 1",
        power_source="mains",
    )
    return ev.Conditions(
        machine=machine,
        provider=device.provider,
        threads=8,
        versions={"onnxruntime": "1.31.1", "onnxruntime-genai": "0.18.0", "phiforge": "0.1.0"},
        dataset="made-up texts",
        split="test",
        dataset_sha256=_sha("texts"),
        samples=64,
        taken_at=TAKEN,
        notes=("made up",),
    )


def _drift(model: Model, device: Device, variant: str, conditions: ev.Conditions, noise: random.Random) -> ev.Drift:
    mean = 0.09 / model.bits**1.1 * noise.uniform(0.8, 1.3)
    edges = [0, *(2**power for power in range(4, 13))]
    bins = tuple(
        ev.PositionBin(
            start=start,
            stop=stop,
            count=64 * (stop - start),
            kl_nats=Estimate(mean=mean * (1 + 0.9 / (1 + index)), standard_error=mean * 0.12 / (1 + index)),
        )
        for index, (start, stop) in enumerate(pairwise(edges))
    )
    return ev.Drift(
        kind=device.kind,
        conditions=conditions,
        variant_sha256=variant,
        reference_sha256=_sha("reference"),
        top_k=256,
        positions=131_008,
        blocks=64,
        kl_nats=Estimate(mean=mean, standard_error=mean * 0.04),
        kl_percentiles_nats=_percentiles(mean * 0.35, 14.0),
        kl_p99_interval_nats=Interval(low=mean * 8.2, high=mean * 10.1),
        top1_agreement_fraction=Estimate(mean=0.965 - 1.1 * mean, standard_error=0.002),
        true_token_change_fraction=Estimate(mean=-0.003, standard_error=0.0004),
        true_token_change_rms_fraction=0.0418,
        true_token_change_percentiles_fraction=_percentiles(0.01, 3.0),
        perplexity_reference=9.876,
        perplexity_variant=9.876 * (1 + mean * 0.8),
        perplexity_ratio=1 + mean * 0.8,
        perplexity_log_ratio_nats=Estimate(mean=mean * 0.8, standard_error=0.0013),
        kl_by_position=bins,
    )


def _percentiles(middle: float, spread: float) -> Percentiles:
    factors = (spread**-3, spread**-1.5, 1, spread**0.8, spread, spread**1.35, spread**1.8, spread**2.3)
    names = ("p1", "p5", "p50", "p90", "p95", "p99", "p99_9", "max")
    return Percentiles(**{name: middle * factor for name, factor in zip(names, factors, strict=True)})


_SUITES: tuple[tuple[str, ev.Metric, int, int], ...] = (
    ("made-up arithmetic", "exact-match", 500, 421),
    ("made-up choices", "log-likelihood", 1000, 612),
    ("made-up rules", "instructions", 300, 241),
)


def _tasks(device: Device, variant: str, conditions: ev.Conditions, noise: random.Random) -> ev.Tasks:
    scores = tuple(_score(name, metric, questions, before, noise) for name, metric, questions, before in _SUITES)
    total = [sum(getattr(score, name) for score in scores) for name in ("questions", "reference_correct")]
    lost, gained = (sum(getattr(score, f"flips_to_{way}") for score in scores) for way in ("wrong", "right"))
    overall = _scored("overall", "exact-match", total[0], total[1], lost, gained)
    return ev.Tasks(
        kind=device.kind,
        conditions=conditions,
        variant_sha256=variant,
        reference_sha256=_sha("reference"),
        scores=scores,
        overall=overall,
    )


def _score(name: str, metric: ev.Metric, questions: int, before: int, noise: random.Random) -> ev.TaskScore:
    lost = noise.randrange(6, 24)
    return _scored(name, metric, questions, before, lost, noise.randrange(2, lost))


def _scored(name: str, metric: ev.Metric, questions: int, before: int, lost: int, gained: int) -> ev.TaskScore:
    after = before - lost + gained
    change, reach = (after - before) / questions, 1.64 * (lost + gained) ** 0.5 / questions
    source = ev.TaskSource(
        file=f"{name.replace(' ', '-')}.jsonl", format="exact-match", split="test", licence="CC0-1.0", sha256=_sha(name)
    )
    return ev.TaskScore(
        task=name,
        metric=metric,
        source=None if name == "overall" else source,
        questions=questions,
        reference_correct=before,
        variant_correct=after,
        flips_to_wrong=lost,
        flips_to_right=gained,
        mcnemar_p=0.31,
        accuracy_change_interval_fraction=Interval(low=change - reach, high=change + reach),
        recovery_fraction=after / before,
        recovery_interval_fraction=Interval(
            low=after / before - reach * questions / before, high=after / before + reach * questions / before
        ),
        reference_tokens_per_answer=141.2,
        variant_tokens_per_answer=146.9,
        tokens_per_answer_ratio=None if metric == "log-likelihood" else 1.04,
        tokens_per_answer_ratio_interval=None if metric == "log-likelihood" else Interval(low=0.99, high=1.09),
    )


def _probes(device: Device, variant: str, conditions: ev.Conditions) -> ev.Probes:
    return ev.Probes(
        kind=device.kind,
        conditions=conditions,
        variant_sha256=variant,
        probes=(
            ev.Probe(name="tokenizer", passed=True, detail="1,000 texts give the same tokens as the checkpoint's."),
            ev.Probe(name="chat-template", passed=True, detail="12 conversations render byte for byte alike."),
            ev.Probe(name="stop-ids", passed=True, detail="20 of 20 answers end by themselves."),
            ev.Probe(name="repetition", passed=False, blocking=False, detail="1 of 20 answers repeats a sentence."),
        ),
    )


def _free_running(device: Device, variant: str, conditions: ev.Conditions, noise: random.Random) -> ev.FreeRunning:
    rate = noise.uniform(0.993, 0.998)
    return ev.FreeRunning(
        kind=device.kind,
        conditions=conditions,
        variant_sha256=variant,
        reference_sha256=_sha("reference"),
        prompts=200,
        identical=int(200 * rate**256),
        limit_tokens=256,
        first_divergence_percentiles_tokens=Percentiles(
            p1=3, p5=11, p50=97, p90=256, p95=256, p99=256, p99_9=256, max=256
        ),
        agreement_by_position=tuple(
            ev.AgreementBin(start=start, stop=start + 16, count=200, agreement_fraction=rate ** (start + 8))
            for start in range(0, 256, 16)
        ),
        reference=ev.Endings(stopped=188, unfinished=12, looping=3, early=0),
        variant=ev.Endings(stopped=185, unfinished=15, looping=5, early=4),
        length_ratio=1.03,
        length_ratio_interval=Interval(low=0.99, high=1.07),
    )


def _refusals(device: Device, variant: str, conditions: ev.Conditions) -> ev.Refusals:
    categories = tuple(
        ev.RefusalCategory(
            category=name,
            prompts=10,
            both_refuse=refuse,
            both_answer=9 - refuse,
            only_reference_refuses=1,
            only_variant_refuses=0,
        )
        for name, refuse in (("benign", 0), ("borderline", 2), ("weapons", 9))
    )
    return ev.Refusals(
        kind=device.kind,
        conditions=conditions,
        variant_sha256=variant,
        reference_sha256=_sha("reference"),
        categories=categories,
        agreement_fraction=0.9,
        agreement_interval_fraction=Interval(low=0.77, high=0.96),
    )


def _speed(model: Model, device: Device, context: float, efficiency: float) -> float:
    return device.bandwidth * efficiency / (_bytes(model) + model.kv_bytes * context)


def _first(model: Model, device: Device, prompt: int, efficiency: float) -> float:
    return 2 * model.parameters * prompt / (device.operations * efficiency) * 1e3 + 4


def _latency(model: Model, device: Device, variant: str, conditions: ev.Conditions, noise: random.Random) -> ev.Latency:
    rows = tuple(_latency_row(model, device, prompt, noise) for prompt in PROMPTS)
    middle = rows[2].inter_token_p50_ms
    cliff = ev.Cliff(
        position=SWITCH,
        shape="stall",
        before_ms=middle,
        after_ms=middle * 310,
        ratio=310.0,
        cause="longrope switch: the runtime recomputes its KV cache",
    )
    step = ev.Cliff(position=SWITCH, shape="step", before_ms=middle * 1.2, after_ms=middle * 1.7, ratio=1.42)
    bins = tuple(
        ev.DecodeBin(start=start, stop=start + 128, count=128, inter_token_p50_ms=time, inter_token_p95_ms=time * 1.12)
        for start in range(0, 6144, 128)
        for time in [middle * (1 + start / 20_000) * (1.42 if start >= SWITCH else 1.0) * noise.uniform(0.98, 1.02)]
    )
    size = _bytes(model)
    return ev.Latency(
        kind=Kind.MEASURED,
        conditions=conditions,
        variant_sha256=variant,
        warmups=1,
        load_ms=size / 2.1e6,
        load_cold_ms=(size / 1.1e6, size / 1.2e6, size / 1.15e6),
        load_warm_ms=(size / 2.1e6, size / 2.2e6),
        rows=rows,
        by_position=bins,
        cliffs=(cliff, step),
        idle=tuple(
            ev.IdleRow(
                idle_s=idle,
                prompt_tokens=64,
                ttft_ms=tuple(rows[0].ttft_p50_ms * noise.uniform(1, 1 + idle / 20) for _ in range(5)),
            )
            for idle in (1.0, 10.0, 60.0)
        ),
        second_turn=ev.SecondTurn(
            first_turn_tokens=512,
            second_turn_tokens=64,
            kept_ttft_ms=tuple(rows[0].ttft_ms),
            anew_ttft_ms=tuple(rows[3].ttft_ms),
        ),
        contention=tuple(
            ev.ContentionRow(
                busy_cores=cores,
                busy_accelerator=accelerator,
                prompt_tokens=256,
                ttft_p50_ms=rows[2].ttft_p50_ms * (1 + cores / 8),
                decode_tokens_per_s_p50=1000 / middle / (1 + cores / 10),
            )
            for cores, accelerator in ((0, False), (4, False), (8, False), (0, True))
        ),
        energy=ev.Energy(
            source="made-up counter",
            covers="the processor package",
            tokens=512,
            joules=512 * 1.4,
            joules_per_token=1.4,
            average_watts=1.4e3 / middle,
            idle_watts=4.2,
        ),
        peak_anon_bytes=int(size * 0.31 + model.kv_bytes * 4096),
        peak_rss_bytes=int(size * 1.2 + model.kv_bytes * 4096),
        memory=tuple(
            ev.MemorySample(
                t_s=0.5 * step,
                anon_bytes=int(size * 0.31 * min(1.0, step / 40)),
                rss_bytes=int(size * 1.2 * min(1.0, 0.05 + step / 14)),
            )
            for step in range(120)
        ),
    )


def _latency_row(model: Model, device: Device, prompt: int, noise: random.Random) -> ev.LatencyRow:
    speeds = tuple(_speed(model, device, prompt, 0.62) * noise.uniform(0.96, 1.04) for _ in range(7))
    firsts = tuple(_first(model, device, prompt, 0.31) * noise.uniform(0.97, 1.05) for _ in range(7))
    middle = 1000 / sorted(speeds)[3]
    return ev.LatencyRow(
        prompt_tokens=prompt,
        decode_tokens=64,
        repeats=7,
        ttft_p50_ms=sorted(firsts)[3],
        ttft_p95_ms=max(firsts),
        prefill_tokens_per_s_p50=prompt / sorted(firsts)[3] * 1000,
        decode_tokens_per_s_p50=sorted(speeds)[3],
        decode_tokens_per_s_p95=min(speeds),
        inter_token_p50_ms=middle,
        inter_token_p99_ms=middle * 1.31,
        ttft_ms=firsts,
        decode_tokens_per_s=speeds,
        inter_token_percentiles_ms=Percentiles(
            p1=middle * 0.94,
            p5=middle * 0.96,
            p50=middle,
            p90=middle * 1.06,
            p95=middle * 1.12,
            p99=middle * 1.31,
            p99_9=middle * 1.9,
            max=middle * 2.4,
        ),
        inter_token_p99_interval_ms=Interval(low=middle * 1.2, high=middle * 1.5),
    )


def _comparison(variant: str, conditions: ev.Conditions, noise: random.Random) -> ev.Comparison:
    rows = []
    for metric, prompt in (("ttft", 256), ("decode", 256)):
        ratios = tuple(noise.uniform(0.95, 1.06) for _ in range(12))
        rows.append(
            ev.ComparisonRow(
                metric="ttft" if metric == "ttft" else "decode",
                prompt_tokens=prompt,
                ratios=ratios,
                ratio_p50=sorted(ratios)[6],
                ratio_interval=Interval(low=sorted(ratios)[2], high=sorted(ratios)[9]),
            )
        )
    return ev.Comparison(
        kind=Kind.MEASURED,
        conditions=conditions,
        variant_sha256=variant,
        against_sha256=_sha("earlier"),
        rounds=12,
        rows=tuple(rows),
    )


def _prediction(model: Model, device: Device, variant: str, conditions: ev.Conditions) -> ev.Prediction:
    size = _bytes(model)
    workspace = size // 20
    return ev.Prediction(
        kind=Kind.PREDICTED,
        conditions=conditions,
        variant_sha256=variant,
        profile=device.name,
        bandwidth_bytes_per_s=device.bandwidth,
        operations_per_s=device.operations,
        bandwidth_efficiency_fraction=0.6,
        compute_efficiency_fraction=0.3,
        efficiency_source="made up",
        efficiency_error_fraction=0.08,
        rows=tuple(
            ev.PredictedRow(
                prompt_tokens=prompt,
                ttft_ms=_first(model, device, prompt, 0.3),
                decode_tokens_per_s=_speed(model, device, prompt, 0.6),
            )
            for prompt in PROMPTS
        ),
        memory=ev.MemoryNeed(
            context_tokens=4096,
            weights_bytes=size,
            kv_cache_bytes_per_token=model.kv_bytes,
            kv_cache_bytes=4096 * model.kv_bytes,
            workspace_bytes=workspace,
            total_bytes=size + 4096 * model.kv_bytes + workspace,
        ),
    )


def _bytes(model: Model) -> int:
    return int(model.parameters * model.bits / 8)


def _sha(*parts: str) -> str:
    return hashlib.sha256(" ".join(parts).encode()).hexdigest()
