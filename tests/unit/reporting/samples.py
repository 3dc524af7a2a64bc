"""A report made by hand with numbers as a real one has them: phi-4-mini, int4, on an x86-64 CPU."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, Literal

from phiforge.evidence import (
    Agreement,
    AnyEvidence,
    Breakdown,
    Conditions,
    Drift,
    DriftStep,
    Estimate,
    Interval,
    Kind,
    Latency,
    LatencyRow,
    Machine,
    MemorySample,
    Percentiles,
    PositionBin,
    Probe,
    Probes,
    Tasks,
    TaskScore,
)
from phiforge.gate import judge
from phiforge.intervals import interval_of_recovery
from phiforge.prompt_lengths import PromptLengths
from phiforge.reporting.names import evidence_names
from phiforge.reporting.schema import (
    Fleet,
    PipelineFacts,
    ProfileFacts,
    Report,
    Source,
    Stage,
    VariantFacts,
    first_of,
    further_than,
    make_entry,
    make_fleet,
)
from phiforge.target import Budgets
from phiforge.variant import BinaryFile, CheckpointFacts, CompiledGraph, NpuFacts, TensorFacts, WeightGroup

VARIANT = "5f0c2a9be1d84f37a6b2c3d4e5f60718293a4b5c6d7e8f90a1b2c3d4e5f60718"
REFERENCE = "9c1e7d42b08f4a55b1c0d9e8f7a6b5c4d3e2f1a09b8c7d6e5f4a3b2c1d0e9f8a"
VARIANT_BYTES = 2_941_337_088
# Those of `latency`.
LENGTHS = PromptLengths(prompt_tokens=(16, 128, 512, 1024), decode_tokens=64)

BUDGETS = Budgets(
    kl_mean_nats_max=0.03,
    kl_p99_nats_max=0.5,
    top1_agreement_fraction_min=0.92,
    perplexity_ratio_max=1.05,
    answer_recovery_fraction_min=0.98,
    variant_bytes_max=3_300_000_000,
    ttft_p50_ms_max=10_000.0,
    decode_tokens_per_s_min=5.0,
    inter_token_p99_ms_max=250.0,
    peak_anon_bytes_max=6_442_450_944,
)

MACHINE = Machine(
    processor="AMD EPYC 7B13",
    architecture="x86_64",
    process_architecture="x86_64",
    logical_cores=8,
    physical_cores=4,
    memory_bytes=33_653_346_304,
    system="Linux 6.1.0-44-cloud-amd64",
    power_source=None,
)

TAKEN = datetime(2026, 1, 1, tzinfo=UTC)


def conditions(
    dataset: str | None = None, split: str | None = None, samples: int | None = None, notes: tuple[str, ...] = ()
) -> Conditions:
    """Conditions of one measurement on the sample machine."""
    return Conditions(
        machine=MACHINE,
        provider="cpu",
        threads=4,
        versions={"onnxruntime": "1.31.1", "onnxruntime-genai": "0.18.0", "phiforge": "1.0.0"},
        dataset=dataset,
        split=split,
        dataset_sha256=None if dataset is None else "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
        samples=samples,
        taken_at=TAKEN,
        notes=notes,
    )


def drift(kind: Kind = Kind.MEASURED, variant_sha256: str = VARIANT) -> Drift:
    """Drift of a good int4 variant, largest at the start of a text."""
    edges = (0, 16, 32, 64, 128, 256, 512, 1024, 2048)
    means = (0.0412, 0.0309, 0.0271, 0.0246, 0.0229, 0.0217, 0.0208, 0.0204)
    bins = tuple(
        PositionBin(
            start=start,
            stop=stop,
            count=64 * (stop - start),
            kl_nats=Estimate(mean=mean, standard_error=0.004 / (index + 1)),
        )
        for index, (start, stop, mean) in enumerate(zip(edges[:-1], edges[1:], means, strict=True))
    )
    return Drift(
        kind=kind,
        conditions=conditions("wikitext-103-raw-v1", "test", 64, ("texts are cut to 2,048 tokens",)),
        variant_sha256=variant_sha256,
        reference_sha256=REFERENCE,
        top_k=256,
        positions=131_008,
        blocks=64,
        kl_nats=Estimate(mean=0.02134, standard_error=0.00081),
        kl_percentiles_nats=Percentiles(
            p1=2.4e-7, p5=4.1e-6, p50=0.00713, p90=0.0517, p95=0.0842, p99=0.2017, p99_9=0.631, max=3.412
        ),
        kl_p99_interval_nats=Interval(low=0.1914, high=0.2138),
        top1_agreement_fraction=Estimate(mean=0.9341, standard_error=0.0022),
        true_token_change_fraction=Estimate(mean=-0.0031, standard_error=0.0004),
        true_token_change_rms_fraction=0.0418,
        true_token_change_percentiles_fraction=Percentiles(
            p1=-0.1421, p5=-0.0653, p50=-0.0002, p90=0.0271, p95=0.0504, p99=0.1188, p99_9=0.2312, max=0.5127
        ),
        perplexity_reference=9.876,
        perplexity_variant=10.061,
        perplexity_ratio=1.01873,
        perplexity_log_ratio_nats=Estimate(mean=0.01856, standard_error=0.0013),
        kl_by_position=bins,
    )


def score(task: str, questions: int, before: int, *, lost: int, gained: int, p: float) -> TaskScore:
    """One task's score, its sums consistent."""
    after = before - lost + gained
    return TaskScore(
        task=task,
        questions=questions,
        reference_correct=before,
        variant_correct=after,
        flips_to_wrong=lost,
        flips_to_right=gained,
        mcnemar_p=p,
        recovery_fraction=after / before if before else 0.0,
        recovery_interval_fraction=interval_of_recovery(
            reference_correct=before, to_right=gained, to_wrong=lost, count=questions
        ),
        reference_tokens_per_answer=141.2,
        variant_tokens_per_answer=143.9,
    )


def tasks(kind: Kind = Kind.MEASURED, variant_sha256: str = VARIANT) -> Tasks:
    """Answers to three tasks; few flips."""
    return Tasks(
        kind=kind,
        conditions=conditions("gsm8k, mmlu-pro, ifeval (held-out thirds)", "test", 750),
        variant_sha256=variant_sha256,
        reference_sha256=REFERENCE,
        scores=(
            score("gsm8k", 250, 219, lost=11, gained=7, p=0.4807),
            score("mmlu-pro", 250, 131, lost=14, gained=11, p=0.6900),
            score("ifeval", 250, 184, lost=8, gained=10, p=0.8145),
        ),
        overall=score("overall", 750, 534, lost=33, gained=28, p=0.6089),
    )


def probes(kind: Kind = Kind.MEASURED, variant_sha256: str = VARIANT) -> Probes:
    """Blocking probes that pass and one note that does not block."""
    return Probes(
        kind=kind,
        conditions=conditions(),
        variant_sha256=variant_sha256,
        probes=(
            Probe(name="tokenizer", passed=True, detail="1,000 texts give the same tokens as the checkpoint's."),
            Probe(name="chat-template", passed=True, detail="12 conversations render byte for byte alike."),
            Probe(name="stop-ids", passed=True, detail="20 of 20 answers end with <|end|> before 512 tokens."),
            Probe(name="longrope-prefill", passed=True, detail="The answer to a 6,000-token prompt is coherent."),
            Probe(name="placement", passed=True, detail="All 355 nodes ran on CPUExecutionProvider."),
            Probe(
                name="repetition",
                passed=False,
                blocking=False,
                detail="1 of 20 open-ended answers repeats a sentence three times.",
            ),
        ),
    )


def latency(kind: Kind = Kind.MEASURED, variant_sha256: str = VARIANT) -> Latency:
    """Time and memory at four prompt lengths."""
    return Latency(
        kind=kind,
        conditions=conditions(notes=("a fresh process; files in the page cache",)),
        variant_sha256=variant_sha256,
        warmups=1,
        load_ms=2318.4,
        rows=tuple(
            LatencyRow(
                prompt_tokens=prompt,
                decode_tokens=64,
                repeats=5,
                ttft_p50_ms=ttft,
                ttft_p95_ms=ttft * 1.06,
                prefill_tokens_per_s_p50=prompt / ttft * 1000,
                decode_tokens_per_s_p50=speed,
                decode_tokens_per_s_p95=speed * 0.94,
                inter_token_p50_ms=1000 / speed,
                inter_token_p99_ms=1000 / speed * 1.31,
                ttft_ms=tuple(ttft * share for share in (1.07, 1.0, 0.985, 1.02, 0.99)),
                decode_tokens_per_s=tuple(speed * share for share in (0.93, 1.0, 1.005, 0.98, 1.01)),
                inter_token_p99_interval_ms=Interval(low=1000 / speed * 1.26, high=1000 / speed * 1.38),
            )
            for prompt, ttft, speed in (
                (16, 331.0, 11.84),
                (128, 1542.0, 11.61),
                (512, 5987.0, 10.92),
                (1024, 12411.0, 9.87),
            )
        ),
        peak_anon_bytes=1_204_813_824,
        peak_rss_bytes=4_187_291_648,
        memory=tuple(
            MemorySample(
                t_s=0.5 * step,
                anon_bytes=int(1.2e9 * min(1.0, step / 40) + 4e6 * (step % 7)),
                rss_bytes=int(4.18e9 * min(1.0, 0.05 + step / 14)),
            )
            for step in range(120)
        ),
    )


def variant() -> VariantFacts:
    """Files of an int4 variant with an int8 output layer."""
    return VariantFacts(
        sha256=VARIANT,
        bytes=VARIANT_BYTES,
        bits_per_weight=5.138,
        operators={
            "MatMulNBits": 129,
            "SkipSimplifiedLayerNormalization": 64,
            "GroupQueryAttention": 32,
            "Mul": 64,
            "Sigmoid": 32,
            "Split": 32,
            "GatherBlockQuantized": 1,
            "SimplifiedLayerNormalization": 1,
        },
        weights=(
            WeightGroup(
                group="attention qkv",
                tensors=32,
                bits=4,
                block_size=32,
                symmetric=False,
                bytes=283_115_520,
                bits_per_weight=4.625,
            ),
            WeightGroup(
                group="attention output",
                tensors=32,
                bits=4,
                block_size=32,
                symmetric=False,
                bytes=169_869_312,
                bits_per_weight=4.625,
            ),
            WeightGroup(
                group="mlp",
                tensors=64,
                bits=4,
                block_size=32,
                symmetric=False,
                bytes=1_358_954_496,
                bits_per_weight=4.625,
            ),
            WeightGroup(
                group="embedding and output",
                tensors=1,
                bits=8,
                block_size=32,
                symmetric=True,
                bytes=653_303_808,
                bits_per_weight=8.5,
            ),
            WeightGroup(group="norms", tensors=65, bits=32, bytes=798_720, bits_per_weight=32.0),
        ),
    )


def report(
    *,
    title: str = "phi-4-mini-instruct, int4, on an x86-64 CPU",
    evidence: tuple[AnyEvidence, ...] | None = None,
    budgets: Budgets = BUDGETS,
    accepts: tuple[Kind, ...] = (Kind.MEASURED,),
) -> Report:
    """A whole report about `evidence`, by default one of each sort, with the verdict the gate gives it."""
    records = (drift(), tasks(), probes(), latency()) if evidence is None else evidence
    first = (first_of(Drift, records), first_of(Tasks, records), first_of(Probes, records), first_of(Latency, records))
    return Report(
        phiforge_version="1.0.0",
        title=title,
        checkpoint=CheckpointFacts(
            name="microsoft/Phi-4-mini-instruct",
            family="phi-4-mini",
            fingerprint=REFERENCE,
            parameters=3_836_021_760,
            bytes=7_672_068_320,
        ),
        profile=ProfileFacts(
            name="cpu-x64",
            title="x86-64 CPU",
            provider="cpu",
            runtime_package="onnxruntime-genai",
            runtime_version="0.18.0",
            accepts=accepts,
        ),
        pipeline=PipelineFacts(
            name="cpu-int4", options={"algorithm": "k-quant", "block_size": "32", "embedding_bits": "8"}
        ),
        variant=variant(),
        stages=(
            Stage(stage="quantize", seconds=412.7, reused=False),
            Stage(stage="graph", seconds=38.2, reused=False),
            Stage(stage="inspect", seconds=1.94, reused=False),
            Stage(stage="commit", seconds=0.21, reused=True),
        ),
        drift=first[0],
        tasks=first[1],
        probes=first[2],
        latency=first[3],
        further=further_than(first, records),
        budgets=budgets,
        verdict=judge(budgets, accepts, records, variant_sha256=VARIANT, variant_bytes=VARIANT_BYTES, lengths=LENGTHS),
        limits=(
            "Drift is teacher-forced on English encyclopedia text; other languages and code were not tried.",
            "KL counts the reference's 256 likeliest tokens and one bucket for the rest: a lower bound of the full KL.",
            "One machine, one day: times on another x86-64 computer differ.",
        ),
    )


def agreement(
    comparison: Literal["emulator-prefill", "emulator-decode", "other-variant"] = "emulator-prefill",
    error: float | None = 0.0123,
    **update: Any,
) -> Agreement:
    """The emulator against the CPU provider, or the NPU's variant against the CPU's."""
    other = comparison == "other-variant"
    return Agreement(
        kind=Kind.EMULATED,
        conditions=conditions("wikitext-103-raw-v1", "test", 2),
        variant_sha256=VARIANT,
        comparison=comparison,
        against="the variant cpu-int4" if other else "the same graphs on the CPU provider",
        against_sha256=REFERENCE if other else None,
        positions=256,
        relative_logit_error=error,
        kl_mean_nats=0.00041,
        top1_agreement_fraction=0.9961,
    ).model_copy(update=update)


def breakdown() -> Breakdown:
    """Drift with weights only, with activations, and on the emulator."""
    steps = (
        ("weights", Kind.SURROGATE, 131_008, 0.01211, 0.9522),
        ("weights and activations", Kind.SURROGATE, 131_008, 0.02134, 0.9341),
        ("weights and activations", Kind.EMULATED, 256, 0.02302, 0.9297),
    )
    return Breakdown(
        kind=Kind.SURROGATE,
        conditions=conditions("wikitext-103-raw-v1", "test", 64),
        variant_sha256=VARIANT,
        reference_sha256=REFERENCE,
        steps=tuple(
            DriftStep(
                name=name,
                kind=kind,
                positions=positions,
                kl_nats=Estimate(mean=kl, standard_error=0.0008),
                top1_agreement_fraction=top1,
            )
            for name, kind, positions, kl, top1 in steps
        ),
    )


def npu_facts(*, confirmed: bool = False) -> NpuFacts:
    """Two graphs, of 64 tokens and of one, in one binary with shared weights."""
    return NpuFacts(
        sdk_version="2.45.0.260326",
        soc_model=60,
        confirmed=confirmed,
        attention="cpu",
        kv_cache_bits=8,
        window_tokens=64,
        context_tokens=4096,
        graphs=tuple(_graph(tokens) for tokens in (64, 1)),
        binaries=(BinaryFile(file="part0.bin", bytes=1_912_004_608, sha256="a1" * 32, shared=True),),
        twin_binaries=(BinaryFile(file="twin/part0.bin", bytes=1_912_000_512, sha256="b2" * 32, shared=True),),
    )


def _graph(tokens: int) -> CompiledGraph:
    def half(kind: str) -> tuple[TensorFacts, ...]:
        return tuple(
            TensorFacts(
                name=f"{kind}.{layer}.key",
                dtype="uint8",
                shape=(1, 8, 4096, 128),
                scale=0.031 + 0.002 * layer,
                zero_point=128,
            )
            for layer in range(3)
        )

    embedded = TensorFacts(name="hidden", dtype="uint16", shape=(1, tokens, 3072), scale=0.00021, zero_point=32_768)
    logits = TensorFacts(name="logits", dtype="float32", shape=(1, tokens, 200_064))
    return CompiledGraph(
        file=f"part0_{tokens}.onnx",
        binary="part0.bin",
        tokens=tokens,
        inputs=(embedded, *half("past")),
        outputs=(logits, *half("present")),
    )


NPU_BUDGETS = Budgets(
    kl_mean_nats_max=0.03,
    answer_recovery_fraction_min=0.98,
    emulator_relative_error_max=0.02,
    decode_tokens_per_s_min=5.0,
)
NPU_ACCEPTS = (Kind.MEASURED, Kind.EMULATED, Kind.SURROGATE)
SOC_SOURCE = "the SDK's list; no device has answered yet"
PROFILE = {
    "name": "qnn-x-elite",
    "title": "Snapdragon X Elite NPU",
    "provider": "qnn",
    "runtime_package": "onnxruntime-qnn",
    "runtime_version": "2.7.0",
    "soc_source": SOC_SOURCE,
}


def npu_evidence() -> tuple[AnyEvidence, ...]:
    """All that a validation of an NPU variant leaves on a machine without the NPU."""
    on_emulator = drift(Kind.EMULATED).model_copy(
        update={"positions": 256, "blocks": 2, "kl_nats": Estimate(mean=0.02302, standard_error=0.0041)}
    )
    return (
        drift(Kind.SURROGATE),
        on_emulator,
        tasks(Kind.SURROGATE),
        probes(Kind.EMULATED),
        agreement(),
        agreement("emulator-decode", 0.0151),
        agreement("other-variant", None),
        breakdown(),
    )


def npu_report(*, evidence: tuple[AnyEvidence, ...] | None = None, confirmed: bool = False) -> Report:
    """A whole report about an NPU variant that no device has run."""
    records = npu_evidence() if evidence is None else evidence
    plain = report(
        title="phi-4-mini-instruct on a Snapdragon X Elite",
        evidence=records,
        budgets=NPU_BUDGETS,
        accepts=NPU_ACCEPTS,
    )
    profile = plain.profile.model_copy(update=PROFILE)
    facts = plain.variant.model_copy(update={"npu": npu_facts(confirmed=confirmed)})
    notice = "Latency is unverified until the device has measured it: no number here is of its speed."
    return plain.model_copy(update={"profile": profile, "variant": facts, "notices": (notice,)})


def fleet(*reports: Report) -> Fleet:
    """A whole report about these variants and devices, each with a file for each piece of evidence."""
    entries = []
    for made in reports or (report(),):
        sources = {
            id(record): Source(file=f"evidence/v/{name}.json", sha256="ab" * 32, href=f"../evidence/v/{name}.json")
            for name, record in zip(evidence_names(made.evidence), made.evidence, strict=True)
        }
        entries.append(make_entry("mini.ortpackage", "c" * 64, made, sources))
    return make_fleet(entries, "1.0.0")
