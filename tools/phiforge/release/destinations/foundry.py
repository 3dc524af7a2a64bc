"""A folder that Foundry Local loads: one folder for each variant, with the card and release.json beside them.

Foundry Local finds a model wherever a folder in its cache holds genai_config.json and an inference_model.json with a
`Name`, and no download.tmp; it looks through folders of any depth, but not into a model's own (sdk_v2/cpp/src/catalog/
local_model_scanner.cc of microsoft/Foundry-Local). So a release is put into its cache as it is.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING

from phiforge import errors
from phiforge.packaging.layout import SUFFIX, variant_folders
from phiforge.release.destinations.chat_pieces import chat_pieces
from phiforge.release.destinations.disk import copy_tree, write_synced
from phiforge.release.destinations.existing import INFERENCE_MODEL, SEALS, package_folder, release_facts
from phiforge.release.layout import BILL, PROVENANCE

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

_LICENCE = "LICENSE"


def fill_foundry(prepared: Path, folder: Path, on_file: Callable[[str, int], None]) -> None:
    """Fill a new folder for Foundry Local, still without its seals.

    What is said of the package's own files, its bill of materials and its provenance, stays out: they lie elsewhere
    here.

    Args:
        prepared: The release folder.
        folder: The new folder.
        on_file: Told of each file: (name, bytes).

    Raises:
        DestinationError: A variant's chat template cannot be said in Foundry Local's terms, or its name is taken.
    """
    package = package_folder(prepared)
    facts = release_facts(prepared)
    model = facts.model if facts else package.name.removesuffix(SUFFIX)
    variants = variant_folders(package)
    models = {name: _inference_model(f"{model}-{name}", source) for name, source in variants.items()}
    folder.mkdir(parents=True)
    for path in sorted(prepared.iterdir()):
        if path == package or path.name in SEALS | {BILL, PROVENANCE}:
            continue
        if path.name in variants:
            raise errors.DestinationError(
                f"The variant {path.name} cannot have a folder of its name in a release.",
                why=f"The release itself has {path.name}.",
                fix="Release to another form of destination.",
            )
        _copy(path, folder / path.name, on_file)
    if (package / _LICENCE).is_file():
        _copy(package / _LICENCE, folder / _LICENCE, on_file)
    for name, source in variants.items():
        _copy(source, folder / name, on_file)
        write_synced(folder / name / INFERENCE_MODEL, models[name])


def _copy(source: Path, target: Path, on_file: Callable[[str, int], None]) -> None:
    if source.is_dir():
        copy_tree(source, target, lambda name, size: on_file(f"{target.name}/{name}", size))
        return
    write_synced(target, source.read_bytes())
    on_file(target.name, target.stat().st_size)


def _inference_model(name: str, variant: Path) -> bytes:
    content = {"Name": name, "PromptTemplate": asdict(chat_pieces(variant))}
    return (json.dumps(content, indent=1, ensure_ascii=False, sort_keys=True) + "\n").encode("utf-8")
