"""The twin of a variant that gives the last position's logits: the same graph, but with the logits of every position.

Drift is a matter of every position, so it is measured on the twin. The twin exists for the time of a validation and is
never shipped; that it differs in nothing but the choice of the last position is proved when it is made.
"""

from __future__ import annotations

import os
import shutil
from typing import TYPE_CHECKING

import onnx_ir as ir

from phiforge import errors
from phiforge.graph.difference import ABSENT, Difference, graph_difference
from phiforge.graph.head import LOGITS, find_pruned_head, restore_head

if TYPE_CHECKING:
    from pathlib import Path

MODEL_FILE = "model.onnx"
__all__ = ["graph_difference", "has_pruned_head", "make_twin"]


def has_pruned_head(variant: Path) -> bool:
    """Return whether the variant's graph gives the logits of the last position alone, as phiforge prunes it."""
    return find_pruned_head(ir.load(variant / MODEL_FILE)) is not None


def make_twin(variant: Path, folder: Path) -> tuple[Difference, ...]:
    """Make the twin of a variant in an empty folder, and return how its graph differs from the variant's.

    All other files are hard links, or copies where there can be none: onnxruntime 1.31 refuses symbolic links to data.
    Put the folder on the variant's disk and remove it after use; the variant is left as it is.

    Args:
        variant: A variant folder whose graph has a pruned head.
        folder: Where to make the twin; must exist.

    Raises:
        GraphMismatchError: The graph's head is not pruned in phiforge's way, or anything else would differ.
    """
    for path in variant.iterdir():
        if path.name != MODEL_FILE:
            link_file(path, folder / path.name)
    model = ir.load(variant / MODEL_FILE)
    known = _known_differences(model)
    restore_head(model)
    ir.save(model, folder / MODEL_FILE)
    found = graph_difference(variant / MODEL_FILE, folder / MODEL_FILE)
    check_twin(found, known)
    return found


def check_twin(found: tuple[Difference, ...], known: tuple[Difference, ...]) -> None:
    """Refuse a twin that differs in more or less than it should.

    Raises:
        GraphMismatchError: The differences are not the known ones.
    """
    strange = sorted(set(found) ^ set(known))
    if strange:
        raise errors.GraphMismatchError(
            "The twin's graph is not the variant's with the logits of every position.",
            why=f"{len(strange)} differences are not as they should be: " + "; ".join(map(str, strange[:4])) + ".",
            fix="Build the variant again; if it happens again, report it with the variant's model.onnx.",
        )


def _known_differences(model: ir.Model) -> tuple[Difference, ...]:
    """What must differ, and nothing else: the nodes of the choice, what the head reads, and the shape of the logits."""
    pruned = find_pruned_head(model)
    if pruned is None:
        restore_head(model)  # which says what is wrong
        raise AssertionError("a graph without a pruned head has no twin")
    head, selected, hidden = pruned.head, pruned.head.inputs[0], pruned.hidden
    (logits,) = (value for value in model.graph.outputs if value.name == LOGITS)
    (ids,) = (value for value in model.graph.inputs if value.name == "input_ids")
    assert selected is not None and logits.shape is not None and ids.shape is not None
    dims = [str(getattr(dim, "value", dim)) for dim in (*logits.shape, ids.shape[1])]
    one, every = f"[{dims[0]}, 1, {dims[2]}]", f"[{dims[0]}, {dims[3]}, {dims[2]}]"
    return (
        *(Difference("node", str(node.name), "presence", "present", ABSENT) for node in pruned.selection),
        Difference("node", str(head.name), "input 0", str(selected.name), str(hidden.name)),
        Difference("node", str(head.name), "output 0 shape", one, every),
        Difference("output", LOGITS, "shape", one, every),
    )


def link_file(source: Path, target: Path) -> None:
    """Put a file where another is to be read, as a hard link, or as a copy where there can be none."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
