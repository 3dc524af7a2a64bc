"""A checkpoint's decoder, computed layer by layer over all texts at once.

Only one layer's weights are in memory, and the hidden states of all texts lie in a mapped file, so a model of any
depth needs the memory of one layer. The layers are transformers' own Phi-3 modules, in float32; a text is computed in
one prefill, so the numbers are those of the whole model.
"""

from __future__ import annotations

import tempfile
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from transformers import AutoConfig
from transformers.models.phi3.modeling_phi3 import (
    Phi3DecoderLayer,
    Phi3RMSNorm,
    Phi3RotaryEmbedding,
    apply_rotary_pos_emb,
)

from phiforge.checkpoint.config import load_config

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from phiforge.checkpoint.config import ModelConfig
    from phiforge.decoder.rows import Rows

    Floats = NDArray[np.float32]
    Change = Callable[[Floats], Floats]

EMBEDDING = "model.embed_tokens"
HEAD = "lm_head"
NORM = "model.norm"
# The linear modules of a layer, in the order in which they compute.
QKV, OUTPUT, GATE_UP, DOWN = PARTS = ("self_attn.qkv_proj", "self_attn.o_proj", "mlp.gate_up_proj", "mlp.down_proj")
NORMS = ("input_layernorm", "post_attention_layernorm")
# Tokens of one calibration text; the rest of a longer one is cut off.
TEXT_TOKENS = 2048
# Weights of embedding or head in memory at once: 128 MB as float32.
BLOCK_WEIGHTS = 32 * 1024 * 1024
# Hidden states that a head block is multiplied with at once; with 200,064 tokens of vocabulary 410 MB of logits.
HEAD_ROWS = 512


@dataclass(frozen=True)
class Batch:
    """Texts, one after the other in one array of token ids; `bounds` has the start and stop of each."""

    tokens: NDArray[np.int64]
    bounds: tuple[tuple[int, int], ...]

    @staticmethod
    def of(texts: Sequence[Sequence[int]]) -> Batch:
        """Put texts one after the other."""
        ends = np.cumsum([len(text) for text in texts]).tolist()
        tokens = np.array([token for text in texts for token in text], dtype=np.int64)
        return Batch(tokens, tuple(zip([0, *ends], ends, strict=False)))


def choose_texts(texts: Sequence[Sequence[int]], tokens: int) -> list[list[int]]:
    """Return texts, in their order and each cut to `TEXT_TOKENS`, until there are `tokens` tokens in all."""
    chosen: list[list[int]] = []
    for text in texts:
        room = tokens - sum(map(len, chosen))
        if room <= 0:
            break
        chosen.append(list(text[: min(TEXT_TOKENS, room)]))
    return [text for text in chosen if text]


class Decoder:
    """The decoder of a checkpoint; every part of it is read from disk when it is asked for."""

    def __init__(self, checkpoint: Path, weights: Rows, *, tied: bool | None = None, quantized: bool = False) -> None:
        """Read the configuration.

        Args:
            checkpoint: A sound checkpoint folder, for its configuration.
            weights: Its weights, or what is to stand in for them.
            tied: Whether the head is the embedding table; None for what the configuration says.
            quantized: Whether the checkpoint may be quantized; then `weights` gives what its codes stand for.
        """
        self.config: ModelConfig = load_config(checkpoint, quantized=quantized)
        self._weights = weights
        self._tied = self.config.tied_embeddings if tied is None else tied
        self._settings: Any = AutoConfig.from_pretrained(checkpoint, local_files_only=True, trust_remote_code=False)
        self._settings._attn_implementation = "sdpa"

    @property
    def head_module(self) -> str:
        """The module whose weight is the head."""
        return EMBEDDING if self._tied else HEAD

    def embed(self, tokens: NDArray[np.int64], change: Change | None = None) -> Floats:
        """Return the embeddings of token ids, float32 [n, hidden], reading the table block by block.

        `change` gets each block of rows and returns what is to stand for it.
        """
        found = np.empty((len(tokens), self.config.hidden_size), np.float32)
        for start, stop in self._blocks():
            here = np.flatnonzero((tokens >= start) & (tokens < stop))
            if len(here):
                rows = self._weights.read_rows(f"{EMBEDDING}.weight", start, stop)
                found[here] = (change(rows) if change else rows)[tokens[here] - start]
        return found

    def embedding_blocks(self) -> Iterator[Floats]:
        """Yield the whole embedding table, block by block."""
        for start, stop in self._blocks():
            yield self._weights.read_rows(f"{EMBEDDING}.weight", start, stop)

    def layer(self, index: int) -> Any:
        """Return one layer as transformers' module, its weights float32."""
        with torch.device("meta"):
            layer = Phi3DecoderLayer(self._settings, 0)
        names = [f"{part}.weight" for part in (*NORMS, *PARTS)]
        state = {name: torch.from_numpy(self._weights.read(f"model.layers.{index}.{name}")) for name in names}
        layer.load_state_dict(state, assign=True)
        layer.requires_grad_(False)
        return layer.eval()

    def attend(self, layer: Any, normed: torch.Tensor) -> torch.Tensor:
        """Return what a layer's attention gives to its output projection, [n, heads * head size], for one text."""
        with _without(layer.self_attn, "o_proj"):
            rotary = self._angles(normed)
            found: torch.Tensor = layer.self_attn(normed[None], position_embeddings=rotary, attention_mask=None)[0]
        return found[0]

    def keys_and_values(self, qkv: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return what a cache holds of one text, each [key-value heads, n, head size]: the keys rotated, the values.

        `qkv` is what a layer's projection gives for the text, [n, (heads + 2 * key-value heads) * head size].
        """
        count, size = self.config.kv_head_count, self.config.head_size
        heads = qkv.view(len(qkv), -1, size).transpose(0, 1)
        keys, values = heads[-2 * count : -count], heads[-count:]
        rotary = self._angles(qkv)
        _, rotated = apply_rotary_pos_emb(keys[None], keys[None], *rotary)
        return rotated[0], values

    def rotary_tables(self, positions: int) -> tuple[Floats, Floats]:
        """Return the cosines and sines by which a text of `positions` tokens is rotated, [positions, rotary size / 2].

        Longrope's scale of attention is in them. Its short factors are used up to the original context, and the long
        ones for all positions of a longer text.
        """
        tables = self._angles(torch.empty(positions, 0))
        cosines, sines = (table[0, :, : self.config.rotary_size // 2].numpy().copy() for table in tables)
        return cosines, sines

    def forward(self, layer: Any, hidden: torch.Tensor) -> torch.Tensor:
        """Return a layer's output for one text, [n, hidden]."""
        rotary = self._angles(hidden)
        found: torch.Tensor = layer(hidden[None], attention_mask=None, position_embeddings=rotary)
        return found[0]

    def normalize(self, hidden: torch.Tensor) -> torch.Tensor:
        """Return the final norm of hidden states."""
        found: torch.Tensor = self._norm(hidden)
        return found

    def logits(self, normed: torch.Tensor, change: Change | None = None) -> torch.Tensor:
        """Return logits, float32 [n, vocabulary], reading the head block by block; `change` as for `embed`."""
        found = torch.empty((len(normed), self.config.vocab_size))
        for start, block in self.logit_blocks(normed, change):
            found[:, start : start + block.shape[1]] = block
        return found

    def logit_blocks(self, normed: torch.Tensor, change: Change | None = None) -> Iterator[tuple[int, torch.Tensor]]:
        """Yield the logits block by block: the first token of the vocabulary, and [n, tokens]; `change` as above."""
        for start, stop in self._blocks():
            rows = self._weights.read_rows(f"{self.head_module}.weight", start, stop)
            yield start, normed @ torch.from_numpy(change(rows) if change else rows).T

    def _angles(self, rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Cosines and sines for the positions of one text's rows."""
        with one_thread():
            cosines, sines = self._rotary(rows, torch.arange(len(rows))[None])
        return cosines, sines

    def _blocks(self) -> Iterator[tuple[int, int]]:
        step = max(1, BLOCK_WEIGHTS // self.config.hidden_size)
        for start in range(0, self.config.vocab_size, step):
            yield start, min(start + step, self.config.vocab_size)

    @cached_property
    def _rotary(self) -> Any:
        return Phi3RotaryEmbedding(self._settings)

    @cached_property
    def _norm(self) -> Any:
        norm = Phi3RMSNorm(self.config.hidden_size, eps=self._settings.rms_norm_eps)
        norm.load_state_dict({"weight": torch.from_numpy(self._weights.read(f"{NORM}.weight"))}, assign=True)
        return norm.requires_grad_(False)


@contextmanager
def one_thread() -> Iterator[None]:
    """Let torch compute in one thread for a while.

    On a busy machine the cosines of a second thread were seen to be off by 1.5e-4 (torch 2.13, MKL), so rotary tables
    are computed by one.
    """
    kept = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(kept)


@contextmanager
def _without(module: Any, name: str) -> Iterator[None]:
    """Let a submodule do nothing for a while."""
    kept = getattr(module, name)
    setattr(module, name, torch.nn.Identity())
    try:
        yield
    finally:
        setattr(module, name, kept)


@contextmanager
def mapped_floats(folder: Path, rows: int, columns: int) -> Iterator[Floats]:
    """Yield a float32 array [rows, columns] in a mapped temporary file, whose pages the system may write out and drop.

    The folder must be on a disk; a file in a memory file system would count as memory.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=folder, suffix=".tmp") as file:
        yield np.memmap(file, dtype=np.float32, mode="w+", shape=(max(rows, 1), columns))
