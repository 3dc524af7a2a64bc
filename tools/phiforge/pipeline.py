"""The schema of one pipeline: a plain Olive workflow in `pipelines/`, minus what the plan owns.

The plan adds host, cache, output and the input model. Passes of ours are checked key by key; a pass of Olive's own is
handed on as it stands, because Olive checks it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, ValidationError

from phiforge import errors
from phiforge.quantize.algorithms import ALGORITHMS
from phiforge.quantize.mixed import MIXED_RULES

if TYPE_CHECKING:
    from pathlib import Path

Bits = Literal[4, 8]
BlockSize = Literal[16, 32, 64, 128, 256]

QUANTIZE_PASS = "PhiforgeQuantize"
EXPORT_PASS = "PhiforgeExport"


class Options(BaseModel):
    """Base of pass options: frozen, unknown keys forbidden, no silent conversion."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class QuantizeOptions(Options):
    """Options of our streamed weight quantizer.

    `embedding_bits` speaks of untied embeddings only; tied ones share the head's codes.
    """

    type: Literal["PhiforgeQuantize"]
    algorithm: Annotated[str, Field(json_schema_extra={"enum": sorted(ALGORITHMS)})]
    bits: Bits
    block_size: BlockSize
    symmetric: bool
    mixed: Annotated[str, Field(json_schema_extra={"enum": sorted(MIXED_RULES)})] = "none"
    lm_head_bits: Bits = 8
    embedding_bits: Bits = 8


class ExportOptions(Options):
    """Options of our export pass, which drives the onnxruntime-genai builder without weights.

    `accuracy_level` is MatMulNBits' own: 4 multiplies in int8, 1 in float32. `max_length` caps the tokens of one
    conversation by default, because the runtime allocates its cache for all of them at once.
    """

    type: Literal["PhiforgeExport"]
    provider: Literal["cpu"]
    accuracy_level: Literal[1, 4] = 4
    max_length: Annotated[int, Field(ge=64)] = 4096


class OliveOptions(BaseModel):
    """A pass of Olive's own: its type, and whatever it takes."""

    model_config = ConfigDict(extra="allow", frozen=True)

    type: str


def _pass_tag(value: Any) -> str:
    name = value.get("type") if isinstance(value, dict) else getattr(value, "type", None)
    return str(name) if name in {QUANTIZE_PASS, EXPORT_PASS} else "olive"


PassOptions = Annotated[
    Annotated[QuantizeOptions, Tag(QUANTIZE_PASS)]
    | Annotated[ExportOptions, Tag(EXPORT_PASS)]
    | Annotated[OliveOptions, Tag("olive")],
    Discriminator(_pass_tag),
]


class Pipeline(BaseModel):
    """One pipeline: passes in the order they run."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    passes: Annotated[dict[str, PassOptions], Field(min_length=1)]

    def quantize_options(self) -> QuantizeOptions:
        """The options of the one quantize pass."""
        return next(options for options in self.passes.values() if isinstance(options, QuantizeOptions))

    def export_options(self) -> ExportOptions:
        """The options of the one export pass."""
        return next(options for options in self.passes.values() if isinstance(options, ExportOptions))


def load_pipeline(path: Path) -> Pipeline:
    """Read one pipeline (YAML, or JSON, which is YAML); its name is the file's stem.

    Raises:
        PipelineInvalidError: The file is no YAML, breaks the schema, or lacks a quantize or an export pass.
    """
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
        pipeline = Pipeline.model_validate({"name": path.stem, **(data if isinstance(data, dict) else {})})
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise _invalid(path, " ".join(str(error).split())) from error
    except ValidationError as error:
        faults = "; ".join(f"{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in error.errors())
        raise _invalid(path, faults) from error
    faults = "; ".join(_faults(pipeline))
    if faults:
        raise _invalid(path, faults)
    return pipeline


def _faults(pipeline: Pipeline) -> list[str]:
    kinds = [type(options) for options in pipeline.passes.values()]
    found = [
        f"exactly one {kind} pass is needed"
        for kind, cls in ((QUANTIZE_PASS, QuantizeOptions), (EXPORT_PASS, ExportOptions))
        if kinds.count(cls) != 1
    ]
    if found:
        return found
    if kinds.index(QuantizeOptions) > kinds.index(ExportOptions):
        return [f"the {EXPORT_PASS} pass comes before the {QUANTIZE_PASS} pass, which makes what it exports"]
    options = pipeline.quantize_options()
    if options.algorithm not in ALGORITHMS:
        found.append(f"algorithm: {options.algorithm!r} is none of {', '.join(sorted(ALGORITHMS))}")
    if options.mixed not in MIXED_RULES:
        found.append(f"mixed: {options.mixed!r} is none of {', '.join(sorted(MIXED_RULES))}")
    return found


def _invalid(path: Path, why: str) -> errors.PipelineInvalidError:
    return errors.PipelineInvalidError(
        f"The pipeline {path.name} is not valid.",
        why=why,
        fix="Correct the keys named; docs/pipelines.md lists every pass and key.",
    )
