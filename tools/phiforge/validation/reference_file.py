"""What the original said, as it travels in a package: reference.json and distributions.safetensors.

The JSON file holds all that is text or few numbers, and the tokens; the other one the likeliest tokens of each position
and their log-probabilities, float32 in nats. Neither holds code. Nothing read is trusted: every length, type and range
is checked, for a package may come from anywhere.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import safetensors.numpy
from pydantic import ValidationError
from safetensors import SafetensorError

from phiforge import errors
from phiforge.texts import Message
from phiforge.validation.drift import Reference, ReferenceText
from phiforge.validation.probes import TAIL_POSITIONS
from phiforge.validation.reference_entries import (
    ChatEntry,
    ChoiceEntry,
    ContinuedEntry,
    FileEntry,
    PromptedEntry,
    QuestionEntry,
    ReferenceEntry,
    SuiteEntry,
    SwitchEntry,
    TokenizedEntry,
)
from phiforge.validation.reference_outputs import Chat, ReferenceOutputs, Tokenized
from phiforge.validation.texts import DataFile, DataSet

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from phiforge.variant import CheckpointFacts

    Arrays = Mapping[str, NDArray[np.generic]]

REFERENCE_FILE = "reference.json"
DISTRIBUTIONS_FILE = "distributions.safetensors"
# No file of this sort is a tenth as large; what is larger is not read.
MOST_BYTES = 64_000_000
# Probabilities are sums of float32 in nats.
ROUNDING = 1e-3


def write_reference(outputs: ReferenceOutputs, checkpoint: CheckpointFacts) -> dict[str, bytes]:
    """Return the files that hold a part of what the original said, by name.

    Args:
        outputs: What it said; see `subset.packaged_part`.
        checkpoint: The original.
    """
    around = outputs.around_switch.texts if outputs.around_switch else ()
    columns = {text.top_ids.shape[1] for text in (*outputs.texts.texts, *around)}
    entry = ReferenceEntry(
        schema_version="1.0",
        checkpoint=checkpoint,
        split="held-out",
        vocab_size=outputs.vocab_size,
        top_k=max(columns, default=1),
        stop_ids=list(outputs.stop_ids),
        original_max_positions=outputs.switch,
        text_files=_files(outputs.text_set),
        task_files=_files(outputs.task_set),
        prompt_files=_files(outputs.prompt_set),
        tokenized=[TokenizedEntry(text=item.text, ids=item.ids) for item in outputs.tokenized],
        chats=[
            ChatEntry(messages=[Message(**message) for message in chat.messages], text=chat.text, ids=chat.ids)
            for chat in outputs.chats
        ],
        texts=[text.tokens.tolist() for text in outputs.texts.texts],
        around_switch=_switch(around) if around else None,
        suites=[SuiteEntry.of(item) for item in outputs.suites],
        questions=[QuestionEntry.of(item) for item in outputs.questions],
        choices=[ChoiceEntry.of(item) for item in outputs.choices],
        continued=[ContinuedEntry.of(item) for item in outputs.continued],
        prompted=[PromptedEntry.of(item) for item in outputs.prompted],
        notes=list(outputs.notes),
    )
    arrays = {**_arrays("texts", outputs.texts.texts), **(_arrays("switch", around) if around else {})}
    return {
        REFERENCE_FILE: (entry.model_dump_json() + "\n").encode("utf-8"),
        DISTRIBUTIONS_FILE: safetensors.numpy.save(arrays),
    }


def read_reference(folder: Path) -> ReferenceOutputs:
    """Return what the original said, from the reference folder of a package.

    Raises:
        PackageInvalidError: There is no reference, or it is damaged, contradicts itself, or is of a newer phiforge.
    """
    entry = _read_entry(folder)
    arrays = _read_arrays(folder)
    _check_ids(folder, entry)
    parts = {"texts": [len(ids) for ids in entry.texts]}
    if entry.around_switch:
        parts["switch"] = [min(length, TAIL_POSITIONS) for length in entry.around_switch.lengths]
    _check_arrays(folder, entry, arrays, {name: sum(lengths) for name, lengths in parts.items()})
    cut = {name: _cut(arrays, name, lengths) for name, lengths in parts.items()}
    texts = [_text(ids, rows) for ids, rows in zip(entry.texts, cut["texts"], strict=True)]
    around = entry.around_switch
    prompts = [around.ids[:length] for length in around.lengths] if around else []
    switch = [_text(ids, rows) for ids, rows in zip(prompts, cut.get("switch", []), strict=True)]
    return ReferenceOutputs(
        fingerprint=entry.checkpoint.fingerprint,
        vocab_size=entry.vocab_size,
        stop_ids=tuple(entry.stop_ids),
        switch=entry.original_max_positions,
        text_set=_data_set(entry.text_files),
        task_set=_data_set(entry.task_files),
        prompt_set=_data_set(entry.prompt_files),
        tokenized=tuple(Tokenized(item.text, item.ids) for item in entry.tokenized),
        chats=tuple(_chat(item) for item in entry.chats),
        texts=Reference(entry.top_k, tuple(texts)),
        around_switch=Reference(entry.top_k, tuple(switch)) if switch else None,
        suites=tuple(item.facts() for item in entry.suites),
        questions=tuple(item.facts() for item in entry.questions),
        choices=tuple(item.facts() for item in entry.choices),
        continued=tuple(item.facts() for item in entry.continued),
        prompted=tuple(item.facts() for item in entry.prompted),
        notes=tuple(entry.notes),
    )


def _files(data: DataSet) -> list[FileEntry]:
    return [FileEntry(name=file.name, sha256=file.sha256) for file in data.files]


def _data_set(files: Sequence[FileEntry]) -> DataSet:
    return DataSet(tuple(DataFile(file.name, file.sha256) for file in files))


def _switch(texts: Sequence[ReferenceText]) -> SwitchEntry:
    longest = max((text.tokens.tolist() for text in texts), key=len)
    return SwitchEntry(ids=longest, lengths=[len(text.tokens) for text in texts])


def _chat(entry: ChatEntry) -> Chat:
    return Chat([message.model_dump() for message in entry.messages], entry.text, entry.ids)


def _arrays(name: str, texts: Sequence[ReferenceText]) -> dict[str, NDArray[np.generic]]:
    """The rows of all texts, one after the other; `true` has a zero where nothing follows."""
    if not texts:
        return {}
    return {
        f"{name}.top_ids": np.concatenate([text.top_ids for text in texts]).astype(np.int32),
        f"{name}.top": np.concatenate([text.top_log_probabilities for text in texts]).astype(np.float32),
        f"{name}.tail": np.concatenate([text.tail_log_mass for text in texts]).astype(np.float32),
        f"{name}.true": np.concatenate([np.append(text.true_log_probability, 0) for text in texts]).astype(np.float32),
    }


def _cut(arrays: Arrays, name: str, lengths: Sequence[int]) -> list[dict[str, NDArray[np.generic]]]:
    if not lengths:
        return []
    places = np.cumsum(lengths)[:-1]
    split = {key: np.split(arrays[f"{name}.{key}"], places) for key in ("top_ids", "top", "tail", "true")}
    return [{key: rows[index] for key, rows in split.items()} for index in range(len(lengths))]


def _text(ids: Sequence[int], rows: Mapping[str, NDArray[np.generic]]) -> ReferenceText:
    return ReferenceText(
        tokens=np.array(ids, dtype=np.int32),
        top_ids=rows["top_ids"].astype(np.int32),
        top_log_probabilities=rows["top"].astype(np.float32),
        tail_log_mass=rows["tail"].astype(np.float32),
        true_log_probability=rows["true"].astype(np.float32)[:-1],
    )


def _read_entry(folder: Path) -> ReferenceEntry:
    try:
        return ReferenceEntry.model_validate_json(_read(folder, REFERENCE_FILE))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        if where == "schema_version":
            raise _invalid(
                folder, f"{REFERENCE_FILE} has another schema version than 1.0: a newer phiforge made it"
            ) from error
        raise _invalid(folder, f"{REFERENCE_FILE}: {where or 'the file'}: {first['msg']}") from error


def _read_arrays(folder: Path) -> Arrays:
    try:
        arrays: Arrays = safetensors.numpy.load(_read(folder, DISTRIBUTIONS_FILE))
    except (SafetensorError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise _invalid(folder, f"{DISTRIBUTIONS_FILE} is damaged: {error}") from error
    return arrays


def _read(folder: Path, name: str) -> bytes:
    path = folder / name
    if not folder.is_dir():
        raise errors.PackageInvalidError(
            f"The package {folder.parent} carries no reference.",
            why="An older phiforge made it, or it was put together by `phiforge package` without one.",
            fix="Build it again with this version, or give the checkpoint it was built from with --checkpoint.",
        )
    try:
        size = path.stat().st_size
        if size > MOST_BYTES:
            raise _invalid(folder, f"{name} has {size:,} bytes, far more than it can need")
        return path.read_bytes()
    except OSError as error:
        raise _invalid(folder, f"{name} cannot be read: {error.strerror}") from error


def _check_ids(folder: Path, entry: ReferenceEntry) -> None:
    """Check that every id is in the vocabulary, and that the prompts around the switch are there."""
    around = entry.around_switch
    highest = max((token for ids in entry.token_lists() for token in ids), default=0)
    if highest >= entry.vocab_size:
        raise _invalid(folder, f"The token {highest} is in no vocabulary of {entry.vocab_size:,}")
    if around is None:
        return
    if entry.original_max_positions is None:
        raise _invalid(folder, "There are prompts around a longrope switch, but no switch")
    if max(around.lengths) != len(around.ids):
        raise _invalid(folder, "The prompts around the longrope switch do not have the lengths told")
    if len(around.ids) < entry.original_max_positions:
        raise _invalid(folder, "The prompts around the longrope switch end before it")


def _check_arrays(folder: Path, entry: ReferenceEntry, arrays: Arrays, rows: Mapping[str, int]) -> None:
    expected: dict[str, tuple[tuple[int, ...], str]] = {}
    for name, count in rows.items():
        if count:
            expected[f"{name}.top_ids"] = ((count, entry.top_k), "int32")
            expected[f"{name}.top"] = ((count, entry.top_k), "float32")
            expected[f"{name}.tail"] = expected[f"{name}.true"] = ((count,), "float32")
    if set(arrays) != set(expected):
        raise _invalid(folder, f"{DISTRIBUTIONS_FILE} holds {sorted(arrays)} instead of {sorted(expected)}")
    for name, (shape, dtype) in expected.items():
        found = arrays[name]
        if found.shape != shape or found.dtype != dtype:
            told = f"{found.dtype} {list(found.shape)} instead of {dtype} {list(shape)}"
            raise _invalid(folder, f"{name} in {DISTRIBUTIONS_FILE} is {told}")
    for name in rows:
        if f"{name}.top" in arrays:
            _check_rows(folder, entry.vocab_size, arrays, name)


def _check_rows(folder: Path, vocab_size: int, arrays: Arrays, name: str) -> None:
    """Check that rows hold different tokens of the vocabulary, and probabilities that add up to one."""
    ids = np.sort(arrays[f"{name}.top_ids"].astype(np.int64), axis=1)
    top, tail, true = (arrays[f"{name}.{key}"].astype(np.float64) for key in ("top", "tail", "true"))
    if ids[:, 0].min() < 0 or ids[:, -1].max() >= vocab_size or not (np.diff(ids, axis=1) > 0).all():
        raise _invalid(folder, f"{name}.top_ids holds a token twice, or one that is in no vocabulary")
    if not (np.isfinite(top).all() and np.isfinite(true).all()) or np.isnan(tail).any():
        raise _invalid(folder, f"{name} holds log-probabilities that are no finite numbers")
    if max(top.max(), tail.max(), true.max()) > ROUNDING or (np.diff(top, axis=1) > 0).any():
        raise _invalid(folder, f"{name} holds log-probabilities above 0, or not in falling order")
    if np.abs(np.exp(top).sum(axis=1) + np.exp(tail) - 1).max() > ROUNDING:
        raise _invalid(folder, f"The probabilities of {name} do not add up to 1")


def _invalid(folder: Path, why: str) -> errors.PackageInvalidError:
    return errors.PackageInvalidError(
        f"The reference in {folder} cannot be used.",
        why=f"{why}.",
        fix="Get the package again from where it was published; or give its checkpoint with --checkpoint.",
    )
