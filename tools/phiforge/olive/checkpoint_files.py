"""What a checkpoint folder holds beside its weights, and how a pass hands it on."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

WEIGHTS_FILE = "model.safetensors"
# By module, what its input channels were divided by before it was quantized; there is none without smoothing.
SMOOTHING_FILE = "smoothing.safetensors"
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


def copy_beside_weights(source: Path, folder: Path, changes: Mapping[str, Any]) -> None:
    """Copy tokenizer, templates and licence, and config.json with some entries changed."""
    for pattern in COPIED_PATTERNS:
        for path in sorted(source.glob(pattern)):
            shutil.copyfile(path, folder / path.name)
    data = json.loads((source / "config.json").read_text(encoding="utf-8")) | dict(changes)
    (folder / "config.json").write_text(json.dumps(data, indent=1, sort_keys=True) + "\n", encoding="utf-8")
