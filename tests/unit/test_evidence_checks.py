"""What evidence may not say is refused when it is read, whatever file it is in."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from statistics import median
from typing import Any

import pytest

from phiforge import errors
from phiforge.evidence import (
    AgreementBin,
    AnyEvidence,
    Comparison,
    ComparisonRow,
    ContentionRow,
    DecodeBin,
    Endings,
    Energy,
    FreeRunning,
    IdleRow,
    Interval,
    Kind,
    Latency,
    MemoryNeed,
    Percentiles,
    PredictedRow,
    Prediction,
    RefusalCategory,
    Refusals,
    SecondTurn,
    dump_evidence,
    parse_evidence,
)
from unit.reporting import samples

FALLING = Percentiles(p1=0, p5=0, p50=21, p90=60, p95=64, p99=64, p99_9=64, max=64)
ENDINGS = Endings(stopped=18, unfinished=2, looping=1, early=0)


def full_latency() -> Latency:
    """Latency with everything that a thorough bench measures."""
    return samples.latency().model_copy(
        update={
            "load_cold_ms": (2900.0, 2800.0),
            "load_warm_ms": (2300.0,),
            "by_position": (DecodeBin(start=0, stop=64, count=64, inter_token_p50_ms=84.0, inter_token_p95_ms=90.0),),
            "idle": (IdleRow(idle_s=5.0, prompt_tokens=16, ttft_ms=(340.0, 350.0)),),
            "second_turn": SecondTurn(
                first_turn_tokens=128, second_turn_tokens=16, kept_ttft_ms=(350.0,), anew_ttft_ms=(1700.0,)
            ),
            "contention": (
                ContentionRow(busy_cores=2, prompt_tokens=128, ttft_p50_ms=3100.0, decode_tokens_per_s_p50=6.0),
            ),
            "energy": Energy(
                source="RAPL", covers="package-0", tokens=64, joules=128.0, joules_per_token=2.0, average_watts=24.0
            ),
        }
    )


def free_running() -> FreeRunning:
    return FreeRunning(
        kind=Kind.MEASURED,
        conditions=samples.conditions("text.jsonl", "held-out", 20),
        variant_sha256=samples.VARIANT,
        reference_sha256=samples.REFERENCE,
        prompts=20,
        identical=8,
        limit_tokens=64,
        first_divergence_percentiles_tokens=FALLING,
        agreement_by_position=(AgreementBin(start=0, stop=64, count=1280, agreement_fraction=0.7),),
        reference=ENDINGS,
        variant=ENDINGS,
        length_ratio=1.01,
        length_ratio_interval=Interval(low=0.97, high=1.06),
    )


def refusals() -> Refusals:
    rows = (("benign", 12, 0, 11, 1, 0), ("harm", 8, 5, 1, 2, 0))
    fields = ("category", "prompts", "both_refuse", "both_answer", "only_reference_refuses", "only_variant_refuses")
    return Refusals(
        kind=Kind.MEASURED,
        conditions=samples.conditions("refusals.jsonl", "held-out", 20),
        variant_sha256=samples.VARIANT,
        reference_sha256=samples.REFERENCE,
        categories=tuple(RefusalCategory.model_validate(dict(zip(fields, row, strict=True))) for row in rows),
        agreement_fraction=17 / 20,
        agreement_interval_fraction=Interval(low=0.66, high=0.96),
    )


def comparison() -> Comparison:
    ratios = (1.01, 0.98, 1.02, 1.0, 0.99)
    row = ComparisonRow(
        metric="decode",
        prompt_tokens=128,
        ratios=ratios,
        ratio_p50=median(ratios),
        ratio_interval=Interval(low=0.98, high=1.02),
    )
    return Comparison(
        kind=Kind.MEASURED,
        conditions=samples.conditions(),
        variant_sha256=samples.VARIANT,
        against_sha256="4" * 64,
        rounds=5,
        rows=(row,),
    )


def prediction() -> Prediction:
    return Prediction(
        kind=Kind.PREDICTED,
        conditions=samples.conditions(),
        variant_sha256=samples.VARIANT,
        profile="cpu-x64",
        bandwidth_bytes_per_s=5.12e10,
        operations_per_s=4e11,
        bandwidth_efficiency_fraction=0.6,
        compute_efficiency_fraction=0.5,
        efficiency_source="latency of the variant cpu-int4",
        rows=(PredictedRow(prompt_tokens=128, ttft_ms=1500.0, decode_tokens_per_s=11.0),),
        memory=MemoryNeed(
            context_tokens=4096,
            weights_bytes=2_900_000_000,
            kv_cache_bytes_per_token=131_072,
            kv_cache_bytes=536_870_912,
            workspace_bytes=60_000_000,
            total_bytes=3_496_870_912,
        ),
    )


WHOLE: dict[str, AnyEvidence] = {
    "drift": samples.drift(),
    "tasks": samples.tasks(),
    "probes": samples.probes(),
    "latency": full_latency(),
    "free-running": free_running(),
    "refusals": refusals(),
    "comparison": comparison(),
    "prediction": prediction(),
    "agreement": samples.agreement(),
    "breakdown": samples.breakdown(),
}

Change = Callable[[dict[str, Any]], object]


def changed(name: str, change: Change) -> str:
    content = json.loads(dump_evidence(WHOLE[name]))
    change(content)
    return json.dumps(content)


def why(text: str) -> str:
    with pytest.raises(errors.EvidenceInvalidError) as caught:
        parse_evidence(text, "somewhere/e.json")
    assert "somewhere/e.json" in caught.value.what
    return caught.value.why


@pytest.mark.parametrize("name", WHOLE)
def test_what_is_whole_is_read(name: str) -> None:
    assert parse_evidence(dump_evidence(WHOLE[name]), "e") == WHOLE[name]


def set_at(*path: str | int, value: object) -> Change:
    def change(content: dict[str, Any]) -> None:
        place: Any = content
        for step in path[:-1]:
            place = place[step]
        place[path[-1]] = value

    return change


LATENCY_NUMBERS: list[tuple[str | int, ...]] = [
    ("load_ms",),
    ("load_cold_ms", 1),
    ("load_warm_ms", 0),
    ("rows", 0, "ttft_ms", 2),
    ("rows", 1, "decode_tokens_per_s", 4),
    ("rows", 1, "inter_token_p99_interval_ms", "high"),
    ("by_position", 0, "inter_token_p95_ms"),
    ("idle", 0, "ttft_ms", 0),
    ("idle", 0, "idle_s"),
    ("second_turn", "kept_ttft_ms", 0),
    ("second_turn", "anew_ttft_ms", 0),
    ("contention", 0, "ttft_p50_ms"),
    ("contention", 0, "decode_tokens_per_s_p50"),
    ("energy", "joules"),
    ("energy", "average_watts"),
    ("memory", 3, "t_s"),
]


@pytest.mark.parametrize("value", [-1.0, math.nan, math.inf])
@pytest.mark.parametrize("path", LATENCY_NUMBERS, ids=str)
def test_no_time_or_energy_is_negative_or_no_number(path: tuple[str | int, ...], value: float) -> None:
    assert f"has {value} for " in why(changed("latency", set_at(*path, value=value)))


def blocked(sizes: Sequence[int] = (2047,) * 64, kl: float = 0.02134, top1: float = 0.9341) -> dict[str, Any]:
    """The numbers of a drift's blocks."""
    return {
        "block_positions": list(sizes),
        "block_kl_nats": [kl] * len(sizes),
        "block_top1_agreement_fraction": [top1] * len(sizes),
    }


FAULTS: dict[str, tuple[str, Change, str]] = {
    "a newer schema": ("drift", set_at("schema_version", value="2.0"), "'2.0'"),
    "a surrogate's time": ("latency", set_at("kind", value="surrogate"), "time and memory are measured or not known"),
    "an emulated comparison": ("comparison", set_at("kind", value="emulated"), "is emulated"),
    "a predicted time": ("latency", set_at("kind", value="predicted"), "is predicted"),
    "a measured prediction": ("prediction", set_at("kind", value="measured"), "a prediction is always predicted"),
    "a predicted drift": ("drift", set_at("kind", value="predicted"), "nothing else is"),
    "predicted probes": ("probes", set_at("kind", value="predicted"), "nothing else is"),
    "an emulated process": (
        "latency",
        set_at("conditions", "machine", "architecture", value="arm64"),
        "emulated process: x86_64 on arm64",
    ),
    "an emulated process's comparison": (
        "comparison",
        set_at("conditions", "machine", "process_architecture", value="arm64"),
        "emulated process: arm64 on x86_64",
    ),
    "no provider": ("probes", set_at("conditions", "provider", value=" "), "under which conditions"),
    "no versions": ("latency", set_at("conditions", "versions", value={}), "the versions of the tools"),
    "versions without the runtime": (
        "latency",
        set_at("conditions", "versions", value={"a": "b", "onnxruntime": " "}),
        "the version of the runtime",
    ),
    "fewer samples than none": ("drift", set_at("conditions", "samples", value=-1), "-1 samples"),
    "no threads": ("latency", set_at("conditions", "threads", value=0), "the number of threads"),
    "no processor": ("latency", set_at("conditions", "machine", "processor", value=""), "the processor"),
    "no time": ("drift", set_at("conditions", "taken_at", value=None), "the time"),
    "no memory": ("drift", set_at("conditions", "machine", "memory_bytes", value=0), "the memory"),
    "no data set": ("drift", set_at("conditions", "dataset", value=None), "the data set"),
    "no split": ("tasks", set_at("conditions", "split", value=None), "its split"),
    "no hash of the data": ("refusals", set_at("conditions", "dataset_sha256", value=None), "its hash"),
    "no conditions": ("latency", lambda content: content.pop("conditions"), "conditions"),
    "a ratio of nothing to something": ("drift", set_at("perplexity_ratio", value=0.0), "0.0 for perplexity_ratio"),
    "an error below zero": ("drift", set_at("kl_nats", "standard_error", value=-0.1), "error below zero in kl_nats"),
    "a load that takes no time": ("latency", set_at("load_ms", value=0.0), "0.0 for load_ms"),
    "a process without memory": ("latency", set_at("peak_anon_bytes", value=0), "0 for peak_anon_bytes"),
    "a first token at once": (
        "latency",
        lambda c: c["rows"][0].update(ttft_p50_ms=0.0, ttft_ms=[]),
        "0.0 for ttft_p50_ms",
    ),
    "two rows at one length": ("latency", lambda c: c["rows"].append(c["rows"][0]), "two rows at one prompt length"),
    "percentiles of a row that fall": (
        "latency",
        set_at("rows", 0, "ttft_p95_ms", value=1.0),
        "the wrong way round at",
    ),
    "a prompt without a token": ("latency", set_at("rows", 0, "prompt_tokens", value=0), "a row without a token"),
    "decoding without a token": ("latency", set_at("rows", 1, "decode_tokens", value=0), "a row without a token"),
    "a row without a repeat": (
        "latency",
        lambda c: c["rows"][0].update(repeats=0, ttft_ms=[], decode_tokens_per_s=[]),
        "or a repeat: 16 tokens, 64 after them, 0 repeats",
    ),
    "a comparison without a token": ("comparison", set_at("rows", 0, "prompt_tokens", value=0), "without a token"),
    "more blocks than positions": ("drift", set_at("blocks", value=131_009), "131009 blocks of 131008 positions"),
    "a drift of no block": ("drift", set_at("blocks", value=0), "0 blocks of"),
    "a drift of no position": ("drift", set_at("positions", value=0), "blocks of 0 positions"),
    "blocks that are not as many": ("drift", lambda c: c.update(blocked(sizes=[131_008])), "has 1 blocks of 131008"),
    "blocks of other positions": (
        "drift",
        lambda c: c.update(blocked(sizes=[2048] * 64)),
        "blocks of 131072 positions",
    ),
    "a block of nothing": (
        "drift",
        lambda c: c.update(blocked(sizes=[0, 4094, *[2047] * 62])),
        "64 blocks of 131008 positions one by one",
    ),
    "blocks of another mean": ("drift", lambda c: c.update(blocked(kl=0.01)), "0.02134 for kl_nats, which is not"),
    "blocks of another agreement": ("drift", lambda c: c.update(blocked(top1=0.99)), "for top1_agreement_fraction"),
    "a negative block": (
        "drift",
        lambda c: c.update(blocked() | {"block_kl_nats": [-0.02134, 0.06402, *[0.02134] * 62]}),
        "for kl_nats, which is not the mean",
    ),
    "means of fewer blocks": (
        "drift",
        lambda c: c.update(blocked() | {"block_kl_nats": [0.02134]}),
        "for kl_nats, which is not the mean",
    ),
    "answers to no task": ("tasks", set_at("scores", value=[]), "has no task"),
    "a negative drift": ("drift", set_at("kl_nats", "mean", value=-0.1), "-0.1 for kl_nats"),
    "a drift that is no number": ("drift", set_at("perplexity_ratio", value=math.nan), "nan for perplexity_ratio"),
    "falling percentiles": (
        "drift",
        set_at("kl_percentiles_nats", "p50", value=9.0),
        "percentiles the wrong way round",
    ),
    "a turned interval": ("drift", set_at("kl_p99_interval_nats", "low", value=9.0), "interval the wrong way round"),
    "a turned range": ("free-running", set_at("agreement_by_position", 0, "start", value=99), "range the wrong way"),
    "answers that the flips do not give": (
        "tasks",
        set_at("overall", "variant_correct", value=530),
        "its flips give 529",
    ),
    "a recovery that the counts do not give": (
        "tasks",
        set_at("overall", "recovery_fraction", value=0.999),
        "not that of its counts",
    ),
    "a recovery that is surer than its counts": (
        "tasks",
        set_at("overall", "recovery_interval_fraction", value={"low": 0.99, "high": 1.0}),
        "interval of the recovery in overall which is not that of its counts",
    ),
    "other questions in all": ("tasks", set_at("overall", "questions", value=751), "not the sum of its tasks"),
    "repeats left out": ("latency", lambda c: c["rows"][0]["ttft_ms"].pop(), "has 4 of 5 repeats for ttft_ms"),
    "a median of other repeats": ("latency", set_at("rows", 0, "ttft_p50_ms", value=300.0), "its repeats have 331.0"),
    "a faster median": ("latency", set_at("rows", 2, "decode_tokens_per_s_p50", value=20.0), "its repeats have 10.92"),
    "no joules": ("latency", set_at("energy", "joules", value=0.0), "not above zero"),
    "no watts": ("latency", set_at("energy", "average_watts", value=0.0), "not above zero"),
    "no tokens": ("latency", set_at("energy", "tokens", value=0), "not above zero"),
    "other joules a token": (
        "latency",
        set_at("energy", "joules_per_token", value=1.0),
        "not its joules over its tokens",
    ),
    "a ratio of nothing": ("comparison", set_at("rows", 0, "ratios", 0, value=0.0), "no ratios above zero"),
    "a negative ratio": ("comparison", set_at("rows", 0, "ratios", 0, value=-1.0), "-1.0 for ratios.0"),
    "a ratio that is no number": ("comparison", set_at("rows", 0, "ratios", 0, value=math.nan), "nan for ratios.0"),
    "another median of ratios": ("comparison", set_at("rows", 0, "ratio_p50", value=0.9), "0.9 for the median"),
    "ratios that are surer than their rounds": (
        "comparison",
        set_at("rows", 0, "ratio_interval", value={"low": 0.99, "high": 1.01}),
        "which is not that of its 5 rounds",
    ),
    "a comparison of no round": ("comparison", set_at("rows", value=[]), "has no round"),
    "generations that do not add up": (
        "free-running",
        set_at("variant", "stopped", value=19),
        "endings of the variant that do not add up to its 20 prompts",
    ),
    "more alike than there are": ("free-running", set_at("identical", value=21), "21 identical generations of 20"),
    "more loops than there are": ("free-running", set_at("reference", "looping", value=21), "endings of the reference"),
    "an agreement above one": (
        "free-running",
        set_at("agreement_by_position", 0, "agreement_fraction", value=1.2),
        "1.2 for agreement_fraction",
    ),
    "refusals that do not add up": ("refusals", set_at("categories", 1, "both_refuse", value=6), "to its 8 prompts"),
    "another agreement than counted": ("refusals", set_at("agreement_fraction", value=0.95), "not that of its counts"),
    "a category twice": ("refusals", set_at("categories", 1, "category", value="benign"), "a category twice"),
    "no efficiency": ("prediction", set_at("bandwidth_efficiency_fraction", value=0.0), "not above zero"),
    "memory that does not add up": ("prediction", set_at("memory", "total_bytes", value=1), "another sum"),
    "a negative prediction": ("prediction", set_at("rows", 0, "ttft_ms", value=-5.0), "-5.0 for ttft_ms"),
    "a count beyond all floats": ("latency", set_at("peak_rss_bytes", value=10**400), "beyond all counts"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_what_evidence_may_not_say_is_refused(fault: str) -> None:
    name, change, told = FAULTS[fault]
    assert told in why(changed(name, change))


@pytest.mark.parametrize(
    ("late", "refused"), [(timedelta(hours=-1), False), (timedelta(hours=23), False), (timedelta(hours=25), True)]
)
@pytest.mark.parametrize("name", WHOLE)
def test_evidence_from_the_future_is_refused(name: str, late: timedelta, refused: bool) -> None:
    taken = (datetime.now(UTC) + late).isoformat()
    text = changed(name, set_at("conditions", "taken_at", value=taken))
    if refused:
        assert "from the future" in why(text)
    else:
        parse_evidence(text, "e")


def test_a_time_without_a_zone_is_refused() -> None:
    assert "taken_at" in why(changed("drift", set_at("conditions", "taken_at", value="2026-01-01T00:00:00")))


def test_emulated_processes_may_show_what_is_not_time() -> None:
    text = changed("drift", set_at("conditions", "machine", "architecture", value="arm64"))
    assert parse_evidence(text, "e").evidence == "drift"


def test_an_infinite_drift_is_for_the_gate_to_fail() -> None:
    assert parse_evidence(changed("drift", set_at("kl_nats", "mean", value=math.inf)), "e").evidence == "drift"


def test_blocks_that_add_up_are_no_fault() -> None:
    assert parse_evidence(changed("drift", lambda c: c.update(blocked())), "e")
    overflowed = blocked(kl=math.inf) | {"kl_nats": {"mean": math.inf, "standard_error": math.nan}}
    assert parse_evidence(changed("drift", lambda c: c.update(overflowed)), "e")


def test_one_block_without_an_error_is_no_fault() -> None:
    assert parse_evidence(changed("drift", set_at("kl_nats", "standard_error", value=math.nan)), "e")
