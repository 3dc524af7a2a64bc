"""Reference, a whole validation and a bench of a real variant. Fixtures: nano_variant, nano_checkpoint."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from transformers import AutoModelForCausalLM

from held_out import declare
from phiforge import errors
from phiforge.evidence import dump_evidence, load_evidence
from phiforge.hashing import hash_file
from phiforge.target import Measure
from phiforge.validation.drift import ReferenceText, score
from phiforge.validation.held_out import ask_checkpoint
from phiforge.validation.latency import measure_latency
from phiforge.validation.original import Original
from phiforge.validation.reference import Source, compute_answers, compute_reference, tokenize
from phiforge.validation.reference_outputs import ReferenceOutputs
from phiforge.validation.run import Validation, validate_variant
from phiforge.validation.way import way_of

TEXTS = ["Ana has 3 apples and gets 4 more.", "What is 12 + 30? It is 42. " * 6, "Ben lives in a small town."]
QUESTIONS = ["What is 12 + 30?", "What is 75 + 38?", "Ana has 3 apples and gets 4 more. How many apples does Ana have?"]


@pytest.fixture(scope="module")
def original(nano_checkpoint: Path) -> Original:
    return Original(nano_checkpoint, threads=1)


@pytest.fixture
def source(nano_checkpoint: Path, tmp_path: Path, original: Original) -> Source:
    made = Source(nano_checkpoint, "f" * 64, tmp_path / "cache", 1)
    made.__dict__["original"] = original
    return made


def distributions(original: Original, texts: Sequence[Sequence[int]], top_k: int, scratch: Path) -> list[ReferenceText]:
    return original.distributions(texts, top_k, scratch=scratch, on_layer=lambda done, total: None)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("eval")
    (folder / "tasks").mkdir()
    texts = [{"id": str(i), "text": text} for i, text in enumerate(TEXTS)]
    questions = [
        {"id": str(i), "messages": [{"role": "user", "content": text}], "answer": "42"}
        for i, text in enumerate(QUESTIONS)
    ]
    for name, lines in (("text.jsonl", texts), ("tasks/sums.jsonl", questions)):
        (folder / name).write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    choices = [
        {"id": f"c{i}", "question": text, "choices": ["It is 42.", "No.", "42", "Ana"], "answer": 2}
        for i, text in enumerate(QUESTIONS)
    ]
    declare(folder / "tasks")
    (folder / "tasks" / "choices.jsonl").write_text("\n".join(map(json.dumps, choices)), encoding="utf-8")
    with (folder / "tasks" / "tasks.toml").open("a", encoding="utf-8") as file:
        digest = hash_file(folder / "tasks" / "choices.jsonl")
        file.write(f'''
[choices]
file = "choices.jsonl"
format = "mmlu"
split = "held-out"
licence = "MIT"
choices = "texts"
sha256 = "{digest}"
''')
    return folder


def test_the_reference_agrees_with_itself(original: Original, tmp_path: Path) -> None:
    ids = original.encode(TEXTS[1])
    (text,) = distributions(original, [ids], 10_000, tmp_path)
    total = np.exp(text.top_log_probabilities.astype(np.float64)).sum(axis=1)
    np.testing.assert_allclose(total, 1, rtol=1e-5)
    assert np.isneginf(text.tail_log_mass).all()
    row = dict(zip(text.top_ids[3].tolist(), text.top_log_probabilities[3].tolist(), strict=True))
    assert row[ids[4]] == pytest.approx(float(text.true_log_probability[3]))


def test_layer_by_layer_gives_the_numbers_of_the_whole_model(
    nano_checkpoint: Path, original: Original, tmp_path: Path
) -> None:
    """Texts before, at and beyond the longrope switch, against transformers' own model in float32."""
    line = original.encode(" ".join(TEXTS * 20))
    texts = [line[:1], line[:100], line[:256], line[:300]]
    found = distributions(original, texts, 10_000, tmp_path)
    model = AutoModelForCausalLM.from_pretrained(nano_checkpoint, dtype=torch.float32, attn_implementation="sdpa")
    for ids, text in zip(texts, found, strict=True):
        with torch.inference_mode():
            whole = torch.log_softmax(model(torch.tensor([ids])).logits[0].double(), dim=-1).numpy()
        ours = np.take_along_axis(whole, text.top_ids.astype(np.int64), axis=1)
        np.testing.assert_allclose(text.top_log_probabilities, ours, atol=2e-5)
        np.testing.assert_array_equal(text.tokens, ids)
        true = whole[np.arange(len(ids) - 1), ids[1:]]
        np.testing.assert_allclose(text.true_log_probability, true, atol=2e-5)
    assert not list(tmp_path.iterdir())


def test_widening_layer_by_layer_gives_the_same_answers(nano_checkpoint: Path, original: Original) -> None:
    streamed = Original(nano_checkpoint, threads=1, stream=True)
    prompt = original.chat_ids([{"role": "user", "content": QUESTIONS[0]}])
    options = {"max_new_tokens": 12, "stop_ids": (1000, 1003)}
    assert streamed.generate([prompt], **options) == original.generate([prompt], **options)  # type: ignore[arg-type]


def test_padded_batches_answer_as_single_prompts(original: Original) -> None:
    stops = (1000, 1003)
    prompts = [original.chat_ids([{"role": "user", "content": text}]) for text in QUESTIONS]
    together = original.generate(prompts, max_new_tokens=24, stop_ids=stops)
    for prompt, row in zip(prompts, together, strict=True):
        (alone,) = original.generate([prompt], max_new_tokens=24, stop_ids=stops)
        assert row[: len(alone)] == alone


def test_the_cache_spares_the_checkpoint(source: Source, nano_checkpoint: Path) -> None:
    ids = tokenize(source, TEXTS, []).texts
    first = compute_reference(source, ids, top_k=8)
    answers = compute_answers(source, ids[:2], [8, 8], (1000, 1003))
    blind = Source(nano_checkpoint, source.fingerprint, source.cache, 1)
    blind.__dict__["original"] = None  # any use of it fails
    again = compute_reference(blind, ids, top_k=8)
    for a, b in zip(first.texts, again.texts, strict=True):
        for name, value in vars(a).items():
            np.testing.assert_array_equal(value, getattr(b, name))
    assert compute_answers(blind, ids[:2], [8, 8], (1000, 1003)) == answers
    assert tokenize(blind, TEXTS, []).texts == ids


def test_a_damaged_cache_is_computed_again(source: Source) -> None:
    ids = tokenize(source, TEXTS, []).texts
    first = compute_reference(source, ids, top_k=8)
    (file,) = source.cache.glob("*.npz")
    for content in (b"", file.read_bytes()[:1000], b"x" * 5000):
        file.write_bytes(content)
        again = compute_reference(source, ids, top_k=8)
        np.testing.assert_array_equal(first.texts[0].top_ids, again.texts[0].top_ids)
    for json_file in source.cache.glob("*.json"):
        json_file.write_text("{", encoding="utf-8")
    assert tokenize(source, TEXTS, []).texts == ids
    assert not list(source.cache.glob("*.tmp"))


def test_another_checkpoint_has_another_cache(source: Source, nano_checkpoint: Path, original: Original) -> None:
    ids = tokenize(source, TEXTS[:1], []).texts
    compute_reference(source, ids, top_k=8)
    other = Source(nano_checkpoint, "e" * 64, source.cache, 1)
    other.__dict__["original"] = original
    compute_reference(other, ids, top_k=8)
    assert len(list(source.cache.glob("*.npz"))) == 2


@pytest.fixture(scope="module")
def outputs(nano_checkpoint: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> ReferenceOutputs:
    return ask_checkpoint(
        nano_checkpoint,
        data / "text.jsonl",
        data / "tasks",
        context=1_000_000,
        cache=tmp_path_factory.mktemp("cache"),
        threads=1,
        progress=lambda *_: None,
    )


@pytest.fixture(scope="module")
def validation(
    nano_variant: Path, outputs: ReferenceOutputs, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Validation]:
    steps: list[str] = []
    yield validate_variant(
        nano_variant,
        outputs,
        way_of("cpu"),
        variant_sha256="0" * 64,
        work=tmp_path_factory.mktemp("work"),
        threads=1,
        progress=lambda step, done, total: steps.append(step),
    )
    assert {"drift", "answers", "free running", "refusals", "choices", "longrope switch"} <= set(steps)


def test_drift_is_small_but_not_nothing(validation: Validation) -> None:
    drift = validation.drift
    assert 0 < drift.kl_nats.mean < 1
    assert drift.perplexity_ratio == pytest.approx(1, abs=0.5)
    assert drift.conditions.dataset == "text.jsonl"
    assert drift.conditions.threads == 1


def test_every_question_is_answered(validation: Validation) -> None:
    assert validation.tasks is not None
    assert [score.task for score in validation.tasks.scores] == ["choices", "sums"]
    assert validation.tasks.overall.questions == 2 * len(QUESTIONS)


def test_continuations_and_prompts_are_asked_too(validation: Validation) -> None:
    running, refusals = validation.free_running, validation.refusals
    assert running is not None and refusals is not None
    # Three questions, and the beginning of the one text that is long enough.
    assert (running.prompts, running.limit_tokens) == (4, 128)
    assert running.identical >= 2
    assert sum(item.both_answer for item in refusals.categories) == 32


def test_the_layers_give_the_log_likelihoods_of_the_whole_model(
    nano_checkpoint: Path, original: Original, tmp_path: Path
) -> None:
    """Labels, longer continuations and two prompts, against transformers' own model in float32."""
    line = original.encode(" ".join(TEXTS * 3))
    prompts, continuations = [line[:20], line[:33]], [[[5], [6], line[20:23]], [line[33:40], [5, 6]]]
    found = original.log_likelihoods(prompts, continuations, scratch=tmp_path, on_layer=lambda done, total: None)
    model = AutoModelForCausalLM.from_pretrained(nano_checkpoint, dtype=torch.float32, attn_implementation="sdpa")
    for prompt, items, values in zip(prompts, continuations, found, strict=True):
        for item, value in zip(items, values, strict=True):
            with torch.inference_mode():
                logs = torch.log_softmax(model(torch.tensor([[*prompt, *item]])).logits[0].double(), dim=-1)
            rows = logs[len(prompt) - 1 : -1]
            assert value == pytest.approx(float(rows[range(len(item)), item].sum()), abs=1e-4)
    assert not list(tmp_path.iterdir())


def test_many_choices_are_taken_in_pieces(original: Original, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    line = original.encode(" ".join(TEXTS))
    prompts = [line[:length] for length in (10, 12, 14)]
    continuations = [[[5, 6, 7], [6], [8]]] * 3

    def ask() -> list[list[float]]:
        return original.log_likelihoods(prompts, continuations, scratch=tmp_path, on_layer=lambda done, total: None)

    whole = ask()
    monkeypatch.setattr("phiforge.validation.original.PIECE_TOKENS", 13)
    monkeypatch.setattr("phiforge.validation.original.HEAD_ROWS", 2)
    np.testing.assert_allclose(ask(), whole, atol=1e-4)


def test_probes_of_a_sound_variant_pass(validation: Validation) -> None:
    found = {probe.name: probe for probe in validation.probes.probes}
    assert list(found) == [
        "tokenizer", "chat-template", "stop-ids", "stopping", "pruned-head", "longrope-prefill", "longrope-decode",
        "placement",
    ]  # fmt: skip
    failed = {name: probe.detail for name, probe in found.items() if probe.blocking and not probe.passed}
    assert not failed
    assert not found["longrope-decode"].blocking


def test_evidence_survives_the_disk(validation: Validation, tmp_path: Path) -> None:
    assert len(validation.records()) == 5
    for evidence in validation.records():
        (tmp_path / "e.json").write_text(dump_evidence(evidence), encoding="utf-8")
        assert dump_evidence(load_evidence(tmp_path / "e.json")) == dump_evidence(evidence)


def test_the_reference_has_no_drift_from_itself(source: Source, original: Original, tmp_path: Path) -> None:
    """The whole chain, with torch in the place of the variant."""
    reference = compute_reference(source, tokenize(source, TEXTS, []).texts, top_k=64)

    def logits_of(ids: Sequence[int]) -> NDArray[np.float32]:
        (text,) = distributions(original, [ids], 10_000, tmp_path)
        logits = np.zeros(text.top_ids.shape, dtype=np.float32)
        np.put_along_axis(logits, text.top_ids.astype(np.int64), text.top_log_probabilities, axis=1)
        return logits

    assert score(reference, logits_of).kl_percentiles_nats.max < 1e-6


def test_latency_is_measured_in_another_process(nano_variant: Path, tmp_path: Path) -> None:
    measure = Measure(warmups=1, repeats=5, prompt_tokens=[16, 100_000, 64], decode_tokens=8, threads=1)
    latency = measure_latency(
        nano_variant, variant_sha256="0" * 64, measure=measure, progress=lambda step, done, total: None
    )
    assert [row.prompt_tokens for row in latency.rows] == [16, 64]
    assert all(row.repeats == 5 and row.decode_tokens == 8 for row in latency.rows)
    assert all(0 < row.inter_token_p50_ms < row.ttft_p95_ms * 1000 for row in latency.rows)
    assert 2**20 < latency.peak_anon_bytes <= latency.peak_rss_bytes
    assert latency.load_ms > 0
    assert any("100000" in note for note in latency.conditions.notes)
    (tmp_path / "e.json").write_text(dump_evidence(latency), encoding="utf-8")
    assert load_evidence(tmp_path / "e.json") == latency


def test_a_worker_that_fails_says_why(nano_variant: Path, tmp_path: Path) -> None:
    (tmp_path / "genai_config.json").write_bytes((nano_variant / "genai_config.json").read_bytes())
    measure = Measure(warmups=1, repeats=5, prompt_tokens=[16], decode_tokens=8, threads=1)
    with pytest.raises(errors.VariantUnusableError, match="cannot be measured") as caught:
        measure_latency(tmp_path, variant_sha256="0" * 64, measure=measure, progress=lambda step, done, total: None)
    assert "absent" in caught.value.why
