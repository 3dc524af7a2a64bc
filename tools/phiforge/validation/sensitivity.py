"""How much the quantization of each weight alone changes what the model says: measured on calibration texts.

One weight at a time is replaced by what its codes stand for, everything else stays as it is, and the mean KL divergence
to the unchanged model is taken over all positions. All these models go through the layers together: a layer is read
once, whatever the number of weights.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from transformers import AutoTokenizer

from phiforge.checkpoint.config import load_config
from phiforge.checkpoint.weights import open_weights
from phiforge.decoder.decoder import EMBEDDING, HEAD, PARTS, Batch, Decoder, choose_texts
from phiforge.decoder.rotated import RotatedWeights
from phiforge.quantize import quantize_rows
from phiforge.quantize.spec import dequantize

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import NDArray

    from phiforge.quantize.spec import QuantSpec

    Floats = NDArray[np.float32]

# Rows of logits compared at once, in double precision.
CHUNK_ROWS = 32
# The weights are rounded to nearest: what a weight costs by a better algorithm is smaller, in much the same order.
ALGORITHM = "rtn"
BASE = ""


@dataclass(frozen=True)
class _Streams:
    """Hidden states of the unchanged model, under `BASE`, and of the models with one weight changed, by its module."""

    folder: Path
    shape: tuple[int, int]
    states: dict[str, Floats]

    def add(self, module: str, values: Floats) -> None:
        file = self.folder / f"{len(self.states)}.f32"
        state = np.memmap(file, dtype=np.float32, mode="w+", shape=self.shape)
        state[:] = values
        self.states[module] = state


def open_decoder(
    checkpoint: Path, rotation_seed: int | None, texts: Sequence[str], *, tied: bool, tokens: int, threads: int
) -> tuple[Decoder, list[list[int]]]:
    """Return the decoder to measure, rotated or untied as the pipeline has it, and about `tokens` tokens of texts."""
    torch.set_num_threads(threads)
    config, weights = load_config(checkpoint), open_weights(checkpoint)
    if rotation_seed is not None:
        decoder = Decoder(checkpoint, RotatedWeights(weights, config, rotation_seed), tied=False)
    else:
        own_head = config.tied_embeddings and not tied
        decoder = Decoder(checkpoint, weights.with_own_head() if own_head else weights, tied=tied)
    tokenizer = AutoTokenizer.from_pretrained(checkpoint, local_files_only=True, trust_remote_code=False)
    return decoder, choose_texts([tokenizer(text)["input_ids"] for text in texts], tokens)


def measure_sensitivities(
    decoder: Decoder,
    specs: Mapping[str, QuantSpec],
    texts: Sequence[Sequence[int]],
    *,
    scratch: Path,
    progress: Callable[[int, int], None],
) -> dict[str, float]:
    """Return the mean KL(unchanged || one weight quantized) in nats for each module of `specs`.

    Args:
        decoder: The checkpoint.
        specs: The weights to try, and how each is quantized.
        texts: Token ids of the texts.
        scratch: Folder for mapped files: 4 bytes * tokens * hidden size for each weight, removed afterwards.
        progress: Told (layers done, layers in all).
    """
    batch = Batch.of(texts)
    layers = decoder.config.layer_count
    scratch.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=scratch) as folder, torch.inference_mode():
        streams = _Streams(Path(folder), (len(batch.tokens), decoder.config.hidden_size), {})
        streams.add(BASE, decoder.embed(batch.tokens))
        if EMBEDDING in specs:
            streams.add(EMBEDDING, decoder.embed(batch.tokens, lambda rows: _rounded(rows, specs[EMBEDDING])))
        for index in range(layers):
            progress(index, layers + 1)
            _advance(decoder, index, batch, specs, streams)
        progress(layers, layers + 1)
        found = _compare(decoder, specs, streams)
    progress(layers + 1, layers + 1)
    return found


def _advance(decoder: Decoder, index: int, batch: Batch, specs: Mapping[str, QuantSpec], streams: _Streams) -> None:
    """Take every stream through a layer, and begin one for each weight of it."""
    layer = decoder.layer(index)
    before = list(streams.states.values())
    for part in PARTS:
        module = f"model.layers.{index}.{part}"
        if module not in specs:
            continue
        weight = layer.get_submodule(part).weight
        kept = weight.clone()
        weight.copy_(torch.from_numpy(_rounded(kept.numpy(), specs[module])))
        streams.add(module, _through(decoder, layer, batch, streams.states[BASE]))
        weight.copy_(kept)
    for state in before:
        state[:] = _through(decoder, layer, batch, state)


def _through(decoder: Decoder, layer: object, batch: Batch, hidden: Floats) -> Floats:
    found = np.empty(hidden.shape, np.float32)
    for start, stop in batch.bounds:
        found[start:stop] = decoder.forward(layer, torch.from_numpy(hidden[start:stop])).numpy()
    return found


def _compare(decoder: Decoder, specs: Mapping[str, QuantSpec], streams: _Streams) -> dict[str, float]:
    """Return the mean KL of each stream to the unchanged one; the head's own weight has a stream here only."""
    unchanged = _logits(decoder, streams.states[BASE], None)
    found = {}
    for module, state in streams.states.items():
        if module != BASE:
            # A tied table is the head too.
            spec = specs[module] if module == decoder.head_module else None
            found[module] = _mean_kl(unchanged, _logits(decoder, state, spec))
    if HEAD in specs:
        found[HEAD] = _mean_kl(unchanged, _logits(decoder, streams.states[BASE], specs[HEAD]))
    return found


def _logits(decoder: Decoder, hidden: Floats, spec: QuantSpec | None) -> torch.Tensor:
    normed = decoder.normalize(torch.from_numpy(hidden))
    return decoder.logits(normed, None if spec is None else lambda rows: _rounded(rows, spec))


def _mean_kl(reference: torch.Tensor, other: torch.Tensor) -> float:
    total = 0.0
    for start in range(0, len(reference), CHUNK_ROWS):
        rows = slice(start, start + CHUNK_ROWS)
        ours = torch.log_softmax(reference[rows].double(), dim=-1)
        theirs = torch.log_softmax(other[rows].double(), dim=-1)
        total += float((ours.exp() * (ours - theirs)).sum())
    return total / len(reference)


def _rounded(rows: Floats, spec: QuantSpec) -> Floats:
    return dequantize(quantize_rows(rows, spec, ALGORITHM, torch.get_num_threads()))
