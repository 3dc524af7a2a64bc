"""The original checkpoint in torch: distributions, greedy answers, its own tokenizer and chat template.

The weights are taken as stored (bfloat16) and computed with in float32: arithmetic in bfloat16 would add noise of its
own to the reference. Distributions are computed layer by layer from disk. Answers need the whole model at every token;
where its float32 weights do not fit into memory, they are kept as stored and widened layer by layer as each is used,
which gives the same numbers, slower.
"""

from __future__ import annotations

from contextlib import contextmanager
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import psutil
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging as transformers_logging

from phiforge import errors
from phiforge.checkpoint.weights import open_weights
from phiforge.decoder.decoder import HEAD_ROWS, Batch, Decoder, mapped_floats
from phiforge.validation.choices import contexts, log_likelihoods
from phiforge.validation.drift import ReferenceText

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from phiforge.validation.choices import Context

# Rows of logits widened at once: 64 rows of float64 at a vocabulary of 200,064 are 102 MB.
CHUNK_ROWS = 64
# The share of the free memory that float32 weights may take; the rest is for logits and the KV cache.
MEMORY_SHARE = 0.6
# Below this the operators are so short that threads mostly wait for each other: phi-4-nano (10 MB) decodes 64 rows in
# 26 ms a step with one thread, and in 440 ms with two on two busy cores.
SMALL_BYTES = 200_000_000
# Tokens of prompts with continuations whose hidden states are on the disk at once: 800 MB for Phi-4-mini.
PIECE_TOKENS = 65_536

_Item = TypeVar("_Item")


class Original:
    """A checkpoint opened for reference; the model itself is loaded when first needed."""

    def __init__(self, checkpoint: Path, *, threads: int, stream: bool | None = None) -> None:
        """Open the tokenizer.

        Args:
            checkpoint: A Hugging Face folder; nothing is fetched and no code of it is run.
            threads: Threads of torch; a small model takes one.
            stream: Whether to widen layer by layer; None to decide by the free memory.

        Raises:
            TokenizerMismatchError: The tokenizer does not load.
        """
        torch.set_num_threads(1 if _stored_bytes(checkpoint) < SMALL_BYTES else threads)
        transformers_logging.set_verbosity_error()
        transformers_logging.disable_progress_bar()
        self._checkpoint = checkpoint
        self._stream = stream
        self._tokenizer: Any
        try:
            self._tokenizer = AutoTokenizer.from_pretrained(
                checkpoint, use_fast=True, local_files_only=True, trust_remote_code=False
            )
        except (OSError, ValueError) as error:
            raise errors.TokenizerMismatchError(
                f"The tokenizer of {checkpoint} does not load.",
                why=str(error),
                fix="Restore the tokenizer files from the model's publisher.",
            ) from error

    def encode(self, text: str) -> list[int]:
        """Return the token ids of a text."""
        ids: list[int] = self._tokenizer(text)["input_ids"]
        return ids

    def decode(self, token_ids: Sequence[int]) -> str:
        """Return the text of token ids, special tokens included."""
        text: str = self._tokenizer.decode(list(token_ids), skip_special_tokens=False)
        return text

    def chat_text(self, messages: Sequence[Mapping[str, str]], *, add_generation_prompt: bool = True) -> str:
        """Return the prompt text of a conversation, ready for the assistant's turn unless told otherwise."""
        text: str = self._tokenizer.apply_chat_template(
            list(messages), tokenize=False, add_generation_prompt=add_generation_prompt
        )
        return text

    def logits(self, token_ids: Sequence[int]) -> NDArray[np.float32]:
        """Return the logits of a text by the whole model: float32 [n, vocab]; row i predicts token i + 1."""
        with torch.inference_mode():
            found: NDArray[np.float32] = self._model(torch.tensor([list(token_ids)])).logits[0].float().numpy()
        return found

    def chat_ids(self, messages: Sequence[Mapping[str, str]]) -> list[int]:
        """Return the prompt's token ids of a conversation, ready for the assistant's turn."""
        ids = self._tokenizer.apply_chat_template(
            list(messages), tokenize=True, add_generation_prompt=True, return_dict=False
        )
        return [int(token) for token in ids]

    def distributions(
        self, texts: Sequence[Sequence[int]], top_k: int, *, scratch: Path, on_layer: Callable[[int, int], None]
    ) -> list[ReferenceText]:
        """Return the distributions over texts, each computed in one prefill; one layer is in memory at a time.

        Transformers uses the long rotary factors for the whole of a text longer than the original context, and
        onnxruntime-genai's graphs do the same for one prefill.

        Args:
            texts: Token ids of each text.
            top_k: Likeliest tokens kept for each position.
            scratch: Folder for the mapped file of hidden states, 4 * tokens * hidden size bytes, removed afterwards.
            on_layer: Told (layers done, layers in all); the head counts as one.
        """
        with self._hidden(texts, scratch, on_layer) as (decoder, batch, hidden):
            return _heads(decoder, batch, hidden, top_k)

    def log_likelihoods(
        self,
        prompts: Sequence[Sequence[int]],
        continuations: Sequence[Sequence[Sequence[int]]],
        *,
        scratch: Path,
        on_layer: Callable[[int, int], None],
    ) -> list[list[float]]:
        """Return the log-likelihood in nats of each continuation of each prompt, computed as `distributions` are.

        Args:
            prompts: Token ids.
            continuations: For each prompt the token ids of its continuations.
            scratch: As for `distributions`; the texts are taken `PIECE_TOKENS` at a time.
            on_layer: As for `distributions`, told anew for each such part.
        """
        found = [[0.0] * len(items) for items in continuations]
        asked = [
            (index, context)
            for index, (prompt, items) in enumerate(zip(prompts, continuations, strict=True))
            for context in contexts(prompt, items)
        ]
        for piece in _pieces(asked, [len(context.tokens) for _, context in asked], PIECE_TOKENS):
            with self._hidden([context.tokens for _, context in piece], scratch, on_layer) as (decoder, batch, hidden):
                for (index, context), logits in zip(piece, _rows(decoder, batch, hidden, piece), strict=True):
                    for member, value in log_likelihoods(context, continuations[index], logits).items():
                        found[index][member] = value
        return found

    @contextmanager
    def _hidden(
        self, texts: Sequence[Sequence[int]], scratch: Path, on_layer: Callable[[int, int], None]
    ) -> Iterator[tuple[Decoder, Batch, NDArray[np.float32]]]:
        """Yield the last hidden states of texts, with the decoder that made them; the head counts as a layer."""
        decoder = Decoder(self._checkpoint, open_weights(self._checkpoint))
        batch = Batch.of(texts)
        layers = decoder.config.layer_count
        with torch.inference_mode(), mapped_floats(scratch, len(batch.tokens), decoder.config.hidden_size) as hidden:
            hidden[:] = decoder.embed(batch.tokens)
            for index in range(layers):
                on_layer(index, layers + 1)
                layer = decoder.layer(index)
                for start, stop in batch.bounds:
                    hidden[start:stop] = decoder.forward(layer, torch.from_numpy(hidden[start:stop])).numpy()
            on_layer(layers, layers + 1)
            yield decoder, batch, hidden
        on_layer(layers + 1, layers + 1)

    def generate(
        self, prompts: Sequence[Sequence[int]], *, max_new_tokens: int, stop_ids: Sequence[int]
    ) -> list[list[int]]:
        """Continue prompts greedily; each row has the new tokens, with the stop id where one ended it.

        Shorter prompts are padded on the left and the padding is masked; their positions count from their own first
        token. No sequence may cross the longrope switch: the rotary factors are chosen for the whole batch, and the
        keys in the cache have those of their time. Once half of the rows have ended they are dropped, since with most
        models a few answers are much longer than the rest.
        """
        longest = max(map(len, prompts))
        pads = [longest - len(prompt) for prompt in prompts]
        tokens = torch.tensor([[stop_ids[0]] * pad + list(prompt) for pad, prompt in zip(pads, prompts, strict=True)])
        mask = torch.tensor([[0] * pad + [1] * (longest - pad) for pad in pads])
        with torch.inference_mode():
            return self._decode(tokens, mask, max_new_tokens, set(stop_ids))

    def _decode(
        self, tokens: torch.Tensor, mask: torch.Tensor, max_new_tokens: int, stop_ids: set[int]
    ) -> list[list[int]]:
        """Decode a padded batch; `tokens` and `mask` are [rows, longest prompt]."""
        rows: list[list[int]] = [[] for _ in tokens]
        live = list(range(len(rows)))
        positions = (mask.cumsum(dim=1) - 1).clamp(min=0)
        cache = None
        for _ in range(max_new_tokens):
            output = self._model(
                input_ids=tokens,
                attention_mask=mask,
                position_ids=positions,
                past_key_values=cache,
                use_cache=True,
                logits_to_keep=1,
            )
            chosen, cache = output.logits[:, -1].argmax(dim=-1), output.past_key_values
            for index, token in zip(live, chosen.tolist(), strict=True):
                if not stop_ids.intersection(rows[index][-1:]):
                    rows[index].append(token)
            going = [place for place, index in enumerate(live) if rows[index][-1] not in stop_ids]
            if not going:
                break
            tokens, positions = chosen[:, None], positions[:, -1:] + 1
            if len(going) <= len(live) // 2:
                kept = torch.tensor(going)
                cache.batch_select_indices(kept)
                tokens, positions, mask = tokens[kept], positions[kept], mask[kept]
                live = [live[place] for place in going]
            mask = torch.cat([mask, torch.ones_like(mask[:, :1])], dim=1)
        return rows

    @cached_property
    def _model(self) -> Any:
        stream = self._must_stream() if self._stream is None else self._stream
        try:
            model: Any = AutoModelForCausalLM.from_pretrained(
                self._checkpoint,
                dtype="auto" if stream else torch.float32,
                attn_implementation="sdpa",
                local_files_only=True,
                trust_remote_code=False,
                use_safetensors=True,
            )
        except (OSError, ValueError) as error:
            raise errors.ConfigInvalidError(
                f"The checkpoint {self._checkpoint} does not load as a reference.",
                why=str(error),
                fix="Check it with `phiforge inspect`.",
            ) from error
        model.requires_grad_(False)
        model.train(False)
        if stream:
            _widen_when_used(model)
        return model

    def _must_stream(self) -> bool:
        """Whether twice the stored bytes, which are float32 for bfloat16 weights, are too much for the free memory."""
        stored = _stored_bytes(self._checkpoint)
        free: int = psutil.virtual_memory().available
        return 2 * stored > MEMORY_SHARE * free


def _rows(
    decoder: Decoder, batch: Batch, hidden: NDArray[np.float32], asked: Sequence[tuple[int, Context]]
) -> Iterator[NDArray[np.float32]]:
    """Yield the logits of the rows of each context, in order; the head is read once for many of them."""
    spans = [(start + context.first_row, stop) for (start, stop), (_, context) in zip(batch.bounds, asked, strict=True)]
    for part in _pieces(spans, [stop - first for first, stop in spans], HEAD_ROWS):
        rows = np.concatenate([hidden[first:stop] for first, stop in part])
        logits = decoder.logits(decoder.normalize(torch.from_numpy(rows))).numpy()
        yield from np.split(logits, np.cumsum([stop - first for first, stop in part])[:-1])


def _pieces(items: Sequence[_Item], sizes: Sequence[int], most: int) -> Iterator[Sequence[_Item]]:
    """Yield runs of items whose sizes add up to at most `most`, or of one item alone."""
    start = total = 0
    for index, size in enumerate(sizes):
        if index > start and total + size > most:
            yield items[start:index]
            start, total = index, 0
        total += size
    if start < len(items):
        yield items[start:]


def _stored_bytes(checkpoint: Path) -> int:
    return sum(file.stat().st_size for file in checkpoint.glob("*.safetensors"))


def _heads(decoder: Decoder, batch: Batch, hidden: NDArray[np.float32], top_k: int) -> list[ReferenceText]:
    """Return what the head makes of the last hidden states, `HEAD_ROWS` at a time."""
    # The last token of each text predicts nothing that is known; its entry is cut off below.
    following = torch.from_numpy(np.append(batch.tokens[1:], 0))
    parts = []
    for first in range(0, len(batch.tokens), HEAD_ROWS):
        normed = decoder.normalize(torch.from_numpy(hidden[first : first + HEAD_ROWS]))
        logits = decoder.logits(normed)
        for start in range(0, len(logits), CHUNK_ROWS):
            rows = slice(start, start + CHUNK_ROWS)
            next_tokens = following[first + start : first + start + len(logits[rows])]
            parts.append(_top(logits[rows].double(), next_tokens, top_k))
    ids, top, tail, true = (torch.cat(list(part)).numpy() for part in zip(*parts, strict=True))
    return [
        ReferenceText(
            tokens=batch.tokens[text].astype(np.int32),
            top_ids=ids[text].astype(np.int32),
            top_log_probabilities=top[text].astype(np.float32),
            tail_log_mass=tail[text].astype(np.float32),
            true_log_probability=true[text].astype(np.float32)[:-1],
        )
        for text in (slice(*bounds) for bounds in batch.bounds)
    ]


def _top(
    logits: torch.Tensor, following: torch.Tensor, top_k: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Top-k ids, their log-probabilities, the log mass of the rest and the log-probability of the next token."""
    logs = torch.log_softmax(logits, dim=-1)
    top, ids = logs.topk(min(top_k, logs.shape[-1]), dim=-1)
    true = logs.gather(1, following[:, None])[:, 0]
    tail = logs.scatter_(1, ids, -torch.inf).logsumexp(dim=-1)
    return ids, top, tail, true


def _widen_when_used(model: Any) -> None:
    """Make every layer float32 while it computes, and what it was stored as again afterwards, which is exact."""
    stored = model.dtype

    def widen(module: torch.nn.Module, _inputs: object) -> None:
        module.float()

    def narrow(module: torch.nn.Module, _inputs: object, _output: object) -> None:
        module.to(stored)

    def widen_output(_module: torch.nn.Module, _inputs: object, output: torch.Tensor) -> torch.Tensor:
        return output.float()

    for part in (*model.model.layers, model.model.norm, model.lm_head):
        part.register_forward_pre_hook(widen)
        part.register_forward_hook(narrow)
    model.model.embed_tokens.register_forward_hook(widen_output)
