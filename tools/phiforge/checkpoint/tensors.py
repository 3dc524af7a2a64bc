"""Which tensors a configuration calls for, and whether the weights are exactly those, with finite values."""

from __future__ import annotations

import re
from collections.abc import Iterable

import numpy as np

from phiforge.checkpoint.config import ModelConfig
from phiforge.checkpoint.weights import FLOAT_DTYPES, Weights
from phiforge.errors import TensorMissingError, TensorShapeError, WeightsNotFiniteError

EMBEDDING = "model.embed_tokens.weight"
HEAD = "lm_head.weight"
SCAN_BYTES = 32 << 20

_ROTARY_BUFFER = re.compile(r"(.*\.)?rotary_emb\.(long_|short_|original_)?inv_freq")
_NAMED_AT_MOST = 5


def expected_tensors(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Gives name and shape of every tensor, as transformers' Phi3ForCausalLM stores them.

    Query, key and value are one projection, and so are gate and up. The head is there only when it is not tied.
    """
    hidden, inner = config.hidden_size, config.intermediate_size
    query = config.head_count * config.head_size
    key_value = config.kv_head_count * config.head_size
    tensors: dict[str, tuple[int, ...]] = {EMBEDDING: (config.vocab_size, hidden)}
    for layer in range(config.layer_count):
        prefix = f"model.layers.{layer}"
        tensors |= {
            f"{prefix}.input_layernorm.weight": (hidden,),
            f"{prefix}.self_attn.qkv_proj.weight": (query + 2 * key_value, hidden),
            f"{prefix}.self_attn.o_proj.weight": (hidden, query),
            f"{prefix}.post_attention_layernorm.weight": (hidden,),
            f"{prefix}.mlp.gate_up_proj.weight": (2 * inner, hidden),
            f"{prefix}.mlp.down_proj.weight": (hidden, inner),
        }
    tensors["model.norm.weight"] = (hidden,)
    if not config.tied_embeddings:
        tensors[HEAD] = (config.vocab_size, hidden)
    return tensors


def check_tensors(config: ModelConfig, weights: Weights) -> tuple[str, ...]:
    """Checks that the weights are the tensors the configuration calls for, and no others.

    Two kinds of further tensors are allowed, because transformers ignores them too: the head of a model whose
    embeddings are tied, and buffers of the rotary embedding.

    Returns:
        The names of these ignored tensors, sorted.

    Raises:
        TensorMissingError: A tensor is in no file.
        TensorShapeError: A tensor has another shape, is no floating-point tensor, or was not called for.
    """
    expected = expected_tensors(config)
    missing = [name for name in expected if name not in weights.names]
    if missing:
        raise TensorMissingError(
            f"The checkpoint {weights.folder} lacks {len(missing)} of {len(expected)} tensors: {_some(missing)}.",
            why=f"config.json calls for {config.layer_count} layers with six tensors each, embedding, norm and head.",
            fix="Download the weights again, or restore the config.json that belongs to them.",
        )
    wrong = [fault for name, shape in expected.items() for fault in _faults(weights, name, shape)]
    if wrong:
        raise TensorShapeError(
            f"{len(wrong)} tensor(s) of the checkpoint {weights.folder} do not fit config.json: {_some(wrong)}.",
            why="Weights and config.json are of different models, or the weights are quantized already.",
            fix="Restore the config.json that belongs to these weights.",
        )
    further = sorted(set(weights.names) - set(expected))
    ignored = tuple(name for name in further if _is_ignored(name, config))
    unexpected = [f"{name} in {weights.info(name).file}" for name in further if name not in ignored]
    if unexpected:
        raise TensorShapeError(
            f"The checkpoint {weights.folder} has {len(unexpected)} tensor(s) too many: {_some(unexpected)}.",
            why="config.json does not call for them, and a tensor that is left out would change the model unnoticed.",
            fix="Restore the config.json that belongs to these weights, or merge adapters into the weights first.",
        )
    return ignored


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


def _faults(weights: Weights, name: str, shape: tuple[int, ...]) -> list[str]:
    info = weights.info(name)
    faults = []
    if info.shape != shape:
        faults.append(f"{name} in {info.file} has shape {list(info.shape)} instead of {list(shape)}")
    if info.dtype not in FLOAT_DTYPES:
        faults.append(f"{name} in {info.file} has dtype {info.dtype} instead of one of {', '.join(FLOAT_DTYPES)}")
    return faults


def _is_ignored(name: str, config: ModelConfig) -> bool:
    return (name == HEAD and config.tied_embeddings) or _ROTARY_BUFFER.fullmatch(name) is not None


def _some(items: list[str]) -> str:
    more = len(items) - _NAMED_AT_MOST
    return ", ".join(items[:_NAMED_AT_MOST]) + (f" and {more} more" if more > 0 else "")
