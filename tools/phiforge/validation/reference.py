"""What the original checkpoint says, computed once for each checkpoint and data set and kept in a cache folder.

A cache file is never trusted: its key is inside it, its arrays are checked, and one that does not fit or cannot be read
is computed again. Nothing in it is pickled.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
import zipfile
import zlib
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from phiforge import errors
from phiforge.validation.drift import Reference, ReferenceText

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from phiforge.validation.original import Original

FORMAT = "phiforge-reference-1"
TOP_K = 256
# Prompts decoded together in torch, where a step costs nearly the same for one and for many.
BATCH = 64

Conversation = list[dict[str, str]]
Arrays = dict[str, "NDArray[np.generic]"]


@dataclass(frozen=True)
class Source:
    """Where the reference comes from: the checkpoint, its fingerprint, and the cache folder.

    `original` loads torch and the checkpoint when first used; with a full cache it never is.
    """

    checkpoint: Path
    fingerprint: str
    cache: Path
    threads: int

    @cached_property
    def original(self) -> Original:
        """The checkpoint, opened.

        Raises:
            DependencyMissingError: torch or transformers is not installed.
        """
        try:
            from phiforge.validation.original import Original
        except ImportError as error:
            raise errors.DependencyMissingError(
                "The original cannot be asked here.",
                why=f"It runs by torch and transformers, and {error.name or error} is not installed.",
                fix='Leave --checkpoint out for a package, or: pip install -c constraints.txt "phiforge[build,cpu]"',
            ) from error

        return Original(self.checkpoint, threads=self.threads)

    def close(self) -> None:
        """Let go of the checkpoint, so that its memory is free; it is opened again when needed."""
        self.__dict__.pop("original", None)

    def key(self, what: str, *parts: object) -> str:
        """SHA-256 over everything a result depends on."""
        content = json.dumps([FORMAT, what, self.fingerprint, *parts], sort_keys=True)
        return hashlib.sha256(content.encode("utf-8")).hexdigest()


@dataclass(frozen=True)
class Tokenization:
    """Texts and conversations by the original tokenizer."""

    texts: tuple[list[int], ...]
    chat_texts: tuple[str, ...]
    chat_ids: tuple[list[int], ...]


@dataclass(frozen=True)
class Answer:
    """A greedy continuation: its tokens without the stop id, whether one ended it, and its text."""

    tokens: tuple[int, ...]
    stopped: bool
    text: str


def tokenize(source: Source, texts: Sequence[str], conversations: Sequence[Conversation]) -> Tokenization:
    """Return the original tokenizer's ids of texts, and the prompts of conversations as text and ids.

    Raises:
        TokenizerMismatchError: The tokenizer does not load.
    """
    key = source.key("tokens", list(texts), list(conversations))
    file = source.cache / f"tokens-{key[:32]}.json"
    stored = _read_json(file, key, ("texts", "chat_texts", "chat_ids"))
    if stored is not None:
        return Tokenization(*(tuple(part) for part in stored))
    original = source.original
    found = Tokenization(
        texts=tuple(original.encode(text) for text in texts),
        chat_texts=tuple(original.chat_text(messages) for messages in conversations),
        chat_ids=tuple(original.chat_ids(messages) for messages in conversations),
    )
    _write_json(file, key, {"texts": found.texts, "chat_texts": found.chat_texts, "chat_ids": found.chat_ids})
    return found


def compute_reference(
    source: Source,
    token_ids: Sequence[Sequence[int]],
    *,
    top_k: int = TOP_K,
    on_layer: Callable[[int, int], None] = lambda done, total: None,
) -> Reference:
    """Return the original's distributions over texts, each computed in one prefill.

    Args:
        source: The checkpoint and the cache.
        token_ids: Tokens of each text.
        top_k: Likeliest tokens kept for each position; the rest is one bucket.
        on_layer: Told (layers done, layers in all), when they are computed.
    """
    key = source.key("distributions", [list(map(int, ids)) for ids in token_ids], top_k)
    file = source.cache / f"distributions-{key[:32]}.npz"
    stored = _load(file, key, _DISTRIBUTIONS)
    if stored is not None and _fits(stored, token_ids):
        return Reference(top_k=top_k, texts=_texts(stored))
    texts = source.original.distributions(token_ids, top_k, scratch=source.cache, on_layer=on_layer)
    _store(file, key, _arrays(texts))
    return Reference(top_k=top_k, texts=tuple(texts))


def compute_answers(
    source: Source,
    prompts: Sequence[Sequence[int]],
    limits: Sequence[int],
    stop_ids: Sequence[int],
    *,
    switch: int | None = None,
    on_answer: Callable[[int], None] | None = None,
) -> list[Answer]:
    """Return the original's greedy continuation of each prompt.

    Prompts of equal limit are decoded together, the shorter ones padded, but for those beyond the longrope switch; see
    `Original.generate`.

    Args:
        source: The checkpoint and the cache.
        prompts: Token ids.
        limits: The most new tokens of each.
        stop_ids: Token ids that end an answer.
        switch: The original context of longrope; prompt and limit together may exceed it only if the prompt does.
        on_answer: Told how many answers are done, when they are computed.
    """
    key = source.key("answers", [list(map(int, ids)) for ids in prompts], list(limits), list(stop_ids))
    file = source.cache / f"answers-{key[:32]}.json"
    stored = _read_json(file, key, ("tokens", "stopped", "texts"))
    if stored is not None:
        return [Answer(tuple(ids), bool(stopped), str(text)) for ids, stopped, text in zip(*stored, strict=True)]
    answers: dict[int, Answer] = {}
    for limit, part in _batches(prompts, limits, switch):
        rows = source.original.generate([prompts[i] for i in part], max_new_tokens=limit, stop_ids=stop_ids)
        for index, row in zip(part, rows, strict=True):
            tokens = before_stop(row, stop_ids)
            answers[index] = Answer(tuple(tokens), len(tokens) < len(row), source.original.decode(tokens))
        if on_answer:
            on_answer(len(answers))
    found = [answers[index] for index in range(len(prompts))]
    content = {
        "tokens": [answer.tokens for answer in found],
        "stopped": [answer.stopped for answer in found],
        "texts": [answer.text for answer in found],
    }
    _write_json(file, key, content)
    return found


def compute_log_likelihoods(
    source: Source,
    prompts: Sequence[Sequence[int]],
    continuations: Sequence[Sequence[Sequence[int]]],
    *,
    on_layer: Callable[[int, int], None] = lambda done, total: None,
) -> list[list[float]]:
    """Return the log-likelihood in nats that the original gives each continuation of each prompt.

    Args:
        source: The checkpoint and the cache.
        prompts: Token ids.
        continuations: For each prompt the token ids of its continuations.
        on_layer: Told (layers done, layers in all), when they are computed.
    """
    key = source.key("log-likelihoods", [list(map(int, ids)) for ids in prompts], list(continuations))
    file = source.cache / f"log-likelihoods-{key[:32]}.json"
    stored = _read_json(file, key, ("values",))
    if stored is not None:
        return [list(map(float, row)) for row in stored[0]]
    found = source.original.log_likelihoods(prompts, continuations, scratch=source.cache, on_layer=on_layer)
    _write_json(file, key, {"values": found})
    return found


def _batches(
    prompts: Sequence[Sequence[int]], limits: Sequence[int], switch: int | None
) -> Iterator[tuple[int, list[int]]]:
    """Yield a limit and the prompts to decode together, the shorter first."""
    groups: dict[tuple[int, int], list[int]] = {}
    for index in sorted(range(len(prompts)), key=lambda index: len(prompts[index])):
        beyond = switch is not None and len(prompts[index]) > switch
        groups.setdefault((limits[index], len(prompts[index]) if beyond else 0), []).append(index)
    for (limit, _), indices in groups.items():
        for start in range(0, len(indices), BATCH):
            yield limit, indices[start : start + BATCH]


def before_stop(tokens: Sequence[int], stop_ids: Sequence[int]) -> list[int]:
    """Return the tokens before the first stop id."""
    ends = [index for index, token in enumerate(tokens) if token in stop_ids]
    return list(tokens[: ends[0]] if ends else tokens)


# The arrays of a distributions file and their dimensions.
_DISTRIBUTIONS = {"tokens": 1, "lengths": 1, "top_ids": 2, "top": 2, "tail": 1, "true": 1}


def _arrays(texts: Sequence[ReferenceText]) -> Arrays:
    return {
        "tokens": np.concatenate([text.tokens for text in texts]),
        "lengths": np.array([len(text.tokens) for text in texts], dtype=np.int64),
        "top_ids": np.concatenate([text.top_ids for text in texts]),
        "top": np.concatenate([text.top_log_probabilities for text in texts]),
        "tail": np.concatenate([text.tail_log_mass for text in texts]),
        # One value more for each text, so that all arrays are cut at the same places.
        "true": np.concatenate([np.append(text.true_log_probability, np.float32(0)) for text in texts]),
    }


def _texts(stored: Arrays) -> tuple[ReferenceText, ...]:
    names = ("tokens", "top_ids", "top", "tail", "true")
    cut = {name: _split(stored[name], stored["lengths"]) for name in names}
    return tuple(
        ReferenceText(
            tokens=tokens.astype(np.int32),
            top_ids=top_ids.astype(np.int32),
            top_log_probabilities=top.astype(np.float32),
            tail_log_mass=tail.astype(np.float32),
            true_log_probability=true.astype(np.float32)[:-1],
        )
        for tokens, top_ids, top, tail, true in zip(*(cut[name] for name in names), strict=True)
    )


def _fits(stored: Arrays, token_ids: Sequence[Sequence[int]]) -> bool:
    """Whether stored arrays are of these tokens and of one length."""
    rows = sum(map(len, token_ids))
    sizes = {len(stored[name]) for name in _DISTRIBUTIONS if name != "lengths"}
    return sizes == {rows} and np.array_equal(stored["tokens"], _flat(token_ids))


def _flat(rows: Sequence[Sequence[int]]) -> NDArray[np.int32]:
    return np.array([token for row in rows for token in row], dtype=np.int32)


def _split(values: NDArray[np.generic], lengths: NDArray[np.generic]) -> list[NDArray[np.generic]]:
    return np.split(values, np.cumsum(lengths.astype(np.int64))[:-1])


def _load(file: Path, key: str, dimensions: Mapping[str, int]) -> Arrays | None:
    """Return the arrays of a cache file, None if it is absent, damaged or another's."""
    try:
        with np.load(file, allow_pickle=False) as stored:
            arrays: Arrays = {name: stored[name] for name in dimensions}
            own = str(stored["key"]) == key
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error):
        return None
    fitting = all(array.ndim == dimensions[name] for name, array in arrays.items())
    return arrays if own and fitting else None


def _store(file: Path, key: str, arrays: Arrays) -> None:
    with _temporary(file) as target:
        np.savez(target, key=np.array(key), **arrays)  # type: ignore[arg-type]


def _read_json(file: Path, key: str, names: Sequence[str]) -> list[list[Any]] | None:
    """Return the equally named lists of a cache file, None if it is absent, damaged or another's."""
    try:
        stored = json.loads(file.read_text(encoding="utf-8"))
        return [list(stored[name]) for name in names] if stored["key"] == key else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _write_json(file: Path, key: str, content: Mapping[str, object]) -> None:
    with _temporary(file) as target:
        target.write(json.dumps({"key": key, **content}).encode("utf-8"))


@contextmanager
def _temporary(file: Path) -> Iterator[IO[bytes]]:
    """Open a file beside `file` that takes its place when it is written to the end."""
    file.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=file.parent, suffix=".tmp")
    try:
        with os.fdopen(handle, "wb") as target:
            yield target
        Path(name).replace(file)
    finally:
        Path(name).unlink(missing_ok=True)
