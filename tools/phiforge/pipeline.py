"""The schema of one pipeline: a plain Olive workflow in `pipelines/`, minus what the plan owns.

The plan adds host, cache, output and the input model. Passes of ours are checked key by key; a pass of Olive's own is
handed on as it stands, because Olive checks it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, ValidationError

from phiforge import errors
from phiforge.providers import PROVIDERS
from phiforge.quantize.algorithms import ALGORITHMS
from phiforge.quantize.assign import EMBEDDING, LM_HEAD
from phiforge.quantize.calibrated import CALIBRATED
from phiforge.quantize.mixed import MIXED_BITS, MIXED_RULES

if TYPE_CHECKING:
    from pathlib import Path

Bits = Literal[4, 8]
BlockSize = Literal[16, 32, 64, 128, 256]
WindowTokens = Literal[64, 128]
CacheBits = Literal[8, 16]
Processor = Literal["cpu", "npu"]

# The rule that gives 8 bits to the tensors whose quantization is measured to cost most, under a budget of bits.
MEASURED = "measured"

ROTATE_PASS = "PhiforgeRotate"
QUANTIZE_PASS = "PhiforgeQuantize"
EXPORT_PASS = "PhiforgeExport"
CALIBRATE_PASS = "PhiforgeCalibrate"
STAGES_PASS = "PhiforgeStages"
COMPILE_PASS = "PhiforgeCompile"


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
    false a tied table becomes two tensors. `search`, `act_order` and `damping` are GPTQ's. `positive_scales` goes with
    symmetric codes. `smoothing` is the share of the down projection's outliers that moves into its weights, none by
    default; it needs an algorithm that is calibrated. With `mixed: measured` there
    is a `target_bpw`, and a build fills in `int8_modules`. A build also fills in `calibration`, the file beside the
    workflow, and its hash. `in_blocks` names what keeps a scale for every block where `per_channel` is set; for an NPU
    it is filled in with what the CPU runs.
    """

    type: Literal["PhiforgeQuantize"]
    algorithm: Annotated[str, Field(json_schema_extra={"enum": sorted([*ALGORITHMS, *CALIBRATED])})]
    bits: Bits
    block_size: BlockSize
    symmetric: bool
    per_channel: bool = False
    positive_scales: bool = False
    in_blocks: Annotated[tuple[Literal["lm_head", "model.embed_tokens"], ...], Field(strict=False)] = ()
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
    smoothing: Annotated[float, Field(ge=0, le=1)] | None = None
    calibration: str | None = None
    calibration_sha256: str | None = None
    calibration_tokens: Annotated[int, Field(ge=256)] = 16384

    @property
    def calibrated(self) -> bool:
        """Whether the algorithm needs calibration texts."""
        return self.algorithm in CALIBRATED


class ExportOptions(Options):
    """Options of our export pass, which drives the onnxruntime-genai builder without weights.

    `provider` is onnxruntime-genai's name of it, and `activations` the type of activations, cache, scales and norms:
    float32 on a CPU, float16 on a GPU. `embedding` says how the table is read: "quantized" by GatherBlockQuantized,
    "unpacked" by plain operators, for a provider that has no kernel for that. `accuracy_level` is MatMulNBits' own: 4
    multiplies in int8, 1 in float32; DirectML knows none. `max_length` caps the tokens of one
    conversation by default, because the runtime allocates its cache for all of them at once. `logits` says which
    positions of a prompt the head computes: a generation needs the last one only, drift needs all (`graph.twin`).
    """

    type: Literal["PhiforgeExport"]
    provider: Literal["cpu", "dml", "webgpu"]
    activations: Literal["float32", "float16"] = "float32"
    embedding: Literal["quantized", "unpacked"] = "quantized"
    accuracy_level: Literal[1, 4] = 4
    max_length: Annotated[int, Field(ge=64)] = 4096
    logits: Literal["all", "last"] = "all"


class CalibrateOptions(Options):
    """Options of our calibration, which runs the quantized decoder and records the ranges of its activations.

    A build fills in `calibration`, the file beside the workflow, and its hash.
    """

    type: Literal["PhiforgeCalibrate"]
    calibration: str | None = None
    calibration_sha256: str | None = None
    calibration_tokens: Annotated[int, Field(ge=64)] = 8192


class StagesOptions(Options):
    """Options of our writer of QDQ graphs of fixed shape, with the layers in `parts` one after another.

    A prefill graph takes `window_tokens` at once, and the cache holds `context_tokens`; None is as many as model and
    device hold. `attention`, `embedding` and `head` say where each runs, and `headroom` widens the activation ranges.
    A plan puts what the device's profile says in the place of window, cache bits and attention.
    """

    type: Literal["PhiforgeStages"]
    window_tokens: WindowTokens = 64
    context_tokens: Annotated[int, Field(ge=64)] | None = None
    parts: Annotated[int, Field(ge=1)] = 4
    kv_cache_bits: CacheBits = 16
    attention: Processor = "cpu"
    embedding: Processor = "cpu"
    head: Processor = "cpu"
    headroom: Annotated[float, Field(ge=1, le=2)] = 1.0


class CompileOptions(Options):
    """Options of our compiler pass; a plan fills in `soc_model` from the device's profile."""

    type: Literal["PhiforgeCompile"]
    provider: Literal["qnn"]
    soc_model: int | None = None
    optimization: Literal[1, 2, 3] = 3


class OliveOptions(BaseModel):
    """A pass of Olive's own: its type, and whatever it takes."""

    model_config = ConfigDict(extra="allow", frozen=True)

    type: str


# Set here and not left to defaults. With graph capture DirectML refuses a session of which a compute node would run on
# the CPU. WebGPU refuses graph capture where a graph has an If, as longrope's has: there it is asked where nodes run.
PROVIDER_OPTIONS: dict[str, dict[str, str]] = {
    "dml": {"enable_graph_capture": "1"},
    "webgpu": {"enableGraphCapture": "0", "validationMode": "basic"},
}
NPU_PASSES = (CALIBRATE_PASS, STAGES_PASS, COMPILE_PASS)
OWN_PASSES = (ROTATE_PASS, QUANTIZE_PASS, *NPU_PASSES, EXPORT_PASS)


def _pass_tag(value: Any) -> str:
    name = value.get("type") if isinstance(value, dict) else getattr(value, "type", None)
    return str(name) if name in OWN_PASSES else "olive"


PassOptions = Annotated[
    Annotated[RotateOptions, Tag(ROTATE_PASS)]
    | Annotated[QuantizeOptions, Tag(QUANTIZE_PASS)]
    | Annotated[ExportOptions, Tag(EXPORT_PASS)]
    | Annotated[CalibrateOptions, Tag(CALIBRATE_PASS)]
    | Annotated[StagesOptions, Tag(STAGES_PASS)]
    | Annotated[CompileOptions, Tag(COMPILE_PASS)]
    | Annotated[OliveOptions, Tag("olive")],
    Discriminator(_pass_tag),
]


_Found = TypeVar("_Found", bound=Options)


class Pipeline(BaseModel):
    """One pipeline: passes in the order they run."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    passes: Annotated[dict[str, PassOptions], Field(min_length=1)]

    def quantize_options(self) -> QuantizeOptions:
        """The options of the one quantize pass."""
        found = self._find(QuantizeOptions)
        assert found is not None
        return found

    def rotate_options(self) -> RotateOptions | None:
        """The options of the rotate pass, None without one."""
        return self._find(RotateOptions)

    def export_options(self) -> ExportOptions | None:
        """The options of the export pass, None in a pipeline for an NPU."""
        return self._find(ExportOptions)

    def calibrate_options(self) -> CalibrateOptions | None:
        """The options of the calibration of activations, None but for an NPU."""
        return self._find(CalibrateOptions)

    def stages_options(self) -> StagesOptions | None:
        """The options of the pass that writes graphs for an NPU, None but for one."""
        return self._find(StagesOptions)

    def compile_options(self) -> CompileOptions | None:
        """The options of the compiler pass, None but for an NPU."""
        return self._find(CompileOptions)

    @property
    def target(self) -> str:
        """What the pipeline builds for, as a profile calls it."""
        export = self.export_options()
        return PROVIDERS[export.provider].target if export else "qnn"

    @property
    def needs_calibration(self) -> bool:
        """Whether any of the passes uses calibration texts."""
        options = self.quantize_options()
        return options.calibrated or options.mixed == MEASURED or self.calibrate_options() is not None

    def with_quantize_options(self, **changes: object) -> Pipeline:
        """The same pipeline with other options of the quantize pass."""
        return self.with_options(QuantizeOptions, **changes)

    def with_options(self, kind: type[Options], **changes: object) -> Pipeline:
        """The same pipeline with other options of the pass whose options are of this kind, if it has one."""
        passes = {
            name: options.model_copy(update=changes) if isinstance(options, kind) else options
            for name, options in self.passes.items()
        }
        return self.model_copy(update={"passes": passes})

    def _find(self, kind: type[_Found]) -> _Found | None:
        return next((options for options in self.passes.values() if isinstance(options, kind)), None)


def load_pipeline(path: Path) -> Pipeline:
    """Read one pipeline (YAML, or JSON, which is YAML); its name is the file's stem.

    Raises:
        PipelineInvalidError: The file is no YAML, breaks the schema, or its passes are no way to a variant.
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
    return _with_ends_in_blocks(pipeline)


def _with_ends_in_blocks(pipeline: Pipeline) -> Pipeline:
    """Let the head and the table that the CPU runs keep their blocks: per channel is how an NPU wants its weights."""
    stages = pipeline.stages_options()
    if stages is None:
        return pipeline
    places = {LM_HEAD: stages.head, EMBEDDING: stages.embedding}
    return pipeline.with_quantize_options(in_blocks=tuple(name for name, place in places.items() if place == "cpu"))


def _faults(pipeline: Pipeline) -> list[str]:
    names = [options.type for options in pipeline.passes.values() if options.type in OWN_PASSES]
    found = _missing_faults(names)
    if found:
        return found
    if names.count(ROTATE_PASS) > 1:
        found.append(f"more than one {ROTATE_PASS} pass")
    order = [name for name in OWN_PASSES if name in names]
    if names != order and not found:
        found.append(
            f"the passes stand in the wrong order: each needs what the one before it makes, and so the order is "
            f"{', '.join(order)}"
        )
    if STAGES_PASS in names and not pipeline.quantize_options().symmetric:
        found.append("symmetric: must be true for an NPU, because QNN's weights have no zero points")
    if STAGES_PASS in names and not pipeline.quantize_options().positive_scales:
        found.append("positive_scales: must be true for an NPU, because QNN takes a negative scale for its magnitude")
    return found + _quantize_faults(pipeline.quantize_options()) + _export_faults(pipeline.export_options())


def _export_faults(options: ExportOptions | None) -> list[str]:
    """What the builder's graphs cannot be: it fuses attention in float32 on the CPU, in float16 for DirectML."""
    if options is None:
        return []
    wrong = {"cpu": "float16", "dml": "float32"}.get(options.provider)
    if options.activations == wrong:
        return [
            f"activations: {wrong} is not for the provider {options.provider}, whose attention has no kernel for it"
        ]
    return []


def _missing_faults(names: list[str]) -> list[str]:
    """What is missing or too many: one quantize pass, and one way to end, for the CPU or for an NPU."""
    found = [] if names.count(QUANTIZE_PASS) == 1 else [f"exactly one {QUANTIZE_PASS} pass is needed"]
    for_npu = [name for name in NPU_PASSES if name in names]
    listed = ", ".join(NPU_PASSES)
    if EXPORT_PASS in names and for_npu:
        found.append(f"{EXPORT_PASS} is for CPUs and GPUs, {', '.join(for_npu)} for an NPU; a pipeline ends in one way")
    elif for_npu:
        wrong = [name for name in NPU_PASSES if names.count(name) != 1]
        found += [f"exactly one {name} pass is needed: an NPU's pipeline has {listed}" for name in wrong]
    elif names.count(EXPORT_PASS) != 1:
        found.append(f"exactly one {EXPORT_PASS} pass is needed, or for an NPU the passes {listed}")
    return found


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
    if options.smoothing is not None and not options.calibrated:
        found.append("smoothing: needs an algorithm that is calibrated")
    if options.mixed == MEASURED and options.bits == MIXED_BITS:
        found.append(f"mixed: {MEASURED} chooses what gets {MIXED_BITS} bits, but bits is {MIXED_BITS} already")
    return found


def _invalid(path: Path, why: str) -> errors.PipelineInvalidError:
    return errors.PipelineInvalidError(
        f"The pipeline {path.name} is not valid.",
        why=why,
        fix="Correct the keys named; docs/pipelines.md lists every pass and key.",
    )
