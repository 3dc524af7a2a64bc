"""What phiforge changes in Olive 0.13.0, each change with its reason and when it can go.

Installed in the worker process alone. A stock `olive run` of the same workflow gives the same bytes, later.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

WEIGHTS_SUFFIX = ".safetensors"


def adapt_olive() -> None:
    """Install every change.

    * The input model's identity takes weights files by name, size and time of change. Stock Olive reads every byte of
      them (14 s for 7.7 GB) to name a cache folder that belongs to one checkpoint already. Goes when Olive can be told
      the identity.
    * The output folder gets hard links to the cache's files, as Olive does elsewhere (`hardlink_copy_dir`). Stock
      Olive copies them, 7 s for 2.5 GB and as much disk again. Goes when `save_model` does the same.
    """
    import olive.resource_path
    from olive.common.utils import hardlink_copy_dir
    from olive.model.config.model_config import ModelConfig

    read_hash = ModelConfig._get_file_hash

    def identify(self: Any, file_path: Path) -> list[str]:
        if file_path.is_file() and file_path.suffix == WEIGHTS_SUFFIX:
            state = file_path.stat()
            return [f"{file_path.name}-{state.st_size}-{state.st_mtime_ns}"]
        found: list[str] = read_hash(self, file_path)
        return found

    ModelConfig._get_file_hash = identify
    olive.resource_path.copy_dir = hardlink_copy_dir
