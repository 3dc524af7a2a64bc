"""The record beside a built variant: what it is and what it was made of, for every verb after the build."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict, ValidationError

from phiforge import errors

if TYPE_CHECKING:
    from pathlib import Path

RECORD_FILE = "variant.json"
GENAI_CONFIG = "genai_config.json"
PLAN_FILE = "plan.json"
WORKFLOW_FILE = "workflow.json"
MODEL_FOLDER = "model"
# What stays with the build of an NPU variant: the twin that an x86 host can load, the graphs before they were compiled,
# which the CPU runs, and the calibrated checkpoint they were made of. What was compiled is told in a file.
TWIN_FOLDER, QDQ_FOLDER, CALIBRATED_FOLDER = "twin", "qdq", "calibrated"
NPU_FILE = "npu.json"
# The texts a variant was calibrated on. They stay with the build and are not packaged, since they may not be public.
CALIBRATION_FILE = "calibration.jsonl"


class Facts(BaseModel):
    """Base of the record's objects: frozen, unknown keys forbidden."""

    model_config = ConfigDict(extra="forbid", frozen=True, ser_json_inf_nan="constants")


class CheckpointFacts(Facts):
    """The checkpoint a variant was built from."""

    name: str
    family: str
    fingerprint: str
    parameters: int
    bytes: int


class WeightGroup(Facts):
    """Weights of one role stored alike, as "attention qkv"; no block size or symmetry where they are not quantized."""

    group: str
    tensors: int
    bits: int
    block_size: int | None = None
    symmetric: bool | None = None
    bytes: int
    bits_per_weight: float


class TensorFacts(Facts):
    """An input or output of a compiled graph; a quantized one stands for (code - zero point) * scale."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    scale: float | None = None
    zero_point: int | None = None


class CompiledGraph(Facts):
    """One graph in a binary of the NPU; `tokens` is how many it takes at once."""

    file: str
    binary: str
    tokens: int
    inputs: tuple[TensorFacts, ...]
    outputs: tuple[TensorFacts, ...]


class BinaryFile(Facts):
    """One binary of the NPU; `shared` says that graphs of different lengths use one copy of the weights."""

    file: str
    bytes: int
    sha256: str
    shared: bool


class NpuFacts(Facts):
    """What was compiled for an NPU. The twin's binaries stay with the build: an x86 host can load those alone."""

    sdk_version: str
    soc_model: int
    confirmed: bool
    attention: str
    kv_cache_bits: int
    window_tokens: int
    context_tokens: int
    graphs: tuple[CompiledGraph, ...]
    binaries: tuple[BinaryFile, ...]
    twin_binaries: tuple[BinaryFile, ...]


class VariantRecord(Facts):
    """One built variant; `sha256` is over its files, `key` over everything that decided them."""

    name: str
    key: str
    sha256: str
    bytes: int
    bits_per_weight: float
    provider: str
    device: str
    checkpoint: CheckpointFacts
    options: dict[str, str]
    operators: dict[str, int]
    weights: tuple[WeightGroup, ...]
    toolchain: dict[str, str]
    npu: NpuFacts | None = None


def load_record(folder: Path) -> VariantRecord:
    """Read the record of a built variant from its stage folder.

    Raises:
        VariantUnusableError: There is no such record, or it cannot be read.
    """
    try:
        return VariantRecord.model_validate_json((folder / RECORD_FILE).read_bytes())
    except (OSError, ValidationError) as error:
        raise errors.VariantUnusableError(
            f"{folder} is no built variant.",
            why=" ".join(str(error).split())[:300],
            fix="Give a folder that `phiforge build` made: it holds variant.json and model/.",
        ) from error


def context_of(variant: Path) -> int:
    """Return the most tokens of a sequence that a variant takes, as its folder says.

    Raises:
        VariantUnusableError: Its genai_config.json does not say so.
    """
    try:
        config = json.loads((variant / GENAI_CONFIG).read_text(encoding="utf-8"))
        return int(config["model"]["context_length"])
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise errors.VariantUnusableError(
            f"The variant {variant.name} does not say how much context it has.",
            why=f"{GENAI_CONFIG} is not valid: {error!r}.",
            fix="Build it again with `phiforge build`, or copy the whole folder again.",
        ) from error
