"""A report made by hand with numbers as a real one has them: phi-4-mini, int4, on an x86-64 CPU."""

from __future__ import annotations

from phiforge.evidence import (
    AnyEvidence,
    Conditions,
    Drift,
    Estimate,
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
from phiforge.reporting.schema import (
    PipelineFacts,
    ProfileFacts,
    Report,
    Stage,
    VariantFacts,
)
from phiforge.target import Budgets
from phiforge.variant import CheckpointFacts, WeightGroup

VARIANT = "5f0c2a9be1d84f37a6b2c3d4e5f60718293a4b5c6d7e8f90a1b2c3d4e5f60718"
REFERENCE = "9c1e7d42b08f4a55b1c0d9e8f7a6b5c4d3e2f1a09b8c7d6e5f4a3b2c1d0e9f8a"
VARIANT_BYTES = 2_941_337_088

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
            Probe(name="chat template", passed=True, detail="12 conversations render byte for byte alike."),
            Probe(name="stops", passed=True, detail="20 of 20 answers end with <|end|> before 512 tokens."),
            Probe(name="longrope switch", passed=True, detail="The answer to a 6,000-token prompt is coherent."),
            Probe(name="provider", passed=True, detail="All 355 nodes ran on CPUExecutionProvider."),
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
) -> Report:
    """A whole report about `evidence`, by default one of each sort, with the verdict the gate gives it."""
    records = (drift(), tasks(), probes(), latency()) if evidence is None else evidence
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
            accepts=(Kind.MEASURED,),
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
        drift=next((record for record in records if isinstance(record, Drift)), None),
        tasks=next((record for record in records if isinstance(record, Tasks)), None),
        probes=next((record for record in records if isinstance(record, Probes)), None),
        latency=next((record for record in records if isinstance(record, Latency)), None),
        budgets=budgets,
        verdict=judge(budgets, (Kind.MEASURED,), records, variant_sha256=VARIANT, variant_bytes=VARIANT_BYTES),
        limits=(
            "Drift is teacher-forced on English encyclopedia text; other languages and code were not tried.",
            "KL counts the reference's 256 likeliest tokens and one bucket for the rest: a lower bound of the full KL.",
            "One machine, one day: times on another x86-64 computer differ.",
        ),
    )
