"""The largest activations of a decoder's graph, whose further outputs give them (`graph.float32`)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from phiforge.graph.float32 import MAXIMUM
from phiforge.graph.twin import MODEL_FILE
from phiforge.runtime.onnx_runtime import ort
from phiforge.runtime.variant import read_config, runtime_errors

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path
    from typing import Any


def largest_activations(
    folder: Path,
    prompts: Sequence[Sequence[int]],
    *,
    threads: int,
    on_prompt: Callable[[int], None] = lambda done: None,
) -> dict[str, float]:
    """Return the largest magnitude that each tensor reaches, over all prompts, each in one prefill on the CPU.

    Args:
        folder: A twin with maxima.
        prompts: Token ids.
        threads: Threads of the CPU operators.
        on_prompt: Told how many prompts are done.

    Raises:
        VariantUnusableError: The runtime fails.
    """
    head_size = int(read_config(folder)["model"]["decoder"]["head_size"])
    options = ort.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = threads, 3
    with runtime_errors(folder, "cannot be examined"):
        session = ort.InferenceSession(str(folder / MODEL_FILE), options, providers=["CPUExecutionProvider"])
        names = [output.name for output in session.get_outputs() if output.name.startswith(MAXIMUM)]
        largest = np.zeros(len(names), dtype=np.float32)
        for done, prompt in enumerate(prompts, start=1):
            found = session.run(names, _inputs(session, prompt, head_size))
            # NaN is passed on: a tensor that is not finite in float32 either is the worst that can be.
            largest = np.maximum(largest, np.array(found, dtype=np.float32))
            on_prompt(done)
    return {name.removeprefix(MAXIMUM): float(value) for name, value in zip(names, largest, strict=True)}


def _inputs(session: Any, prompt: Sequence[int], head_size: int) -> dict[str, Any]:
    """The inputs of a prompt with nothing before it, and so with an empty cache."""
    ids = np.asarray([prompt], dtype=np.int64)
    known = {
        "input_ids": ids,
        "attention_mask": np.ones_like(ids),
        "position_ids": np.arange(len(prompt), dtype=np.int64)[None],
    }
    feeds = {}
    for item in session.get_inputs():
        if item.name in known:
            feeds[item.name] = known[item.name]
        else:
            feeds[item.name] = np.zeros((1, item.shape[1], 0, head_size), dtype=np.float32)
    return feeds
