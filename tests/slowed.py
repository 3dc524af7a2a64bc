"""Makes a variant slower by real work in its graph: what a regression of the decode loop looks like from outside.

Before the last matrix product some float matrix products are added, whose result counts 1e-30 times: too little to
change a logit, and nothing that an optimizer can leave out.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from phiforge.hashing import hash_files, hash_listing
from phiforge.validation.comparison import compare_folders

DATA_FILE = "slowed.data"
# Width of the added products that calibration begins with, and how near the wanted ratio it must come.
_FIRST_WIDTH, _NEAR, _TRIES = 2048, 0.02, 4


def add_work(folder: Path, destination: Path, width: int) -> Path:
    """Copy a variant's folder, with two matrix products [hidden, width] and back before its last node."""
    shutil.copytree(folder, destination)
    model = ir.load(destination / "model.onnx")
    graph = model.graph
    last = graph.outputs[0].producer()
    assert last is not None
    before = last.inputs[0]
    assert before is not None
    hidden = _hidden_size(folder)
    random = np.random.default_rng(0)
    arrays: dict[str, NDArray[np.float32]] = {
        "up": random.standard_normal((hidden, width), dtype=np.float32) / np.float32(hidden),
        "down": random.standard_normal((width, hidden), dtype=np.float32) / np.float32(width),
        "scale": np.full(1, 1e-30, dtype=np.float32),
    }
    weights = [
        ir.Value(name=f"slowed.{name}", const_value=ir.tensor(array, name=f"slowed.{name}"))
        for name, array in arrays.items()
    ]
    for weight in weights:
        graph.register_initializer(weight)
    up, down, scale = weights
    wide = ir.node("MatMul", [before, up])
    narrow = ir.node("MatMul", [wide.outputs[0], down])
    tiny = ir.node("Mul", [narrow.outputs[0], scale])
    total = ir.node("Add", [before, tiny.outputs[0]])
    graph.insert_before(last, [wide, narrow, tiny, total])
    last.replace_input_with(0, total.outputs[0])
    _save(model, destination)
    return destination


def slowed(folder: Path, destination: Path, fraction: float, rounds: int = 12) -> tuple[Path, float]:
    """Copy a variant's folder so that it decodes slower by about a fraction; return the copy and the measured ratio.

    The width of the added work is found by measuring, so the ratio is of this machine.
    """
    width = _FIRST_WIDTH
    for _ in range(_TRIES):
        shutil.rmtree(destination, ignore_errors=True)
        add_work(folder, destination, width)
        ratio = decode_ratio(destination, folder, rounds)
        if abs(ratio - 1 - fraction) <= _NEAR:
            break
        width = max(64, round(width * fraction / max(ratio - 1, 0.01)))
    return destination, ratio


def decode_ratio(new: Path, old: Path, rounds: int) -> float:
    """Return how much longer a new variant decodes than an old one after the shortest prompt compared."""
    found = compare_folders(
        new, old, new_sha256=hash_listing(hash_files(new)), old_sha256=hash_listing(hash_files(old)), rounds=rounds
    )
    return next(row.ratio_p50 for row in found.rows if row.metric == "decode")


def _hidden_size(folder: Path) -> int:
    from phiforge.runtime.variant import read_config

    return int(read_config(folder)["model"]["decoder"]["hidden_size"])


def _save(model: ir.Model, folder: Path) -> None:
    """Save beside the old data and put the new one in its place: the old file is read while the new one is written."""
    work = folder / "slowed"
    work.mkdir()
    ir.save(model, work / "model.onnx", external_data=DATA_FILE)
    for name in ("model.onnx", DATA_FILE):
        (work / name).replace(folder / name)
    work.rmdir()
    (folder / "model.onnx.data").unlink()
