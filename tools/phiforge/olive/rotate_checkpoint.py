"""Write a checkpoint in a rotated basis, streamed: the same function, without outlier channels."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from phiforge import errors
from phiforge.checkpoint.config import load_config
from phiforge.checkpoint.layout import Writer
from phiforge.checkpoint.tensors import expected_tensors
from phiforge.checkpoint.weights import open_weights
from phiforge.decoder.rotated import RotatedWeights
from phiforge.needs import BLOCK_WEIGHTS
from phiforge.olive.checkpoint_files import WEIGHTS_FILE, copy_beside_weights

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

# Three more bits than bfloat16 in as many bytes; rotated weights have no outliers that would overflow it.
STORED = "float16"


def rotate_checkpoint(source: Path, folder: Path, seed: int, *, progress: Callable[[int, int], None]) -> None:
    """Write the rotated checkpoint of `source` into the empty `folder`.

    Args:
        source: A sound checkpoint folder.
        folder: Where to write; must exist.
        seed: Seed of the rotation.
        progress: Called with (weights done, weights in all).

    Raises:
        PipelineInvalidError: No rotation is known for the checkpoint's widths.
        WeightsNotFiniteError: A rotated weight does not fit float16.
    """
    config = load_config(source)
    try:
        rotated = RotatedWeights(open_weights(source), config, seed)
    except ValueError as error:
        raise errors.PipelineInvalidError(
            "This checkpoint cannot be rotated.",
            why=str(error),
            fix="Take the PhiforgeRotate pass out of the pipeline.",
        ) from error
    expected = expected_tensors(replace(config, tied_embeddings=False))
    total = sum(int(np.prod(shape)) for shape in expected.values())
    done = 0
    partial = folder / f"{WEIGHTS_FILE}.partial"
    with Writer(partial, {name: ("F16", shape) for name, shape in expected.items()}) as writer:
        for name, shape in expected.items():
            columns = int(np.prod(shape[1:]))
            step = max(1, BLOCK_WEIGHTS // columns)
            for start in range(0, shape[0], step):
                stop = min(start + step, shape[0])
                writer.write(name, start, _narrow(name, rotated.read_rows(name, start, stop)))
                progress(done + stop * columns, total)
            done += shape[0] * columns
    os.replace(partial, folder / WEIGHTS_FILE)
    dtype: dict[str, Any] = {"torch_dtype": STORED, "dtype": STORED}
    copy_beside_weights(source, folder, {"tie_word_embeddings": False, **dtype})


def _narrow(name: str, rows: np.ndarray[Any, np.dtype[np.float32]]) -> np.ndarray[Any, np.dtype[np.float16]]:
    with np.errstate(over="ignore"):
        found = rows.astype(np.float16)
    if not np.isfinite(found).all():
        raise errors.WeightsNotFiniteError(
            f"The tensor {name} does not fit {STORED} after the rotation.",
            why=f"Its largest rotated weight is {float(np.abs(rows).max()):.3g}, and {STORED} ends at 65504.",
            fix="Take the PhiforgeRotate pass out of the pipeline, and report the checkpoint.",
        )
    return found
