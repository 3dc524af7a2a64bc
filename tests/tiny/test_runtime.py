"""A real variant under the real runtime. Fixtures: nano_variant and nano_every_position, variant folders."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from phiforge import errors
from phiforge.runtime.generate import as_generation, generate, stops_at
from phiforge.runtime.logits import logits, logits_stepwise, trace_greedy
from phiforge.runtime.onnx_files import external_files
from phiforge.runtime.placement import check_placement
from phiforge.runtime.variant import Variant, check_files, onnx_names, open_variant


@pytest.fixture(scope="module")
def variant(nano_every_position: Path) -> Variant:
    return open_variant(nano_every_position, threads=1)


@pytest.fixture(scope="module")
def prompts(variant: Variant) -> list[list[int]]:
    questions = ["What is 12 + 30?", "What is 75 + 38?", "What is 9 - 4?", "Who is Ana?"]
    return [variant.encode(variant.apply_chat_template([{"role": "user", "content": text}])) for text in questions]


def test_facts_come_from_the_folder(variant: Variant, nano_variant: Path) -> None:
    config = json.loads((nano_variant / "genai_config.json").read_text(encoding="utf-8"))
    assert variant.provider == "cpu"
    assert variant.vocab_size == config["model"]["vocab_size"]
    assert set(variant.stop_ids) == set(np.atleast_1d(config["model"]["eos_token_id"]).tolist())
    assert variant.decode(variant.encode("Hello, 123.")) == "Hello, 123."


def test_logits_are_of_every_position_and_causal(variant: Variant, prompts: list[list[int]]) -> None:
    ids = prompts[0]
    whole = logits(variant, ids)
    assert whole.shape == (len(ids), variant.vocab_size)
    assert whole.dtype == np.float32
    np.testing.assert_allclose(logits(variant, ids[:-3]), whole[:-3], atol=1e-2)


def test_the_decode_path_agrees_with_prefill(variant: Variant, prompts: list[list[int]]) -> None:
    ids = prompts[0]
    stepwise = logits_stepwise(variant, ids, len(ids) // 2)
    assert np.abs(stepwise - logits(variant, ids)).max() < 0.5
    assert (stepwise.argmax(axis=1) == logits(variant, ids).argmax(axis=1)).mean() > 0.9


def test_a_trace_has_the_logits_of_its_choices(variant: Variant, prompts: list[list[int]]) -> None:
    trace = trace_greedy(variant, prompts[0], 12)
    assert len(trace.tokens) == len(prompts[0]) + 12
    assert trace.tokens[trace.prompt_tokens + 1 :] == tuple(trace.logits[1:].argmax(axis=1).tolist())
    assert not set(trace.tokens[trace.prompt_tokens :]) & set(variant.stop_ids)


def test_generation_is_the_same_alone_and_together(variant: Variant, prompts: list[list[int]]) -> None:
    alone = generate(variant, prompts, max_new_tokens=40)
    assert alone == generate(variant, prompts, max_new_tokens=40, batch_size=8)
    for prompt, generation in zip(prompts, alone, strict=True):
        assert len(generation.tokens) <= 40
        assert (generation.stopped_by == "length") == (len(generation.tokens) == 40)
        assert not set(generation.tokens) & set(variant.stop_ids)
        assert generation.tokens[0] == int(logits(variant, prompt)[-1].argmax())


def test_rows_of_a_batch_end_at_their_stop_id() -> None:
    assert as_generation([5, 6, 9, 0, 0], {9}, 5).tokens == (5, 6)
    assert as_generation([5, 6, 9, 0, 0], {9}, 5).stopped_by == "stop-id"
    assert as_generation([5, 6], {9}, 5).stopped_by == "stop-id"
    assert as_generation([5, 6, 7, 8, 4], {9}, 5).stopped_by == "length"


def test_each_stop_id_stops_and_nothing_else(variant: Variant) -> None:
    assert all(stops_at(variant, token) for token in variant.stop_ids)
    other = next(token for token in range(variant.vocab_size) if token not in variant.stop_ids)
    assert not stops_at(variant, other)


def test_every_node_runs_on_the_cpu(nano_variant: Path) -> None:
    facts = check_placement(nano_variant, "cpu")
    assert facts.total > 20
    assert not facts.elsewhere()
    with pytest.raises(errors.FallbackError):
        check_placement(nano_variant, "cuda")


def test_data_files_are_found_without_onnx(nano_variant: Path) -> None:
    for name in onnx_names(check_files(nano_variant)):
        needs = external_files(nano_variant / name)
        assert needs
        assert all((nano_variant / file).stat().st_size >= length for file, length in needs.items())


def remove(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).unlink()


def cut(pattern: str) -> Callable[[Path], None]:
    def halve(folder: Path) -> None:
        for file in folder.glob(pattern):
            file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])

    return halve


def garble(folder: Path) -> None:
    (folder / "genai_config.json").write_text('{"model": {}}', encoding="utf-8")


@pytest.mark.parametrize(
    ("damage", "why"),
    [
        (remove("genai_config.json"), "genai_config.json"),
        (remove("tokenizer.json"), "tokenizer.json"),
        (remove("model.onnx"), "model.onnx"),
        (cut("*.data"), "bytes"),
        (cut("model.onnx"), "model.onnx"),
        (garble, "genai_config.json"),
    ],
)
def test_damaged_folders_are_refused(
    nano_variant: Path, tmp_path: Path, damage: Callable[[Path], None], why: str
) -> None:
    folder = tmp_path / "variant"
    shutil.copytree(nano_variant, folder)
    damage(folder)
    with pytest.raises(errors.VariantUnusableError) as caught:
        open_variant(folder)
    assert why in caught.value.why


def test_no_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(errors.VariantUnusableError):
        open_variant(tmp_path / "none")
