"""A variant that gives the logits of the last position alone, built, validated on its twin, and run."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from judged import unpassed
from phiforge.evidence import Drift, Probes, load_evidence
from phiforge.gate import Outcome
from phiforge.graph.twin import graph_difference, make_twin
from phiforge.olive.export_variant import export_variant
from phiforge.olive.quantize_checkpoint import quantize_checkpoint
from phiforge.packaging.layout import variant_folders
from phiforge.pipeline import ExportOptions, QuantizeOptions
from phiforge.runtime.generate import generate
from phiforge.runtime.logits import logits, trace_greedy
from phiforge.runtime.variant import Variant, open_variant
from phiforge.validation.twin import scored_folder
from phiforge.verbs.build import BuildResult

QUESTIONS = ["What is 12 + 30?", "What is 75 + 38?", "Who is Ana?", "Ana has 3 apples and gets 4 more. How many?"]


@pytest.fixture(scope="module")
def pruned_variant(pruned_build: BuildResult) -> Path:
    assert pruned_build.package is not None
    (folder,) = variant_folders(pruned_build.package).values()
    return folder


@pytest.fixture(scope="module")
def variants(pruned_variant: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Variant, Variant]]:
    """The variant with the logits of every position, and the one with the last position's; nothing else differs."""
    with scored_folder(pruned_variant, tmp_path_factory.mktemp("twin")) as twin:
        yield open_variant(twin, threads=2), open_variant(pruned_variant, threads=2)


def test_it_is_validated_on_its_twin(pruned_build: BuildResult) -> None:
    found = unpassed(pruned_build.verdicts["cpu-x64"])
    assert [item.reason for item in found if item.outcome is Outcome.FAIL] == []
    assert pruned_build.package is not None
    folder = next((pruned_build.package / "evidence").iterdir())
    drift, probes = load_evidence(folder / "drift.json"), load_evidence(folder / "probes.json")
    assert isinstance(drift, Drift) and isinstance(probes, Probes)
    assert all(any("twin" in note for note in record.conditions.notes) for record in (drift, probes))
    names = [probe.name for probe in probes.probes if probe.passed]
    assert {"pruned-head", "longrope-prefill", "placement"} <= set(names)
    assert not list(pruned_build.package.parent.rglob(".twin-*"))


def test_the_twin_is_the_unpruned_build(nano_checkpoint: Path, tmp_path: Path) -> None:
    folders = {name: tmp_path / name for name in ("quantized", "all", "last", "twin")}
    for folder in folders.values():
        folder.mkdir()
    quantize = QuantizeOptions(type="PhiforgeQuantize", algorithm="rtn", bits=4, block_size=128, symmetric=False)
    quantize_checkpoint(nano_checkpoint, folders["quantized"], quantize, threads=1, progress=lambda *_: None)
    for logits_of in ("all", "last"):
        export = ExportOptions(type="PhiforgeExport", provider="cpu", logits=logits_of)
        export_variant(folders["quantized"], folders[logits_of], export, progress=lambda *_: None)
    make_twin(folders["last"], folders["twin"])
    assert graph_difference(folders["twin"] / "model.onnx", folders["all"] / "model.onnx") == ()
    ids = np.random.default_rng(0).integers(4, 900, 300).tolist()
    twin, every = (open_variant(folders[name], threads=1) for name in ("twin", "all"))
    for length in (7, 256, 257, 300):
        np.testing.assert_array_equal(logits(twin, ids[:length]), logits(every, ids[:length]))


def test_it_generates_as_the_unpruned_build(variants: tuple[Variant, Variant]) -> None:
    every, last = variants
    texts = [every.apply_chat_template([{"role": "user", "content": text}]) for text in QUESTIONS]
    prompts = [every.encode(text) for text in texts]
    expected = generate(every, prompts, max_new_tokens=40)
    assert generate(last, prompts, max_new_tokens=40) == expected
    assert generate(last, prompts, max_new_tokens=40, batch_size=4) == expected
    across = [trace_greedy(variant, prompts[0] * 20, 24).tokens for variant in variants]
    assert across[0] == across[1]


@pytest.mark.parametrize("side", ["right", "left"])
def test_padded_batches_begin_with_the_right_token(variants: tuple[Variant, Variant], side: str) -> None:
    """The builder's own prune_lm_head reads the logits of padding where shorter prompts are padded on the right."""
    every, last = variants
    prompts = [every.encode(every.apply_chat_template([{"role": "user", "content": text}])) for text in QUESTIONS]
    width, padding = max(map(len, prompts)), every.stop_ids[0]
    rows = [
        prompt + [padding] * (width - len(prompt)) if side == "right" else [padding] * (width - len(prompt)) + prompt
        for prompt in prompts
    ]
    firsts = []
    for variant in (every, last):
        generator = variant.generator(max_length=width + 8, batch_size=len(rows))
        generator.append_tokens(np.asarray(rows, dtype=np.int32))
        for _ in range(4):
            generator.generate_next_token()
        firsts.append([generator.get_sequence(row)[width:].tolist() for row in range(len(rows))])
    assert firsts[0] == firsts[1]
