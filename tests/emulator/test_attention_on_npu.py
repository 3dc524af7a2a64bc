"""The embedded model with attention on the NPU, or everything: as good on the emulator as with attention on the CPU."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnxruntime as ort
import pytest
from numpy.typing import NDArray
from transformers import AutoTokenizer

from phiforge import errors
from phiforge.calibration import load_calibration
from phiforge.checkpoint.nano import CHECKPOINT_DIR, EVAL_DIR
from phiforge.decoder.decoder import choose_texts
from phiforge.olive.calibrate_activations import calibrate_activations
from phiforge.olive.calibrate_checkpoint import calibrate_checkpoint
from phiforge.olive.compile_stages import compile_stages
from phiforge.olive.export_stages import export_stages
from phiforge.olive.rotate_checkpoint import rotate_checkpoint
from phiforge.pipeline import CompileOptions, QuantizeOptions, StagesOptions
from phiforge.runtime.placement import check_placement
from phiforge.runtime.qnn import session_options
from phiforge.runtime.stages import StagedDecoder, open_stages
from phiforge.variant import CALIBRATED_FOLDER, QDQ_FOLDER, TWIN_FOLDER

CONTEXT = 256
WINDOW: Final = 64
ERROR_MAX = 1e-2
# A cache of 8 bits is less exact; with attention on the CPU it costs 0.013.
CACHE_ERROR_MAX = 2e-2
# Enough for ranges; how well the model answers does not matter here.
CALIBRATION_TOKENS = 512
EVERYTHING = {"attention": "npu", "embedding": "npu", "head": "npu", "kv_cache_bits": 8}

Logits = NDArray[np.float32]
Run = Callable[[StagedDecoder, list[int]], Logits]


def silent(*_: object) -> None:
    """Take progress and do nothing."""


@pytest.fixture(scope="module")
def texts() -> list[list[int]]:
    tokenizer = AutoTokenizer.from_pretrained(CHECKPOINT_DIR)
    return [tokenizer(text.text)["input_ids"] for text in load_calibration(EVAL_DIR / "calibration.jsonl")]


@pytest.fixture(scope="module")
def ids(texts: list[list[int]]) -> list[int]:
    """As many tokens as the context holds."""
    return [token for text in texts[-40:] for token in text][:CONTEXT]


@pytest.fixture(scope="module")
def calibrated(texts: list[list[int]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The embedded model as the pipeline quantizes it; without smoothing its outliers cost the emulator 0.1."""
    folder = tmp_path_factory.mktemp("calibrated")
    rotated, quantized, done = (folder / name for name in ("rotated", "quantized", "calibrated"))
    for made in (rotated, quantized, done):
        made.mkdir()
    rotate_checkpoint(CHECKPOINT_DIR, rotated, 0, progress=silent)
    options = QuantizeOptions(
        type="PhiforgeQuantize",
        algorithm="gptq",
        bits=4,
        block_size=128,
        symmetric=True,
        per_channel=True,
        positive_scales=True,
        smoothing=0.5,
        lm_head_bits=8,
        embedding_bits=8,
    )
    chosen = choose_texts(texts, CALIBRATION_TOKENS)
    calibrate_checkpoint(rotated, quantized, options, chosen, work=folder / "work", threads=2, progress=silent)
    calibrate_activations(quantized, done, chosen, work=folder / "ranges", threads=2, progress=silent)
    return done


@pytest.fixture(scope="module")
def attention_on_cpu(calibrated: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(calibrated, tmp_path_factory.mktemp("cpu"))


@pytest.fixture(scope="module")
def attention_on_npu(calibrated: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(calibrated, tmp_path_factory.mktemp("npu"), attention="npu")


def build(calibrated: Path, folder: Path, **changes: Any) -> Path:
    source, built = folder / "source", folder / "built"
    source.mkdir()
    built.mkdir()
    stages = StagesOptions(
        type="PhiforgeStages", window_tokens=WINDOW, context_tokens=CONTEXT, parts=1, **changes
    )  # fmt: skip
    export_stages(calibrated, source, stages, progress=silent)
    shutil.copytree(calibrated, source / CALIBRATED_FOLDER)
    options = CompileOptions(type="PhiforgeCompile", provider="qnn", soc_model=60, optimization=1)
    compile_stages(source, built, options, log=folder / "log", progress=silent)
    return built


def relative_error(found: Logits, wanted: Logits) -> float:
    return float(np.linalg.norm(found - wanted) / np.linalg.norm(wanted))


def in_turns(decoder: StagedDecoder, ids: list[int]) -> Logits:
    """Windows, the last of them padded, then single tokens over the padding, then a window again."""
    sequence = decoder.sequence()
    rows = [sequence.prefill(ids[:100]), *(sequence.decode(token)[None] for token in ids[100:106])]
    rows += [sequence.prefill(ids[106:150]), sequence.decode(ids[150])[None]]
    return np.concatenate(rows)


def to_the_end(decoder: StagedDecoder, ids: list[int]) -> Logits:
    """Windows, and single tokens up to the last that the cache holds."""
    sequence = decoder.sequence()
    rows = [sequence.prefill(ids[:250]), *(sequence.decode(token)[None] for token in ids[250:])]
    with pytest.raises(errors.ContextTooLongError):
        sequence.decode(0)
    return np.concatenate(rows)


@pytest.fixture(scope="module")
def wanted(attention_on_cpu: Path, ids: list[int]) -> dict[Run, Logits]:
    """What attention on the CPU gives, the rest on the emulator."""
    decoder = open_stages(attention_on_cpu / TWIN_FOLDER, threads=2)
    return {run: run(decoder, ids) for run in (in_turns, to_the_end)}


@pytest.mark.parametrize("run", [in_turns, pytest.param(to_the_end, marks=pytest.mark.long)])
@pytest.mark.parametrize("place", [TWIN_FOLDER, QDQ_FOLDER])
def test_attention_on_the_npu_is_that_on_the_cpu(
    attention_on_npu: Path, place: str, run: Run, ids: list[int], wanted: dict[Run, Logits]
) -> None:
    """Three quarters of each head are rotated, so that the order of its elements counts."""
    found = run(open_stages(attention_on_npu / place, threads=2), ids)
    assert found.shape == wanted[run].shape
    assert relative_error(found, wanted[run]) < ERROR_MAX


def test_nothing_is_left_to_the_cpu(attention_on_npu: Path) -> None:
    facts = check_placement(attention_on_npu / TWIN_FOLDER, "qnn")
    assert ("CPUExecutionProvider", "GroupQueryAttention") not in facts.nodes


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize(("name", "tokens", "past"), [("prefill_0", WINDOW, 100), ("decode_0", 1, 100)])
def test_the_npu_writes_the_whole_cache(
    attention_on_npu: Path, name: str, tokens: int, past: int, shared: bool
) -> None:
    """The past and what lies beyond the new rows stay, in one buffer for both and in two."""
    path = attention_on_npu / TWIN_FOLDER / f"{name}.onnx"
    session = ort.InferenceSession(path, session_options({"soc_model": "60"}, cpu_fallback=False))
    random, binding = np.random.default_rng(0), session.io_binding()
    given: dict[str, NDArray[np.float16]] = {}
    caches: dict[str, Any] = {}
    for value in session.get_inputs():
        if value.name.startswith("past_key_values."):
            given[value.name] = random.normal(size=value.shape).astype(np.float16)
            caches[value.name] = ort.OrtValue.ortvalue_from_numpy(given[value.name].copy())
            binding.bind_ortvalue_input(value.name, caches[value.name])
    codes = random.integers(25000, 40000, size=(1, tokens, 256)).astype(np.uint16)
    lengths = np.array([[past + tokens - 1]], np.int32), np.array([CONTEXT], np.int32)
    for key, fed in zip(("embedding", "past_seq_len", "total_seq_len"), (codes, *lengths), strict=True):
        binding.bind_cpu_input(key, fed)
    written: dict[str, Any] = {}
    for value in session.get_outputs():
        if value.name.startswith("present."):
            key = value.name.replace("present", "past_key_values")
            empty = np.full(value.shape, 9, np.float16)
            written[key] = caches[key] if shared else ort.OrtValue.ortvalue_from_numpy(empty)
            binding.bind_ortvalue_output(value.name, written[key])
        else:
            binding.bind_output(value.name)
    session.run_with_iobinding(binding)
    assert len(written) == 12
    for key, before in given.items():
        after = written[key].numpy()
        changed = (after != before).any(axis=(0, 1, 3))
        np.testing.assert_array_equal(changed, (np.arange(CONTEXT) >= past) & (np.arange(CONTEXT) < past + tokens))


@pytest.mark.long
def test_everything_on_the_npu_and_a_cache_of_8_bits(
    calibrated: Path, ids: list[int], wanted: dict[Run, Logits], tmp_path: Path
) -> None:
    built = build(calibrated, tmp_path, **EVERYTHING)
    config = json.loads((built / TWIN_FOLDER / "genai_config.json").read_text(encoding="utf-8"))
    stages = config["model"]["decoder"]["pipeline"][0]
    assert list(stages) == ["prefill_0", "decode_0", "selection", "head", "logits"]
    check_placement(built / TWIN_FOLDER, "qnn")
    emulated, on_cpu = (in_turns(open_stages(built / place, threads=2), ids) for place in (TWIN_FOLDER, QDQ_FOLDER))
    assert relative_error(emulated, on_cpu) < ERROR_MAX
    assert relative_error(emulated, wanted[in_turns]) < CACHE_ERROR_MAX
