"""Checkpoints with the shapes of real Phi-4 models and random weights, for memory and time.

    python tests/bench/real_shapes.py phi-4-mini FOLDER [--layers N]

The weights know nothing, so accuracy cannot be asked of them; sizes, times and memory are those of the real model. The
tokenizer is the embedded model's. Shapes: config.json of microsoft/Phi-4-mini-instruct and microsoft/phi-4.
"""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from phiforge.checkpoint.config import load_config
from phiforge.checkpoint.layout import Writer
from phiforge.checkpoint.nano import CHECKPOINT_DIR
from phiforge.checkpoint.tensors import expected_tensors

SHAPES: dict[str, dict[str, object]] = {
    "phi-4-mini": {
        "hidden_size": 3072, "intermediate_size": 8192, "num_hidden_layers": 32, "num_attention_heads": 24,
        "num_key_value_heads": 8, "vocab_size": 200_064, "tie_word_embeddings": True,
        "max_position_embeddings": 131_072, "original_max_position_embeddings": 4096, "partial_rotary_factor": 0.75,
        "rope_theta": 10000.0,
        "rope_scaling": {"type": "longrope", "short_factor": [1.0] * 48,
                         "long_factor": [1.0 + 31.0 * i / 47 for i in range(48)]},
    },
    "phi-4": {
        "hidden_size": 5120, "intermediate_size": 17_920, "num_hidden_layers": 40, "num_attention_heads": 40,
        "num_key_value_heads": 10, "vocab_size": 100_352, "tie_word_embeddings": False,
        "max_position_embeddings": 16_384, "original_max_position_embeddings": 16_384, "partial_rotary_factor": 1.0,
        "rope_theta": 250_000.0, "rope_scaling": None,
    },
}  # fmt: skip
COPIED = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "generation_config.json")
POOL = 1 << 24
BLOCK_ROWS = 2048


def write_real_shape(folder: Path, model: str, *, layers: int | None = None) -> Path:
    """Write a checkpoint of a real model's shapes into `folder` and return it; `layers` cuts it short."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in COPIED:
        if (CHECKPOINT_DIR / name).is_file():
            shutil.copyfile(CHECKPOINT_DIR / name, folder / name)
    config = json.loads((CHECKPOINT_DIR / "config.json").read_text(encoding="utf-8"))
    # Both spellings of the rotary settings occur; a leftover of the other one would contradict.
    for key in ("rope_parameters", "head_dim", "rope_scaling", "original_max_position_embeddings"):
        config.pop(key, None)
    config |= SHAPES[model] | {"sliding_window": None, "torch_dtype": "bfloat16"}
    config["num_hidden_layers"] = layers or config["num_hidden_layers"]
    (folder / "config.json").write_text(json.dumps(config, indent=1), encoding="utf-8")
    expected = expected_tensors(load_config(folder))
    pool = np.random.default_rng(0).standard_normal(POOL, dtype=np.float32)
    with Writer(folder / "model.safetensors", {name: ("BF16", shape) for name, shape in expected.items()}) as writer:
        for number, (name, shape) in enumerate(expected.items()):
            for start, rows in _random_rows(pool, number, shape):
                writer.write(name, start, rows.astype(ml_dtypes.bfloat16))
    return folder


def _random_rows(
    pool: NDArray[np.float32], number: int, shape: tuple[int, ...]
) -> Iterator[tuple[int, NDArray[np.float32]]]:
    """Yield blocks of rows: numbers from the pool, each block from another place; some channels six times as large."""
    random = np.random.default_rng(number)
    if len(shape) == 1:
        yield 0, (1 + 0.1 * pool[: shape[0]]).astype(np.float32)
        return
    columns = shape[1]
    scale = np.full(columns, 0.6 / np.sqrt(columns), np.float32)
    scale[random.choice(columns, columns // 200 + 1, replace=False)] *= 6
    step = min(BLOCK_ROWS, POOL // columns // 2)
    for start in range(0, shape[0], step):
        count = min(step, shape[0] - start)
        begin = int(random.integers(0, POOL - count * columns))
        yield start, pool[begin : begin + count * columns].reshape(count, columns) * scale


def main() -> None:
    """Write one checkpoint."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("model", choices=sorted(SHAPES))
    parser.add_argument("folder", type=Path)
    parser.add_argument("--layers", type=int)
    args = parser.parse_args()
    write_real_shape(args.folder, args.model, layers=args.layers)


if __name__ == "__main__":
    main()
