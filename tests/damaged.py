"""A package of a variant in which one layer is quantized badly: consistent in itself, with evidence that is true."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import onnx

from phiforge.hashing import hash_files, hash_listing
from phiforge.verbs.package import package
from phiforge.verbs.subject import find_subjects
from phiforge.verbs.validate import run_validation
from phiforge.verbs.watch import Unwatched

LAYER = "layers.2/mlp/down_proj"
# Two of the four bits of each code: the layer as if it had been quantized to two.
KEPT_BITS = 0xCC


def damage(stage: Path, damaged: Path, layer: str = LAYER) -> Path:
    """Copy the stage folder of a built variant and quantize one layer in it to two bits."""
    shutil.copytree(stage, damaged)
    model = damaged / "model"
    location, offset, length = _codes(model / "model.onnx", layer)
    with (model / location).open("r+b") as file:
        file.seek(offset)
        codes = np.frombuffer(file.read(length), dtype=np.uint8)
        file.seek(offset)
        file.write((codes & KEPT_BITS).tobytes())
    record = json.loads((damaged / "variant.json").read_text(encoding="utf-8"))
    record["sha256"] = hash_listing(hash_files(model))
    (damaged / "variant.json").write_text(json.dumps(record), encoding="utf-8")
    return damaged


def package_damaged(
    stage: Path, checkpoint: Path, output: Path, *, texts: Path, tasks: Path, cache: Path, target: str = "cpu-x64"
) -> Path:
    """Damage a variant, validate it for real against its checkpoint, and package it with that evidence.

    Args:
        stage: The stage folder of the built variant.
        checkpoint: What it was built from.
        output: Folder for everything that is made.
        texts: Held-out text.
        tasks: Held-out tasks.
        cache: Where the build keeps what the checkpoint said.
        target: The profile it is packaged for.
    """
    damaged = damage(stage, output / "damaged")
    (subject,) = find_subjects(damaged)
    found = run_validation(
        subject, checkpoint, texts=texts, tasks=tasks, cache=cache, threads=None, watcher=Unwatched()
    )
    evidence = output / "evidence"
    evidence.mkdir()
    for name, text in found.items():
        (evidence / name).write_text(text, encoding="utf-8", newline="\n")
    return package(damaged, evidence=evidence, targets=[target], output=output / "packaged")


def _codes(model: Path, layer: str) -> tuple[str, int, int]:
    """Where the codes of a layer's weight are: file, offset, length."""
    graph = onnx.load(model, load_external_data=False).graph
    (node,) = [item for item in graph.node if item.op_type == "MatMulNBits" and layer in item.name]
    (tensor,) = [item for item in graph.initializer if item.name == node.input[1]]
    told = {entry.key: entry.value for entry in tensor.external_data}
    return told["location"], int(told["offset"]), int(told["length"])
