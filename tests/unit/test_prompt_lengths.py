"""Which prompt lengths of a profile a variant must be measured at."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from phiforge.evidence import dump_evidence
from phiforge.prompt_lengths import fitting, prompt_lengths
from phiforge.reporting import Report, Source
from phiforge.target import Budgets, Measure, load_profile
from phiforge.variant import CheckpointFacts, VariantRecord
from phiforge.verbs.package import PackageInput
from phiforge.verbs.subject import Subject
from unit.release.packages import ROOT
from unit.reporting import samples

MEASURE = Measure(warmups=1, repeats=5, prompt_tokens=[1024, 16, 128, 128], decode_tokens=64)
RECORD = VariantRecord(
    name="cpu-int4",
    key="1" * 64,
    sha256="2" * 64,
    bytes=1,
    bits_per_weight=4.0,
    provider="cpu",
    device="cpu",
    checkpoint=CheckpointFacts(name="m", family="f", fingerprint="3" * 64, parameters=1, bytes=1),
    options={},
    operators={},
    weights=(),
    toolchain={},
)


def config(folder: Path, content: object) -> Path:
    (folder / "genai_config.json").write_text(json.dumps(content), encoding="utf-8")
    return folder


# A prompt of 1,024 tokens, the first new one and 64 more are 1,089.
@pytest.mark.parametrize(
    ("context", "lengths"), [(1089, (16, 128, 1024)), (1088, (16, 128)), (81, (16,)), (80, ()), (8, ())]
)
def test_lengths_end_where_the_context_does(tmp_path: Path, context: int, lengths: tuple[int, ...]) -> None:
    folder = config(tmp_path, {"model": {"context_length": context}})
    found = prompt_lengths(MEASURE, RECORD, folder)
    assert (found.prompt_tokens, found.decode_tokens) == (lengths, 64)


@pytest.mark.parametrize("content", [{}, {"model": {}}, [], {"model": {"context_length": None}}])
def test_where_the_context_is_not_known_no_length_is_left_out(tmp_path: Path, content: object) -> None:
    for folder in (None, tmp_path, config(tmp_path, content)):
        assert prompt_lengths(MEASURE, RECORD, folder).prompt_tokens == (16, 128, 1024)


def test_an_npu_s_record_has_its_context_and_window() -> None:
    npu = samples.npu_facts().model_copy(update={"context_tokens": 256, "window_tokens": 64})
    record = RECORD.model_copy(update={"npu": npu})
    assert prompt_lengths(MEASURE, record, None).prompt_tokens == (16, 128)
    # 129 tokens fill 192 of the cache, and 64 more do not fit 256.
    longer = MEASURE.model_copy(update={"prompt_tokens": [129]})
    assert prompt_lengths(longer, record, None).prompt_tokens == ()


@given(
    lengths=st.lists(st.integers(1, 5000), min_size=1, max_size=8),
    decode=st.integers(1, 200),
    context=st.integers(1, 5000),
    window=st.sampled_from([1, 64, 128]),
)
def test_what_fits_is_what_can_be_run(lengths: list[int], decode: int, context: int, window: int) -> None:
    def runs(length: int) -> bool:
        held = length
        while held % window:
            held += 1
        return held + 1 + decode <= context

    found = fitting(lengths, decode, context_tokens=context, window_tokens=window)
    assert found == sorted({length for length in lengths if runs(length)})


def reported(folder: Path) -> list[Report]:
    """Both ways to a variant's report; the profile also measures 4,096 tokens, the evidence ends at 1,024."""
    profile = load_profile(ROOT / "targets" / "cpu-x64.toml")
    measure = profile.measure.model_copy(update={"prompt_tokens": [16, 128, 512, 1024, 4096]})
    budgets = {"budgets": Budgets(ttft_p50_ms_max=14_000.0), "budgets_for": {}, "measure": measure}
    variant = PackageInput(
        subject=Subject(name="cpu-int4", folder=folder, sha256=RECORD.sha256, record=RECORD),
        about=folder,
        evidence={"latency-cpu-x64.json": dump_evidence(samples.latency(variant_sha256=RECORD.sha256))},
        profiles=(profile.model_copy(update=budgets),),
        licences=(),
    )
    (entry,) = variant.entries(
        "p.ortpackage", "4" * 64, lambda place: Source(file=str(place), sha256="5" * 64, href="")
    )
    return [variant.reports()["cpu-x64"], entry.report]


@pytest.mark.parametrize(("context", "outcome"), [(2048, "pass"), (4161, "unverified"), (131_072, "unverified")])
def test_a_report_asks_for_what_the_variant_s_context_takes(tmp_path: Path, context: int, outcome: str) -> None:
    for report in reported(config(tmp_path, {"model": {"context_length": context}})):
        first = report.verdict.findings[0]
        assert (first.budget, first.outcome) == ("ttft_p50_ms_max", outcome)
        assert outcome == "pass" or "at prompts of 4,096 tokens with 64 decoded" in first.reason
