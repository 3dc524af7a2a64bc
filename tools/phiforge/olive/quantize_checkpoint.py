"""Quantize a checkpoint's weights, streamed: a block of rows is read, quantized and written before the next.

The result is a checkpoint in Olive's format (`quantization_config.quant_method` is "olive"): `qweight` holds codes
packed along the input dimension, `scales` and `qzeros` one entry a block. Olive, transformers (through Olive) and the
onnxruntime-genai builder read it; `export` hands its bytes on as they are.
"""

from __future__ import annotations

import os
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from phiforge.checkpoint.config import load_config
from phiforge.checkpoint.layout import Writer
from phiforge.checkpoint.tensors import expected_tensors
from phiforge.checkpoint.weights import open_weights
from phiforge.needs import BLOCK_WEIGHTS
from phiforge.olive.checkpoint_files import WEIGHTS_FILE, copy_beside_weights
from phiforge.olive.stored import entries, stored_tensors
from phiforge.plan import plan_weights
from phiforge.quantize.algorithms import Packed, quantize_packed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    from phiforge.checkpoint.config import ModelConfig
    from phiforge.checkpoint.weights import Weights
    from phiforge.pipeline import QuantizeOptions
    from phiforge.quantize.spec import QuantSpec

    # Quantizes rows of a weight, in the type in which they are stored.
    QuantizeRows = Callable[[NDArray[Any]], Packed]


def quantize_checkpoint(
    source: Path, folder: Path, options: QuantizeOptions, *, threads: int, progress: Callable[[int, int], None]
) -> None:
    """Write the quantized checkpoint of `source` into the empty `folder`, by an algorithm that needs no calibration.

    Args:
        source: A sound checkpoint folder.
        folder: Where to write; must exist.
        options: Algorithm, bits and blocks.
        threads: Worker threads; the bytes written do not depend on it.
        progress: Called with (weights done, weights in all).
    """
    config, weights = open_source(source, options)
    specs = {weight.module: weight.spec for weight in plan_weights(config, options)}
    expected = expected_tensors(config)
    total = sum(int(np.prod(shape)) for shape in expected.values())
    done = 0
    with open_quantized(folder, config, specs) as writer:
        for name, shape in expected.items():
            module = name.removesuffix(".weight")
            if module not in specs:
                writer.write(name, 0, weights.read(name))
                progress(done + shape[0], total)
            else:
                quantize = partial(quantize_packed, spec=specs[module], algorithm=options.algorithm, threads=threads)
                for written in write_rows(writer, weights, module, shape, quantize):
                    progress(done + written, total)
            done += int(np.prod(shape))
    finish_quantized(source, folder, config, specs, options)


def open_source(source: Path, options: QuantizeOptions) -> tuple[ModelConfig, Weights]:
    """Return a checkpoint's configuration and weights, untied where the options want no shared table."""
    config, weights = load_config(source), open_weights(source)
    if options.shared_embeddings or not config.tied_embeddings:
        return config, weights
    return replace(config, tied_embeddings=False), weights.with_own_head()


def open_quantized(folder: Path, config: ModelConfig, specs: Mapping[str, QuantSpec]) -> Writer:
    """Return a writer of the quantized weights file under a name that is not its last; `finish_quantized` renames."""
    return Writer(folder / f"{WEIGHTS_FILE}.partial", dict(entries(expected_tensors(config), specs)))


def write_rows(
    writer: Writer, weights: Weights, module: str, shape: tuple[int, ...], quantize: QuantizeRows
) -> Iterator[int]:
    """Quantize and write one module's weight, a block of rows at a time; yields the weights done so far."""
    step = max(1, BLOCK_WEIGHTS // shape[1])
    for start in range(0, shape[0], step):
        stop = min(start + step, shape[0])
        packed = quantize(weights.map_rows(f"{module}.weight", start, stop))
        for name, tensor in stored_tensors(module, packed).items():
            writer.write(name, start, tensor)
        yield stop * shape[1]


def finish_quantized(
    source: Path, folder: Path, config: ModelConfig, specs: Mapping[str, QuantSpec], options: QuantizeOptions
) -> None:
    """Give the complete weights file its name, and write what belongs beside it."""
    os.replace(folder / f"{WEIGHTS_FILE}.partial", folder / WEIGHTS_FILE)
    copy_beside_weights(source, folder, _config_changes(config, specs, options))


def _config_changes(config: ModelConfig, specs: Mapping[str, QuantSpec], options: QuantizeOptions) -> dict[str, Any]:
    named = dict(specs)
    if config.tied_embeddings:
        named["lm_head"] = named["model.embed_tokens"]
    quantization = {
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
    # As Olive has it: the floats are no longer tied, the codes are.
    return {"tie_word_embeddings": False, "quantization_config": quantization}
