"""Quantize a checkpoint's weights, streamed: a block of rows is read, quantized and written before the next.

The result is a checkpoint in Olive's format (`quantization_config.quant_method` is "olive"): `qweight` holds codes
packed along the input dimension, `scales` and `qzeros` one entry a block. Olive, transformers (through Olive) and the
onnxruntime-genai builder read it; `export` hands its bytes on as they are.
"""

from __future__ import annotations

import json
import os
import shutil
from typing import TYPE_CHECKING, Any

import numpy as np

from phiforge.checkpoint.config import load_config
from phiforge.checkpoint.layout import Writer
from phiforge.checkpoint.tensors import expected_tensors
from phiforge.checkpoint.weights import open_weights
from phiforge.plan import BLOCK_WEIGHTS, plan_weights
from phiforge.quantize import pack, quantize_rows

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from phiforge.checkpoint.config import ModelConfig
    from phiforge.checkpoint.weights import Weights
    from phiforge.pipeline import QuantizeOptions
    from phiforge.quantize.spec import QuantSpec

WEIGHTS_FILE = "model.safetensors"
COPIED_PATTERNS = (
    "tokenizer*",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template*",
    "generation_config.json",
    "LICENSE*",
)


def quantize_checkpoint(
    source: Path, folder: Path, options: QuantizeOptions, *, threads: int, progress: Callable[[int, int], None]
) -> None:
    """Write the quantized checkpoint of `source` into the empty `folder`.

    Args:
        source: A sound checkpoint folder.
        folder: Where to write; must exist.
        options: Algorithm, bits and blocks.
        threads: Worker threads; the bytes written do not depend on it.
        progress: Called with (weights done, weights in all).
    """
    config = load_config(source)
    specs = {weight.module: weight.spec for weight in plan_weights(config, options)}
    weights = open_weights(source)
    _write_weights(config, weights, specs, folder / WEIGHTS_FILE, options.algorithm, threads, progress)
    for pattern in COPIED_PATTERNS:
        for path in sorted(source.glob(pattern)):
            shutil.copyfile(path, folder / path.name)
    text = json.dumps(_quantized_config(source, config, specs, options), indent=1, sort_keys=True)
    (folder / "config.json").write_text(text + "\n", encoding="utf-8")


def _write_weights(
    config: ModelConfig,
    weights: Weights,
    specs: Mapping[str, QuantSpec],
    path: Path,
    algorithm: str,
    threads: int,
    progress: Callable[[int, int], None],
) -> None:
    expected = expected_tensors(config)
    total = sum(int(np.prod(shape)) for shape in expected.values())
    done = 0
    partial = path.with_suffix(".partial")
    with Writer(partial, dict(_entries(expected, specs))) as writer:
        for name, shape in expected.items():
            module = name.removesuffix(".weight")
            if module not in specs:
                writer.write(name, 0, weights.read(name))
            for start, rows in _row_blocks(weights, name, shape) if module in specs else ():
                quantized = quantize_rows(rows, specs[module], algorithm, threads)
                writer.write(f"{module}.qweight", start, pack(quantized.codes, specs[module].bits))
                writer.write(f"{module}.scales", start, quantized.scales)
                if quantized.zero_points is not None:
                    writer.write(f"{module}.qzeros", start, pack(quantized.zero_points, specs[module].bits))
                progress(done + (start + len(rows)) * shape[1], total)
            done += int(np.prod(shape))
    os.replace(partial, path)
    progress(total, total)


def _entries(
    expected: Mapping[str, tuple[int, ...]], specs: Mapping[str, QuantSpec]
) -> Iterator[tuple[str, tuple[str, tuple[int, ...]]]]:
    """Every tensor of the quantized checkpoint. Norm weights become float32, the type the CPU graph wants."""
    for name, shape in expected.items():
        module = name.removesuffix(".weight")
        spec = specs.get(module)
        if spec is None:
            yield name, ("F32", shape)
            continue
        rows, columns = shape
        blocks = columns // spec.block_size
        yield f"{module}.qweight", ("U8", (rows, columns * spec.bits // 8))
        yield f"{module}.scales", ("F32", (rows, blocks))
        if not spec.symmetric:
            yield f"{module}.qzeros", ("U8", (rows, -(-blocks * spec.bits // 8)))


def _row_blocks(weights: Weights, name: str, shape: tuple[int, ...]) -> Iterator[tuple[int, np.ndarray[Any, Any]]]:
    step = max(1, BLOCK_WEIGHTS // shape[1])
    for start in range(0, shape[0], step):
        yield start, weights.read_rows(name, start, min(start + step, shape[0]))


def _quantized_config(
    source: Path, config: ModelConfig, specs: Mapping[str, QuantSpec], options: QuantizeOptions
) -> dict[str, Any]:
    data: dict[str, Any] = json.loads((source / "config.json").read_text(encoding="utf-8"))
    named = dict(specs)
    if config.tied_embeddings:
        named["lm_head"] = named["model.embed_tokens"]
    # As Olive has it: the floats are no longer tied, the codes are.
    data["tie_word_embeddings"] = False
    data["quantization_config"] = {
        "quant_method": "olive",
        "bits": options.bits,
        "symmetric": options.symmetric,
        "group_size": options.block_size,
        "lm_head": True,
        "embeds": True,
        "tie_word_embeddings": config.tied_embeddings,
        "modules_to_not_convert": None,
        "overrides": {name: {"bits": spec.bits} for name, spec in named.items() if spec.bits != options.bits} or None,
    }
    return data
