"""Quantize a checkpoint by an algorithm that needs calibration: layers against texts, embedding and head by rows."""

from __future__ import annotations

import hashlib
import shutil
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from safetensors.numpy import load_file, save_file

from phiforge.checkpoint.tensors import expected_tensors
from phiforge.checkpoint.weights import widen
from phiforge.decoder.decoder import EMBEDDING, HEAD, HEAD_ROWS, NORM, Batch, Decoder, mapped_floats
from phiforge.decoder.walk import hessian
from phiforge.hashing import content_key
from phiforge.olive.checkpoint_files import SMOOTHING_FILE
from phiforge.olive.quantize_checkpoint import finish_quantized, open_quantized, open_source, write_rows
from phiforge.olive.quantize_layers import SMOOTHING, LayerWork, calibrated_options, quantize_layers
from phiforge.olive.stored import pack_quantized
from phiforge.plan import plan_weights
from phiforge.quantize.algorithms import Packed, quantize_packed
from phiforge.quantize.calibrated import CALIBRATED

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from phiforge.checkpoint.layout import Writer
    from phiforge.checkpoint.weights import Weights
    from phiforge.pipeline import QuantizeOptions
    from phiforge.quantize.calibrated import RowQuantizer
    from phiforge.quantize.spec import QuantSpec

# The embedding table is looked up and not multiplied, so there are no inputs to calibrate it with.
TABLE_ALGORITHM = "k-quant"


def calibrate_checkpoint(
    source: Path,
    folder: Path,
    options: QuantizeOptions,
    texts: Sequence[Sequence[int]],
    *,
    work: Path,
    threads: int,
    progress: Callable[[int, int], None],
) -> None:
    """Write the quantized checkpoint of `source` into the empty `folder`.

    Args:
        source: A sound checkpoint folder.
        folder: Where to write; must exist.
        options: Algorithm, bits and blocks.
        texts: Token ids of the calibration texts.
        work: Folder for finished layers, from which a killed run goes on; removed at the end.
        threads: Threads of torch. The same bytes come out for the same number of threads on the same machine.
        progress: Called with (layers done, layers in all).
    """
    torch.set_num_threads(threads)
    config, weights = open_source(source, options)
    specs = {weight.module: weight.spec for weight in plan_weights(config, options)}
    decoder = Decoder(source, weights, tied=config.tied_embeddings)
    batch = Batch.of(texts)
    layer_work = LayerWork(folder=work)
    layer_work.open(_key(source, options, batch, threads))
    with torch.inference_mode():
        hidden = quantize_layers(decoder, batch, specs, options, layer_work, progress)
    smoothing = {}
    with open_quantized(folder, config, specs) as writer:
        for layer in range(config.layer_count):
            for name, tensor in load_file(layer_work.layer_file(layer)).items():
                if name.endswith(SMOOTHING):
                    smoothing[name.removesuffix(SMOOTHING)] = tensor
                else:
                    writer.write(name, 0, tensor)
        _write_ends(decoder, writer, weights, expected_tensors(config), specs, options, hidden, work, threads)
    if smoothing:
        save_file(smoothing, folder / SMOOTHING_FILE)
    finish_quantized(source, folder, config, specs, options)
    shutil.rmtree(work)


def _write_ends(
    decoder: Decoder,
    writer: Writer,
    weights: Weights,
    shapes: Mapping[str, tuple[int, ...]],
    specs: Mapping[str, QuantSpec],
    options: QuantizeOptions,
    hidden: NDArray[np.float32],
    scratch: Path,
    threads: int,
) -> None:
    """Write embedding, last norm and head; a head of its own is calibrated with what the last norm gives it."""

    def quantize_head(rows: NDArray[Any]) -> Packed:
        return pack_quantized(head(widen(rows), specs[HEAD]))

    quantize_table = partial(quantize_packed, spec=specs[EMBEDDING], algorithm=TABLE_ALGORITHM, threads=threads)
    writer.write(f"{NORM}.weight", 0, weights.read(f"{NORM}.weight"))
    for _ in write_rows(writer, weights, EMBEDDING, shapes[f"{EMBEDDING}.weight"], quantize_table):
        pass
    if decoder.head_module == HEAD:
        head = _prepare_head(decoder, options, hidden, scratch)
        for _ in write_rows(writer, weights, HEAD, shapes[f"{HEAD}.weight"], quantize_head):
            pass


def _prepare_head(
    decoder: Decoder, options: QuantizeOptions, hidden: NDArray[np.float32], scratch: Path
) -> RowQuantizer:
    with torch.inference_mode(), mapped_floats(scratch, *hidden.shape) as normed:
        for start in range(0, len(hidden), HEAD_ROWS):
            rows = slice(start, start + HEAD_ROWS)
            normed[rows] = decoder.normalize(torch.from_numpy(hidden[rows])).numpy()
        return CALIBRATED[options.algorithm](hessian(normed), calibrated_options(options))


def _key(source: Path, options: QuantizeOptions, batch: Batch, threads: int) -> str:
    """What the finished layers depend on; the checkpoint's files by size and time."""
    files = [[file.name, file.stat().st_size, file.stat().st_mtime_ns] for file in sorted(source.glob("*.safetensors"))]
    tokens = hashlib.sha256(batch.tokens.tobytes()).hexdigest()
    return content_key([files, options.model_dump(mode="json"), tokens, list(batch.bounds), threads])
