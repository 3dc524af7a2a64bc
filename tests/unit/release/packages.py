"""Small packages with a complete recipe and evidence that passes: a variant for the CPU and one for an NPU."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from phiforge.evidence import (
    AnyEvidence,
    Comparison,
    ComparisonRow,
    Conditions,
    Drift,
    Estimate,
    Interval,
    Kind,
    Latency,
    LatencyRow,
    Machine,
    Percentiles,
    Probe,
    Probes,
    Tasks,
    TaskScore,
    TaskSource,
    dump_evidence,
)
from phiforge.gate import REQUIRED_PROBES
from phiforge.hashing import content_key, hash_files, hash_listing
from phiforge.intervals import interval_of_recovery
from phiforge.packaging.write import Contents, PackagedVariant, write_package
from phiforge.target import Profile
from phiforge.toolchain import PACKAGES
from phiforge.variant import CheckpointFacts, VariantRecord

ROOT = Path(__file__).parents[3]
CPU, NPU = "cpu-test", "npu-test"
MACHINE = Machine(
    processor="made up",
    architecture="x86_64",
    process_architecture="x86_64",
    logical_cores=2,
    physical_cores=2,
    memory_bytes=8 << 30,
    system="Linux",
)
TOOLS = {"phiforge-code": "0123456789abcdef", **dict.fromkeys(PACKAGES, "1.0")}
WORKFLOW: dict[str, Any] = {
    "passes": {
        "quantize": {"type": "PhiforgeQuantize", "calibration": "calibration.jsonl", "calibration_sha256": "c" * 64},
        "export": {"type": "PhiforgeExport"},
    }
}
OLIVE: dict[str, Any] = {"passes": {"PhiforgeQuantize": {}, "PhiforgeExport": {}}}
SOURCE = TaskSource(file="sums.jsonl", format="exact-match", split="held-out", licence="MIT", sha256="d" * 64)
REPEATS = (0.98, 0.99, 1.0, 1.0, 1.0, 1.01, 1.02)


@dataclass(frozen=True, kw_only=True)
class Made:
    """What a package is made of; every number of its evidence, and the bytes of its weights.

    `blocks` are the KL of each block over their mean; without any the evidence is an earlier phiforge's.
    """

    model: str = "nano"
    weights: bytes = b"weights"
    kl: float = 0.01
    kl_error: float = 0.0005
    p99: float = 0.1
    top1: float = 0.95
    blocks: tuple[float, ...] = (0.5, 1.5) * 50
    right: int = 198
    ttft_ms: float = 10.0
    decode_tokens_per_s: float = 100.0
    peak_bytes: int = 50_000_000
    repeats: tuple[float, ...] = REPEATS
    machine: Machine = MACHINE
    runtime: str = "1.0"
    licence: str = field(default_factory=lambda: (ROOT / "LICENSE").read_text(encoding="utf-8"))
    source: TaskSource | None = SOURCE
    workflow: dict[str, Any] = field(default_factory=lambda: WORKFLOW)
    tools: dict[str, str] = field(default_factory=lambda: TOOLS)
    dataset: str = "e" * 64
    npu: bool = True


def make_package(folder: Path, made: Made | None = None) -> Path:
    """Write a package into a new folder and return it."""
    made = made or Made()
    package = folder / f"{made.model}.ortpackage"
    package.mkdir(parents=True)
    licence = folder / "LICENSE"
    licence.write_text(made.licence, encoding="utf-8")
    variants = [_variant(folder, made, "cpu-int4", "cpu", profile(CPU, "cpu", made.runtime))]
    if made.npu:
        variants.append(_variant(folder, made, "qnn-a16w4", "qnn", profile(NPU, "qnn")))
    checkpoint = _checkpoint(made).model_dump()
    write_package(
        Contents(
            name=made.model,
            version="1",
            description="a model",
            licences=[licence],
            variants=variants,
            reports=lambda content: {},
            metadata={"checkpoint": checkpoint},
        ),
        package,
    )
    return package


def profile(name: str, target: str, runtime: str = "1.0") -> Profile:
    """A device profile with budgets that the evidence keeps."""
    provider, device, package = ("cpu", "cpu", "onnxruntime-genai") if target == "cpu" else ("qnn", "npu", "qnn")
    npu = {
        "soc_model": 60,
        "architecture": "v73",
        "confirmed": True,
        "source": "made up",
        "context_tokens": 256,
        "window_tokens": 64,
        "kv_cache_bits": 16,
        "attention": "cpu",
        "part_bytes_max": 1000,
    }
    return Profile.model_validate(
        {
            "name": name,
            "identity": {"title": f"A {device}", "description": "made up"},
            "runtime": {"package": package, "version": runtime, "provider": provider, "device": device},
            "build": {"target": target, "pipeline": "p"},
            "hardware": {"architecture": "x86_64" if target == "cpu" else "arm64", "memory_bytes": 1 << 30},
            "npu": None if target == "cpu" else npu,
            "accepts": ["measured", "surrogate"],
            "budgets": {"kl_mean_nats_max": 0.5, "answer_recovery_fraction_min": 0.5, "ttft_p50_ms_max": 500.0},
            "measure": {"warmups": 1, "repeats": 7, "prompt_tokens": [16], "decode_tokens": 8},
        }
    )


def comparison(new: str, old: str, ratio: float, spread: float = 0.01, runtime: str = "1.0") -> Comparison:
    """What an interleaved run of two variants might have shown."""
    interval = Interval(low=ratio - spread, high=ratio + spread)
    ratios = (*[ratio - spread] * 4, ratio, *[ratio + spread] * 4)
    row: dict[str, Any] = {"prompt_tokens": 16, "ratios": ratios, "ratio_p50": ratio, "ratio_interval": interval}
    return Comparison(
        kind=Kind.MEASURED,
        conditions=conditions(Made(runtime=runtime)),
        variant_sha256=new,
        against_sha256=old,
        rounds=9,
        rows=(ComparisonRow(metric="ttft", **row), ComparisonRow(metric="decode", **row)),
    )


def conditions(made: Made) -> Conditions:
    """The conditions of all evidence here."""
    return Conditions(
        machine=made.machine,
        provider="cpu",
        threads=2,
        versions={"onnxruntime-genai": made.runtime, "phiforge": "0.1.0"},
        dataset="text",
        split="held-out",
        dataset_sha256=made.dataset,
        samples=100,
        taken_at=datetime(2026, 1, 1, tzinfo=UTC),
    )


def _checkpoint(made: Made) -> CheckpointFacts:
    return CheckpointFacts(name=made.model, family="phi-4-nano", fingerprint="f" * 64, parameters=1000, bytes=2000)


def _variant(folder: Path, made: Made, name: str, provider: str, target: Profile) -> PackagedVariant:
    model = folder / f"{name}-model"
    model.mkdir()
    (model / "model.onnx").write_bytes(b"graph")
    (model / "model.onnx.data").write_bytes(made.weights)
    (model / "genai_config.json").write_text("{}", encoding="utf-8")
    sha256 = hash_listing(hash_files(model))
    key = content_key(["f" * 64, made.workflow, made.tools])
    record = VariantRecord(
        name=name,
        key=key,
        sha256=sha256,
        bytes=sum(path.stat().st_size for path in model.iterdir()),
        bits_per_weight=4.25,
        provider=provider,
        device=target.runtime.device,
        checkpoint=_checkpoint(made),
        options={"quantize.bits": "4"},
        operators={"MatMulNBits": 1},
        weights=(),
        toolchain=made.tools,
    )
    plan = {
        "model": made.model,
        "published": "Phi-4-mini-instruct",
        "fingerprint": "f" * 64,
        "toolchain": made.tools,
        "variants": [{"name": name, "key": key, "workflow": made.workflow}],
    }
    files = {"plan.json": plan, "workflow.json": made.workflow, "olive-package.json": OLIVE}
    build = {path: json.dumps(content) for path, content in files.items()}
    build |= {"variant.json": record.model_dump_json(), f"profiles/{target.name}.json": target.model_dump_json()}
    return PackagedVariant(
        name=name,
        folder=model,
        sha256=sha256,
        provider=provider,
        device=target.runtime.device,
        metadata={"bytes": record.bytes},
        build=build,
        evidence={path: dump_evidence(item) for path, item in evidence(made, sha256, target).items()},
    )


def evidence(made: Made, sha256: str, target: Profile) -> dict[str, AnyEvidence]:
    """The evidence of a variant by the names of its files; only the CPU's has times."""
    kind = Kind.MEASURED if target.name == CPU else Kind.SURROGATE
    common: dict[str, Any] = {"kind": kind, "conditions": conditions(made), "variant_sha256": sha256}
    found: dict[str, AnyEvidence] = {
        "drift.json": _drift(made, common),
        "tasks.json": _tasks(made, common),
        "probes.json": Probes(
            probes=tuple(Probe(name=name, passed=True, detail="all") for name in REQUIRED_PROBES), **common
        ),
    }
    if target.name == CPU:
        found[f"latency-{target.name}.json"] = _latency(made, common)
    return found


def _drift(made: Made, common: dict[str, Any]) -> Drift:
    percentiles = Percentiles(p1=0, p5=0, p50=0.001, p90=0.01, p95=0.05, p99=made.p99, p99_9=0.2, max=0.3)
    return Drift(
        reference_sha256="a" * 64,
        top_k=64,
        positions=1000,
        blocks=100,
        kl_nats=Estimate(mean=made.kl, standard_error=made.kl_error),
        kl_percentiles_nats=percentiles,
        kl_p99_interval_nats=Interval(low=made.p99 * 0.9, high=made.p99 * 1.1),
        top1_agreement_fraction=Estimate(mean=made.top1, standard_error=0.001),
        true_token_change_fraction=Estimate(mean=0, standard_error=0),
        true_token_change_rms_fraction=0,
        true_token_change_percentiles_fraction=percentiles,
        perplexity_reference=10,
        perplexity_variant=10,
        perplexity_ratio=1,
        perplexity_log_ratio_nats=Estimate(mean=0, standard_error=0.001),
        kl_by_position=(),
        block_positions=(10,) * len(made.blocks),
        block_kl_nats=tuple(made.kl * factor for factor in made.blocks),
        block_top1_agreement_fraction=(made.top1,) * len(made.blocks),
        **common,
    )


def _tasks(made: Made, common: dict[str, Any]) -> Tasks:
    lost = 200 - made.right
    score = TaskScore(
        task="sums",
        source=made.source,
        questions=200,
        reference_correct=200,
        variant_correct=made.right,
        flips_to_wrong=lost,
        flips_to_right=0,
        mcnemar_p=1,
        recovery_fraction=made.right / 200,
        recovery_interval_fraction=interval_of_recovery(reference_correct=200, to_right=0, to_wrong=lost, count=200),
        reference_tokens_per_answer=3,
        variant_tokens_per_answer=3,
    )
    overall = score.model_copy(update={"task": "all", "source": None})
    return Tasks(reference_sha256="a" * 64, scores=(score,), overall=overall, **common)


def _latency(made: Made, common: dict[str, Any]) -> Latency:
    row = LatencyRow(
        prompt_tokens=16,
        decode_tokens=8,
        repeats=len(made.repeats),
        ttft_p50_ms=made.ttft_ms,
        ttft_p95_ms=made.ttft_ms,
        prefill_tokens_per_s_p50=1000,
        decode_tokens_per_s_p50=made.decode_tokens_per_s,
        decode_tokens_per_s_p95=made.decode_tokens_per_s,
        inter_token_p50_ms=1,
        inter_token_p99_ms=2,
        ttft_ms=tuple(made.ttft_ms * factor for factor in made.repeats),
        decode_tokens_per_s=tuple(made.decode_tokens_per_s * factor for factor in made.repeats),
    )
    peak = made.peak_bytes
    return Latency(warmups=1, load_ms=5, rows=(row,), peak_anon_bytes=peak, peak_rss_bytes=peak, memory=(), **common)
