"""Record the ranges of a quantized checkpoint's activations, and hand the checkpoint on with them beside it."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import torch
from olive.common.utils import hardlink_copy_dir

from phiforge.activations import ACTIVATIONS_FILE, check_ranges, save_ranges
from phiforge.decoder.decoder import Batch, Decoder
from phiforge.decoder.ranges import record_ranges
from phiforge.olive.quantized_rows import QuantizedRows

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from phiforge.checkpoint.config import ModelConfig


def calibrate_activations(
    quantized: Path,
    folder: Path,
    texts: Sequence[Sequence[int]],
    *,
    work: Path,
    threads: int,
    progress: Callable[[int, int], None],
) -> None:
    """Put the files of a quantized checkpoint into the empty `folder`, and the ranges of its activations beside them.

    Args:
        quantized: A checkpoint in Olive's format, as `quantize_checkpoint` writes it.
        folder: Where to put them; must exist. The files are hard links where the system allows it.
        texts: Token ids of the calibration texts.
        work: Folder for mapped files; emptied first, removed at the end.
        threads: Threads of torch.
        progress: Called with (layers done, layers in all).

    Raises:
        ActivationRangeError: The range of an activation is empty, constant or not finite; `folder` stays empty.
    """
    torch.set_num_threads(threads)
    decoder = Decoder(quantized, QuantizedRows(quantized), quantized=True)
    batch = Batch.of(_short_texts(texts, decoder.config))
    shutil.rmtree(work, ignore_errors=True)
    try:
        ranges = record_ranges(decoder, batch, folder=work, progress=progress)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    check_ranges(ranges, decoder.config.layer_count)
    hardlink_copy_dir(quantized, folder)
    save_ranges(ranges, len(batch.tokens), folder / ACTIVATIONS_FILE)


def _short_texts(texts: Sequence[Sequence[int]], config: ModelConfig) -> list[Sequence[int]]:
    """Cut texts into pieces of the original context: an NPU's graphs rotate by longrope's short factors only."""
    step = config.original_max_positions or config.max_positions
    return [text[start : start + step] for text in texts for start in range(0, len(text), step)]
