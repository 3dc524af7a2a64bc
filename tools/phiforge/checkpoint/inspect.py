"""Everything there is to know of a checkpoint before a build, and a fingerprint that changes when a build would."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from phiforge.checkpoint.config import ModelConfig, load_config
from phiforge.checkpoint.family import Model, family_of, identify
from phiforge.checkpoint.tensors import check_finite, check_tensors, expected_tensors
from phiforge.checkpoint.tokenizer import TokenizerFacts, check_tokenizer, read_chat_template, tokenizer_files
from phiforge.checkpoint.weights import (
    INDEX_FILE,
    SINGLE_FILE,
    TensorInfo,
    open_weights,
    tensor_bytes,
    weight_files,
)
from phiforge.hashing import hash_file, hash_listing

_CONFIG_FILES = ("config.json", "generation_config.json")
_LICENCE_STEMS = ("LICENSE", "LICENCE")


@dataclass(frozen=True, kw_only=True)
class CheckpointFacts:
    """A checkpoint that passed every check.

    Attributes:
        folder: Where it lies.
        name: The folder's own name.
        family: A name of `FAMILIES`, or "phi3".
        models: The published model it is; several where nothing tells them apart, none where it is no known one.
        config: Its configuration.
        parameter_count: Weights of the model; a tied embedding counts once.
        weight_bytes: Bytes of these weights as stored.
        tensors: The tensors of the model, in the order of the files.
        ignored_tensors: Names of stored tensors that are no part of the model.
        tokenizer: Facts of its tokenizer.
        files: Name and size in bytes of every file that matters to a build, sorted by name.
        licence_file: Name of the licence, None when there is none.
    """

    folder: Path
    name: str
    family: str
    models: tuple[Model, ...]
    config: ModelConfig
    parameter_count: int
    weight_bytes: int
    tensors: tuple[TensorInfo, ...]
    ignored_tensors: tuple[str, ...]
    tokenizer: TokenizerFacts
    files: tuple[tuple[str, int], ...]
    licence_file: str | None

    @property
    def model_name(self) -> str | None:
        """The published model's name, "A or B" where nothing tells two apart, None for no known model."""
        return " or ".join(model.name for model in self.models) or None


def inspect_checkpoint(folder: Path, *, scan: bool = True) -> CheckpointFacts:
    """Checks a checkpoint and gathers its facts; the quick checks come first.

    Args:
        folder: The checkpoint.
        scan: Whether to read all weights and check that they are finite. This takes as long as reading the files.

    Raises:
        PhiforgeError: The first check that fails; the classes of `load_config`, `open_weights`, `check_tensors`,
            `check_tokenizer` and `check_finite`.
    """
    config = load_config(folder)
    weights = open_weights(folder)
    ignored = check_tensors(config, weights)
    tokenizer = check_tokenizer(folder, config)
    names = [name for name in weights.names if name not in ignored]
    if scan:
        check_finite(weights, names)
    tensors = tuple(weights.info(name) for name in names)
    files = build_files(folder)
    name = folder.resolve().name
    return CheckpointFacts(
        folder=folder,
        name=name,
        family=family_of(config),
        models=identify(config, name=name, chat_template=read_chat_template(folder)),
        config=config,
        parameter_count=sum(math.prod(shape) for shape in expected_tensors(config).values()),
        weight_bytes=sum(tensor_bytes(info) for info in tensors),
        tensors=tensors,
        ignored_tensors=ignored,
        tokenizer=tokenizer,
        files=tuple((path.name, path.stat().st_size) for path in files),
        licence_file=next((path.name for path in files if _is_licence(path)), None),
    )


def fingerprint(folder: Path) -> str:
    """Gives one SHA-256 over the files that matter to a build, by name and content.

    Two copies of a checkpoint have the same fingerprint wherever they lie and whenever they were written; files that no
    build reads, such as a README, do not count. Reads all weights.

    Raises:
        CheckpointNotFoundError, PickleWeightsError, TensorMissingError, UnsafePathError, WeightsDuplicateError,
            WeightsHeaderError: The weights files cannot be listed.
    """
    return hash_listing({path.name: hash_file(path) for path in build_files(folder)})


def build_files(folder: Path) -> tuple[Path, ...]:
    """Lists the files that matter to a build, sorted by name: configuration, weights, tokenizer and licence.

    Raises:
        CheckpointNotFoundError, PickleWeightsError, TensorMissingError, UnsafePathError, WeightsDuplicateError,
            WeightsHeaderError: The weights files cannot be listed.
    """
    files = {*weight_files(folder), *tokenizer_files(folder)}
    index = (INDEX_FILE,) if not (folder / SINGLE_FILE).is_file() else ()
    files |= {folder / name for name in (*_CONFIG_FILES, *index) if (folder / name).is_file()}
    files |= {path for path in folder.iterdir() if _is_licence(path)}
    return tuple(sorted(files, key=lambda path: path.name))


def _is_licence(path: Path) -> bool:
    return path.stem.upper() in _LICENCE_STEMS and path.is_file()
