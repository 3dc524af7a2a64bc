"""Which tensors a configuration calls for, and whether the weights are exactly those, with finite values."""

from __future__ import annotations

import re
from collections.abc import Iterable

import numpy as np

from phiforge.checkpoint.config import ModelConfig
from phiforge.checkpoint.disagreements import EMBEDDING, HEAD, Faults, find_faults, grouped, sizes_of
from phiforge.checkpoint.weights import FLOAT_DTYPES, Weights
from phiforge.errors import (
    ConfigMismatchError,
    PhiforgeError,
    TensorMissingError,
    TensorShapeError,
    WeightsNotFiniteError,
)

SCAN_BYTES = 32 << 20

_ROTARY_BUFFER = re.compile(r"(.*\.)?rotary_emb\.(long_|short_|original_)?inv_freq")
# Rows of a stored head that are held against the embedding it is said to be tied to. A head trained apart differs in
# every row; to read all of them would double the reading of a large vocabulary.
_TIE_ROWS = 64


def expected_tensors(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Gives name and shape of every tensor, as transformers' Phi3ForCausalLM stores them.

    Query, key and value are one projection, and so are gate and up. The head is there only when it is not tied.
    """
    return sizes_of(config).shapes()


def check_tensors(config: ModelConfig, weights: Weights) -> tuple[str, ...]:
    """Checks that the weights are the tensors the configuration calls for, and no others.

    Two kinds of further tensors are allowed, because transformers ignores them too: a copy of the embedding as the head
    of a model whose embeddings are tied, and buffers of the rotary embedding. Everything wrong is named in one error.

    Returns:
        The names of these ignored tensors, sorted.

    Raises:
        ConfigMismatchError: The tensors are those of another configuration.
        TensorMissingError: A tensor is in no file.
        TensorShapeError: A tensor has another shape, is no floating-point tensor, or was not called for.
    """
    buffers = [name for name in weights.names if _ROTARY_BUFFER.fullmatch(name)]
    faults = find_faults(config, {name: weights.info(name).shape for name in weights.names if name not in buffers})
    faults.fields.extend(_tie_faults(config, weights))
    faults.wrong.extend(_dtype_faults(weights, [name for name in expected_tensors(config) if name in weights.names]))
    if faults.all():
        raise _error(weights, faults)
    spare_head = [HEAD] if config.tied_embeddings and HEAD in weights.names else []
    return tuple(sorted(buffers + spare_head))


def _error(weights: Weights, faults: Faults) -> PhiforgeError:
    listed = "; ".join(faults.all())
    if faults.fields:
        return ConfigMismatchError(
            f"config.json and the tensors of the checkpoint {weights.folder} disagree: {listed}.",
            why="They are of different models, or of different releases of one model.",
            fix="Restore the config.json that belongs to these weights, or download the weights again.",
        )
    if faults.missing:
        return TensorMissingError(
            f"The checkpoint {weights.folder} lacks tensors: {listed}.",
            why="config.json calls for them, and everything else says that it is right.",
            fix="Download the weights again, or restore the config.json that belongs to them.",
        )
    return TensorShapeError(
        f"The checkpoint {weights.folder} has tensors that do not fit: {listed}.",
        why="Either the weights were changed, by quantization or an adapter, or config.json is of another model. "
        "A tensor that is left out would change the model unnoticed.",
        fix="Use the original weights with their own config.json, or merge adapters into the weights first.",
    )


def _tie_faults(config: ModelConfig, weights: Weights) -> list[str]:
    """Says whether a head is stored that is not the embedding, although config.json says that it is."""
    if not config.tied_embeddings or not {HEAD, EMBEDDING} <= set(weights.names):
        return []
    head, table = weights.info(HEAD), weights.info(EMBEDDING)
    said = f"tie_word_embeddings is true, but {HEAD}"
    if head.shape != table.shape:
        return [f"{said} has shape {list(head.shape)} and {EMBEDDING} {list(table.shape)}"]
    if not {head.dtype, table.dtype} <= set(FLOAT_DTYPES) or len(head.shape) != 2:
        return []  # Neither can be read, and both are faults of their own.
    rows = sorted({int(row) for row in np.linspace(0, head.shape[0] - 1, _TIE_ROWS)})
    differing = (row for row in rows if not _same_row(weights, row))
    row = next(differing, None)
    return [] if row is None else [f"{said} is another tensor than {EMBEDDING}: row {row} differs"]


def _same_row(weights: Weights, row: int) -> bool:
    head, table = (weights.read_rows(name, row, row + 1) for name in (HEAD, EMBEDDING))
    return bool(np.array_equal(head, table, equal_nan=True))


def _dtype_faults(weights: Weights, names: list[str]) -> list[str]:
    by_dtype: dict[str, list[str]] = {}
    for name in names:
        by_dtype.setdefault(weights.info(name).dtype, []).append(name)
    return [
        f"{name} has dtype {dtype} instead of one of {', '.join(FLOAT_DTYPES)}"
        for dtype, found in by_dtype.items()
        if dtype not in FLOAT_DTYPES
        for name in grouped(found)
    ]


def check_finite(weights: Weights, names: Iterable[str] | None = None) -> None:
    """Reads every tensor in blocks of at most `SCAN_BYTES` and checks that its values are finite.

    Args:
        weights: The weights.
        names: The tensors to read; all of them when None.

    Raises:
        WeightsNotFiniteError: A tensor holds NaN or infinite values.
        ValueError: A tensor is no floating-point tensor, which `check_tensors` finds first.
    """
    for name in weights.names if names is None else names:
        first_row, count = _count_not_finite(weights, name)
        if count:
            raise WeightsNotFiniteError(
                f"The tensor {name} in {weights.folder / weights.info(name).file} has {count} value(s) that are NaN or"
                f" infinite, the first of them in row {first_row}.",
                why="The checkpoint was damaged, or overflowed when it was trained, merged or converted.",
                fix="Download the file again; if the values stay, the checkpoint itself is bad and cannot be built.",
            )


def _count_not_finite(weights: Weights, name: str) -> tuple[int, int]:
    shape = weights.info(name).shape
    row_bytes = 4 * int(np.prod(shape[1:], dtype=np.int64))
    step = max(1, SCAN_BYTES // max(1, row_bytes))
    first_row, count = -1, 0
    for start in range(0, shape[0], step):
        finite = np.isfinite(weights.read_rows(name, start, min(start + step, shape[0])))
        if finite.all():
            continue
        bad_rows = np.flatnonzero(~finite.reshape(len(finite), -1).all(axis=1))
        first_row = start + int(bad_rows[0]) if count == 0 else first_row
        count += int(finite.size - np.count_nonzero(finite))
    return first_row, count
