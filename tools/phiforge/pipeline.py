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
from phiforge.quantize.calibrated import CALIBRATED
from phiforge.quantize.mixed import MIXED_BITS, MIXED_RULES

if TYPE_CHECKING:
    from pathlib import Path

Bits = Literal[4, 8]
BlockSize = Literal[16, 32, 64, 128, 256]

# The rule that gives 8 bits to the tensors whose quantization is measured to cost most, under a budget of bits.
MEASURED = "measured"

ROTATE_PASS = "PhiforgeRotate"
QUANTIZE_PASS = "PhiforgeQuantize"
EXPORT_PASS = "PhiforgeExport"


class Options(BaseModel):
    """Base of pass options: frozen, unknown keys forbidden, no silent conversion."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class RotateOptions(Options):
    """Options of our rotation of the residual stream (QuaRot), which unties the embeddings."""

    type: Literal["PhiforgeRotate"]
    seed: Annotated[int, Field(ge=0)] = 0


class QuantizeOptions(Options):
    """Options of our weight quantizer.

    Tied embeddings share the head's codes, and `embedding_bits` speaks of untied ones only; with `shared_embeddings`
    false a tied table becomes two tensors. `search`, `act_order` and `damping` are GPTQ's. With `mixed: measured` there
    is a `target_bpw`, and a build fills in `int8_modules`. A build also fills in `calibration`, the file beside the
    workflow, and its hash.
    """

    type: Literal["PhiforgeQuantize"]
    algorithm: Annotated[str, Field(json_schema_extra={"enum": sorted([*ALGORITHMS, *CALIBRATED])})]
    bits: Bits
    block_size: BlockSize
    symmetric: bool
    per_channel: bool = False
    mixed: Annotated[str, Field(json_schema_extra={"enum": sorted([*MIXED_RULES, MEASURED])})] = "none"
    target_bpw: Annotated[float, Field(ge=4, le=10)] | None = None
    # JSON and YAML have lists, which strict checking would not take for a tuple.
    int8_modules: Annotated[tuple[str, ...], Field(strict=False)] = ()
    shared_embeddings: bool = True
    lm_head_bits: Bits = 8
    embedding_bits: Bits = 8
    act_order: bool = False
    damping: Annotated[float, Field(gt=0, le=1)] = 0.01
    search: Literal["rtn", "k-quant"] = "k-quant"
    calibration: str | None = None
    calibration_sha256: str | None = None
    calibration_tokens: Annotated[int, Field(ge=256)] = 16384

    @property
    def calibrated(self) -> bool:
        """Whether the algorithm needs calibration texts."""
        return self.algorithm in CALIBRATED


class ExportOptions(Options):
    """Options of our export pass, which drives the onnxruntime-genai builder without weights.

    `accuracy_level` is MatMulNBits' own: 4 multiplies in int8, 1 in float32. `max_length` caps the tokens of one
    conversation by default, because the runtime allocates its cache for all of them at once. `logits` says which
    positions of a prompt the head computes: a generation needs the last one only, drift needs all (`graph.twin`).
    """

    type: Literal["PhiforgeExport"]
    provider: Literal["cpu"]
    accuracy_level: Literal[1, 4] = 4
    max_length: Annotated[int, Field(ge=64)] = 4096
    logits: Literal["all", "last"] = "all"


class OliveOptions(BaseModel):
    """A pass of Olive's own: its type, and whatever it takes."""

    model_config = ConfigDict(extra="allow", frozen=True)

    type: str


def _pass_tag(value: Any) -> str:
    name = value.get("type") if isinstance(value, dict) else getattr(value, "type", None)
    return str(name) if name in {ROTATE_PASS, QUANTIZE_PASS, EXPORT_PASS} else "olive"


PassOptions = Annotated[
    Annotated[RotateOptions, Tag(ROTATE_PASS)]
    | Annotated[QuantizeOptions, Tag(QUANTIZE_PASS)]
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

    def rotate_options(self) -> RotateOptions | None:
        """The options of the rotate pass, None without one."""
        return next((options for options in self.passes.values() if isinstance(options, RotateOptions)), None)

    def with_quantize_options(self, **changes: object) -> Pipeline:
        """The same pipeline with other options of the quantize pass."""
        options = self.quantize_options()
        changed = options.model_copy(update=changes)
        passes = {name: changed if item is options else item for name, item in self.passes.items()}
        return self.model_copy(update={"passes": passes})

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
    order = [cls for cls in (RotateOptions, QuantizeOptions, ExportOptions) if cls in kinds]
    if kinds.count(RotateOptions) > 1:
        found.append(f"more than one {ROTATE_PASS} pass")
    if [kind for kind in kinds if kind in order] != order and not found:
        found.append(
            f"the passes stand in the wrong order: {QUANTIZE_PASS} needs what {ROTATE_PASS} makes, and {EXPORT_PASS} "
            f"what {QUANTIZE_PASS} makes"
        )
    return found + _quantize_faults(pipeline.quantize_options())


def _quantize_faults(options: QuantizeOptions) -> list[str]:
    found = []
    algorithms, rules = sorted([*ALGORITHMS, *CALIBRATED]), sorted([*MIXED_RULES, MEASURED])
    if options.algorithm not in algorithms:
        found.append(f"algorithm: {options.algorithm!r} is none of {', '.join(algorithms)}")
    if options.mixed not in rules:
        found.append(f"mixed: {options.mixed!r} is none of {', '.join(rules)}")
    if (options.mixed == MEASURED) != (options.target_bpw is not None):
        found.append(f"target_bpw: goes with mixed: {MEASURED}, and only with it")
    if options.int8_modules and options.mixed != MEASURED:
        found.append(f"int8_modules: goes with mixed: {MEASURED} only")
    if options.mixed == MEASURED and options.bits == MIXED_BITS:
        found.append(f"mixed: {MEASURED} chooses what gets {MIXED_BITS} bits, but bits is {MIXED_BITS} already")
    return found


def _invalid(path: Path, why: str) -> errors.PipelineInvalidError:
    return errors.PipelineInvalidError(
        f"The pipeline {path.name} is not valid.",
        why=why,
        fix="Correct the keys named; docs/pipelines.md lists every pass and key.",
    )
