"""The decoder layer by layer: rotated, walked through, and with one weight quantized at a time."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from transformers import AutoModelForCausalLM, AutoTokenizer

from broken.checkpoints import make_checkpoint
from phiforge import errors
from phiforge.checkpoint.config import load_config
from phiforge.checkpoint.weights import open_weights
from phiforge.decoder.decoder import PARTS, Batch, Decoder, choose_texts
from phiforge.decoder.walk import hessian, walk_layer
from phiforge.olive.rotate_checkpoint import rotate_checkpoint
from phiforge.quantize import quantize_rows
from phiforge.quantize.spec import QuantSpec, dequantize
from phiforge.validation.sensitivity import measure_sensitivities, open_decoder

TEXT = "Ana has 3 apples and gets 4 more. What is 12 + 30? It is 42. Ben lives in a small town. "
SPEC = QuantSpec(bits=4, block_size=32, symmetric=False)


def tokens(checkpoint: Path, count: int) -> list[int]:
    ids = AutoTokenizer.from_pretrained(checkpoint)(TEXT * 40)["input_ids"]
    assert len(ids) >= count
    return list(ids[:count])


def log_probabilities(checkpoint: Path, texts: Sequence[Sequence[int]]) -> list[torch.Tensor]:
    model = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32, attn_implementation="sdpa")
    with torch.inference_mode():
        return [torch.log_softmax(model(torch.tensor([list(text)])).logits[0].double(), dim=-1) for text in texts]


def mean_kl(ours: Sequence[torch.Tensor], theirs: Sequence[torch.Tensor]) -> float:
    terms = [(a.exp() * (a - b)).sum(dim=-1) for a, b in zip(ours, theirs, strict=True)]
    return float(torch.cat(terms).mean())


def rotate(source: Path, folder: Path) -> Path:
    folder.mkdir()
    rotate_checkpoint(source, folder, 0, progress=lambda done, total: None)
    return folder


def test_a_rotated_checkpoint_is_the_same_function(nano_checkpoint: Path, tmp_path: Path) -> None:
    """Below and beyond the longrope switch; what is left is float16's rounding of the weights."""
    rotated = rotate(nano_checkpoint, tmp_path / "rotated")
    texts = [tokens(nano_checkpoint, 200), tokens(nano_checkpoint, 300)]
    assert 0 <= mean_kl(log_probabilities(nano_checkpoint, texts), log_probabilities(rotated, texts)) < 1e-5
    assert not load_config(rotated).tied_embeddings


def test_a_rotation_spreads_outliers(nano_checkpoint: Path, tmp_path: Path) -> None:
    rotated = open_weights(rotate(nano_checkpoint, tmp_path / "rotated"))
    plain = open_weights(nano_checkpoint)
    for name in ("model.layers.2.self_attn.qkv_proj.weight", "model.layers.2.mlp.gate_up_proj.weight"):
        before, after = plain.read(name), rotated.read(name)
        assert after.shape == before.shape
        assert peak(after) < 0.8 * peak(before)
    norm = rotated.read("model.layers.2.input_layernorm.weight")
    np.testing.assert_array_equal(norm, np.ones_like(norm))


def peak(weight: NDArray[np.float32]) -> float:
    """How far the largest column of a weight stands out of all."""
    return float(np.linalg.norm(weight, axis=0).max() / np.sqrt((weight**2).sum() / weight.shape[1]))


def test_grouped_values_and_an_untied_head_rotate_too(tmp_path: Path) -> None:
    source = make_checkpoint(tmp_path / "grouped", head_count=4, kv_head_count=2, tied=False)
    rotated = rotate(source, tmp_path / "rotated")
    texts = [list(range(5, 60))]
    assert mean_kl(log_probabilities(source, texts), log_probabilities(rotated, texts)) < 1e-5


def test_a_width_without_hadamard_matrix_is_refused(tmp_path: Path) -> None:
    source = make_checkpoint(tmp_path / "odd", hidden_size=224, head_count=7, kv_head_count=7, intermediate_size=256)
    with pytest.raises(errors.PipelineInvalidError, match="cannot be rotated"):
        rotate(source, tmp_path / "rotated")


def test_walking_a_layer_is_computing_it(nano_checkpoint: Path, tmp_path: Path) -> None:
    decoder = Decoder(nano_checkpoint, open_weights(nano_checkpoint))
    batch = Batch.of([tokens(nano_checkpoint, 50), tokens(nano_checkpoint, 300)])
    hidden = decoder.embed(batch.tokens)
    layer = decoder.layer(0)
    after = np.zeros_like(hidden)
    seen: dict[str, tuple[int, ...]] = {}

    def visit(part: str, module: Any, inputs: NDArray[np.float32]) -> None:
        seen[part] = inputs.shape
        expected = inputs.astype(np.float64).T @ inputs
        np.testing.assert_allclose(hessian(inputs), expected, rtol=1e-3, atol=1e-3 * np.abs(expected).max())

    walk_layer(decoder, layer, batch, hidden, after, visit, tmp_path)
    with torch.inference_mode():
        for start, stop in batch.bounds:
            whole = decoder.forward(layer, torch.from_numpy(hidden[start:stop])).numpy()
            np.testing.assert_allclose(after[start:stop], whole, rtol=1e-4, atol=1e-5)
    assert tuple(seen) == PARTS
    assert seen["mlp.down_proj"] == (350, 768)
    assert not list(tmp_path.iterdir())


def test_sensitivities_are_those_of_whole_models(nano_checkpoint: Path, tmp_path: Path) -> None:
    """One weight quantized in transformers' own model has the KL that the streams say; the tied table counts twice."""
    decoder, texts = open_decoder(nano_checkpoint, None, [TEXT * 10], tied=True, tokens=120, threads=2)
    modules = ["model.embed_tokens", "model.layers.0.self_attn.qkv_proj", "model.layers.5.mlp.down_proj"]
    found = measure_sensitivities(
        decoder, dict.fromkeys(modules, SPEC), texts, scratch=tmp_path, progress=lambda done, total: None
    )
    assert set(found) == set(modules)
    reference = log_probabilities(nano_checkpoint, texts)
    for module in modules:
        model = AutoModelForCausalLM.from_pretrained(nano_checkpoint, dtype=torch.float32, attn_implementation="sdpa")
        weight = model.get_submodule(module).weight
        with torch.inference_mode():
            weight.copy_(torch.from_numpy(dequantize(quantize_rows(weight.numpy(), SPEC, "rtn"))))
            changed = [torch.log_softmax(model(torch.tensor([text])).logits[0].double(), dim=-1) for text in texts]
        assert found[module] == pytest.approx(mean_kl(reference, changed), rel=0.02, abs=1e-6)


def test_texts_are_chosen_until_there_are_enough_tokens() -> None:
    assert choose_texts([[1, 2, 3], [4, 5], [6]], 4) == [[1, 2, 3], [4]]
    assert choose_texts([list(range(5000))], 10_000) == [list(range(2048))]
