"""Resolve what a build will do, before it does it: pure, from facts to a frozen plan with content hashes.

Sizes are exact, since every tensor's shape and quantization is known. Memory and time are predicted by
`phiforge.needs`.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from phiforge import errors
from phiforge.checkpoint.tensors import expected_tensors
from phiforge.devices import DevicePlan, pipeline_costs, plan_device
from phiforge.hashing import content_key
from phiforge.needs import Preflight, predict
from phiforge.parts import fitting_parts, layer_bytes
from phiforge.pipeline import MEASURED, CalibrateOptions, CompileOptions, QuantizeOptions, StagesOptions
from phiforge.quantize.assign import assign_specs

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from phiforge.checkpoint.config import ModelConfig
    from phiforge.checkpoint.inspect import CheckpointFacts
    from phiforge.pipeline import Pipeline
    from phiforge.quantize.spec import QuantSpec
    from phiforge.target import Npu, Profile

WORKFLOW_CHECKPOINT = "checkpoint"
WORKFLOW_OUTPUT = "variant"


@dataclass(frozen=True, kw_only=True)
class WeightPlan:
    """What one module's weight becomes, with scales of `scale_bytes` each.

    `row_scales` says that a per-channel one is stored with one scale a row.
    """

    module: str
    rows: int
    columns: int
    spec: QuantSpec
    row_scales: bool = False
    scale_bytes: int = 4

    @property
    def weights(self) -> int:
        """Number of weights."""
        return self.rows * self.columns

    @property
    def stored_bytes(self) -> int:
        """Bytes of codes, scales and packed zero points."""
        one_scale = self.row_scales and self.spec.per_channel
        blocks = 1 if one_scale else self.columns // self.spec.block_size
        zero_points = 0 if self.spec.symmetric else self.rows * -(-blocks * self.spec.bits // 8)
        return self.weights * self.spec.bits // 8 + self.rows * blocks * self.scale_bytes + zero_points


@dataclass(frozen=True, kw_only=True)
class NpuPlan:
    """What is compiled for an NPU; `parts` are the layers of each binary as (start, stop)."""

    soc_model: int
    architecture: str
    confirmed: bool
    context_tokens: int
    window_tokens: int
    kv_cache_bits: int
    attention: str
    parts: tuple[tuple[int, int], ...]


@dataclass(frozen=True, kw_only=True)
class VariantPlan:
    """One variant: a pipeline resolved for a checkpoint, and the profiles that share it; `npu` if it is for an NPU.

    `devices` has what is predicted of each profile's device.
    """

    name: str
    profiles: tuple[str, ...]
    provider: str
    device: str
    algorithm: str
    tied: bool
    calibrated: bool
    workflow: Mapping[str, Any]
    weights: tuple[WeightPlan, ...]
    float_bytes: int
    norm_weights: int
    key: str
    npu: NpuPlan | None = None
    devices: tuple[DevicePlan, ...] = ()

    @property
    def weight_bytes(self) -> int:
        """Bytes of all weights in the variant."""
        return sum(weight.stored_bytes for weight in self.weights) + self.float_bytes

    @property
    def bits_per_weight(self) -> float:
        """Bits stored for each weight, scales and zero points included."""
        return 8 * self.weight_bytes / (sum(weight.weights for weight in self.weights) + self.norm_weights)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Everything a build will do; `published` is the known model that the checkpoint is, None where it is none."""

    model: str
    family: str
    published: str | None = None
    fingerprint: str
    parameter_count: int
    checkpoint_bytes: int
    variants: tuple[VariantPlan, ...]
    toolchain: Mapping[str, str]
    preflight: Preflight

    def as_dict(self, variant: str) -> dict[str, Any]:
        """The part of the plan that concerns one variant, as plain JSON values."""
        return asdict(replace(self, variants=tuple(item for item in self.variants if item.name == variant)))


def resolve(
    facts: CheckpointFacts,
    fingerprint: str,
    profiles: Sequence[Profile],
    pipelines: Mapping[str, Pipeline],
    toolchain: Mapping[str, str],
) -> Plan:
    """Return the plan: one variant for each pipeline that the profiles name, and for each NPU it is compiled for.

    Args:
        facts: The checkpoint, inspected.
        fingerprint: Hash of the checkpoint's files.
        profiles: Device profiles to build for.
        pipelines: The profiles' pipelines, by the name each profile gives.
        toolchain: Versions of everything that shapes the result.

    Raises:
        PipelineInvalidError: A pipeline does not fit the checkpoint or the device, or two variants would be selected
            alike.
        ContextTooLongError: A pipeline asks for more context than the model or the device holds.
    """
    groups: dict[tuple[str, str], list[Profile]] = defaultdict(list)
    for profile in profiles:
        groups[profile.build.pipeline, _npu_key(profile)].append(profile)
    completed = [
        (group, *complete_for_npu(facts.config, pipelines[name], group)) for (name, _), group in sorted(groups.items())
    ]
    variants = tuple(_variant(facts, fingerprint, *item, toolchain) for item in completed)
    _refuse_ties(variants)
    needs = [
        (pipeline, item.weights, item.float_bytes) for (_, pipeline, _), item in zip(completed, variants, strict=True)
    ]
    return Plan(
        model=facts.name,
        family=facts.family,
        published=facts.model_name,
        fingerprint=fingerprint,
        parameter_count=facts.parameter_count,
        checkpoint_bytes=facts.weight_bytes,
        variants=variants,
        toolchain=dict(toolchain),
        preflight=predict(facts.config, needs),
    )


def plan_weights(
    config: ModelConfig, options: QuantizeOptions, *, row_scales: bool = False, scale_bytes: int = 4
) -> tuple[WeightPlan, ...]:
    """What every weight of the checkpoint becomes under these options; `row_scales` as in an NPU's graphs."""
    shapes = {
        name.removesuffix(".weight"): (shape[0], shape[1])
        for name, shape in expected_tensors(config).items()
        if len(shape) == 2
    }
    specs = assign_specs(
        shapes,
        layer_count=config.layer_count,
        bits=options.bits,
        block_size=options.block_size,
        symmetric=options.symmetric,
        per_channel=options.per_channel,
        positive_scales=options.positive_scales,
        in_blocks=options.in_blocks,
        mixed="none" if options.mixed == MEASURED else options.mixed,
        int8_modules=options.int8_modules,
        lm_head_bits=options.lm_head_bits,
        embedding_bits=options.lm_head_bits if config.tied_embeddings else options.embedding_bits,
    )
    return tuple(
        WeightPlan(
            module=name,
            rows=shapes[name][0],
            columns=shapes[name][1],
            spec=spec,
            row_scales=row_scales,
            scale_bytes=scale_bytes,
        )
        for name, spec in specs.items()
    )


def exported_config(config: ModelConfig, pipeline: Pipeline) -> ModelConfig:
    """The configuration of what the pipeline exports: a rotation folds the last norm into the head, which unties it."""
    shared = pipeline.quantize_options().shared_embeddings and not pipeline.rotate_options()
    return config if shared else replace(config, tied_embeddings=False)


def complete_for_npu(
    config: ModelConfig, pipeline: Pipeline, profiles: Sequence[Profile]
) -> tuple[Pipeline, NpuPlan | None]:
    """Return the pipeline with what only profile and model can tell, and what is compiled; no NPU, nothing changed.

    Args:
        config: The checkpoint's configuration.
        pipeline: For an NPU or not.
        profiles: Those that share the variant; their tables `npu` compile the same.

    Raises:
        PipelineInvalidError: Pipeline and profiles are not for the same kind of device, the context is no multiple of
            the window, or a layer is larger than a binary may be.
        ContextTooLongError: The pipeline asks for more context than the model or the device holds.
    """
    table, stages = profiles[0].npu, pipeline.stages_options()
    if pipeline.target != profiles[0].build.target:
        raise errors.PipelineInvalidError(
            f"The pipeline {pipeline.name} does not fit the profile {profiles[0].name}.",
            why=f"The pipeline builds for {pipeline.target}, and the profile wants {profiles[0].build.target}.",
            fix="Choose another pipeline with --pipeline, or another profile; `phiforge targets` lists them.",
        )
    if table is None or stages is None:
        return pipeline, None
    plan = NpuPlan(
        soc_model=table.soc_model,
        architecture=table.architecture,
        confirmed=all(profile.npu is not None and profile.npu.confirmed for profile in profiles),
        context_tokens=_context_tokens(config, stages.context_tokens, table, profiles[0].name),
        window_tokens=table.window_tokens,
        kv_cache_bits=table.kv_cache_bits,
        attention=table.attention,
        parts=_parts(config, pipeline, stages.parts, table),
    )
    return _with_npu(pipeline, plan, table.calibration_tokens), plan


def norm_weights(config: ModelConfig) -> int:
    """Weights of the norms, which stay floats."""
    return sum(shape[0] for shape in expected_tensors(config).values() if len(shape) == 1)


def float_bytes(pipeline: Pipeline) -> int:
    """Bytes of each scale and each norm's weight in what the pipeline builds."""
    export = pipeline.export_options()
    return 2 if export and export.activations == "float16" else 4


def resolved_workflow(pipeline: Pipeline) -> dict[str, Any]:
    """The pipeline as a complete Olive workflow, free of this machine's paths.

    `olive run --run-config workflow.json --package-config olive-package.json -m CHECKPOINT -o FOLDER` runs it.
    """
    return {
        "input_model": {"type": "HfModel", "model_path": WORKFLOW_CHECKPOINT, "task": "text-generation"},
        "systems": {
            "host": {
                "type": "LocalSystem",
                "accelerators": [{"device": "cpu", "execution_providers": ["CPUExecutionProvider"]}],
            }
        },
        "passes": {name: options.model_dump(mode="json") for name, options in pipeline.passes.items()},
        "host": "host",
        "target": "host",
        "cache_dir": "cache",
        "output_dir": WORKFLOW_OUTPUT,
        "evaluate_input_model": False,
        "log_severity_level": 1,
    }


def _variant(
    facts: CheckpointFacts,
    fingerprint: str,
    profiles: Sequence[Profile],
    pipeline: Pipeline,
    npu: NpuPlan | None,
    toolchain: Mapping[str, str],
) -> VariantPlan:
    workflow = resolved_workflow(pipeline)
    config = exported_config(facts.config, pipeline)
    floats, norms = float_bytes(pipeline), norm_weights(config)
    weights = plan_weights(config, pipeline.quantize_options(), row_scales=npu is not None, scale_bytes=floats)
    calibrated = [options for options in (pipeline.quantize_options(), pipeline.calibrate_options()) if options]
    costs = pipeline_costs(config, pipeline, weights, floats * norms)
    context = npu.context_tokens if npu else None
    return VariantPlan(
        name=pipeline.name,
        profiles=tuple(profile.name for profile in profiles),
        provider=profiles[0].runtime.provider,
        device=profiles[0].runtime.device,
        algorithm=pipeline.quantize_options().algorithm,
        tied=config.tied_embeddings,
        calibrated=any(options.calibration is not None for options in calibrated),
        workflow=workflow,
        weights=weights,
        float_bytes=floats * norms,
        norm_weights=norms,
        key=content_key([fingerprint, workflow, dict(toolchain)]),
        npu=npu,
        devices=tuple(plan_device(profile, costs, config.max_positions, context) for profile in profiles),
    )


def _npu_key(profile: Profile) -> str:
    """What must be alike in two profiles for one NPU binary to serve both; how sure it is does not change the bytes."""
    return "" if profile.npu is None else profile.npu.model_dump_json(exclude={"confirmed", "source"})


def _context_tokens(config: ModelConfig, asked: int | None, table: Npu, profile: str) -> int:
    """Tokens that the cache holds: as asked for, or as many whole windows as both model and device hold."""
    held = config.original_max_positions if config.rope_kind == "longrope" else config.max_positions
    assert held is not None
    wanted = asked or min(table.context_tokens, held) // table.window_tokens * table.window_tokens
    if max(wanted, table.window_tokens) > min(held, table.context_tokens):
        raise errors.ContextTooLongError(
            f"A context of {max(wanted, table.window_tokens):,} tokens is more than the graphs can hold.",
            why=f"One rotary table of the model holds {held:,} positions, and the profile {profile} holds "
            f"{table.context_tokens:,} tokens. The graphs have fixed shapes and one rotary table.",
            fix=f"Ask for {min(held, table.context_tokens):,} tokens at most, or for none, which takes what fits.",
        )
    if wanted % table.window_tokens:
        raise errors.PipelineInvalidError(
            f"A context of {wanted:,} tokens cannot be built for {profile}.",
            why=f"Its prefill takes {table.window_tokens} tokens at once, so the context must be a multiple of that.",
            fix=f"Ask for {wanted // table.window_tokens * table.window_tokens:,} tokens.",
        )
    return wanted


def _parts(config: ModelConfig, pipeline: Pipeline, parts: int, table: Npu) -> tuple[tuple[int, int], ...]:
    """The layers of each binary."""
    weights = plan_weights(exported_config(config, pipeline), pipeline.quantize_options(), row_scales=True)
    sizes = layer_bytes(weights)
    if max(sizes) > table.part_bytes_max:
        raise errors.PipelineInvalidError(
            f"The pipeline {pipeline.name} does not fit binaries of at most {table.part_bytes_max:,} bytes of weights.",
            why=f"One layer has {max(sizes):,} bytes of weights, and a layer cannot be divided.",
            fix="Choose fewer bits, or raise part_bytes_max in the profile if the device can hold more.",
        )
    return fitting_parts(sizes, parts, table.part_bytes_max)


def _with_npu(pipeline: Pipeline, plan: NpuPlan, calibration_tokens: int | None) -> Pipeline:
    """The pipeline with the profile's values in the place of its own."""
    pipeline = pipeline.with_options(
        StagesOptions,
        window_tokens=plan.window_tokens,
        context_tokens=plan.context_tokens,
        parts=len(plan.parts),
        kv_cache_bits=plan.kv_cache_bits,
        attention=plan.attention,
    ).with_options(CompileOptions, soc_model=plan.soc_model)
    if calibration_tokens is None:
        return pipeline
    for kind in (QuantizeOptions, CalibrateOptions):
        pipeline = pipeline.with_options(kind, calibration_tokens=calibration_tokens)
    return pipeline


def _refuse_ties(variants: Sequence[VariantPlan]) -> None:
    """A runtime that finds two variants for one provider and device takes the first, whatever was meant."""
    seen: dict[tuple[str, str], VariantPlan] = {}
    for variant in variants:
        other = seen.setdefault((variant.provider, variant.device), variant)
        if other is not variant:
            named = " and ".join(f"{item.name} for {', '.join(item.profiles)}" for item in (other, variant))
            raise errors.PipelineInvalidError(
                f"The variants {named} would both be for {variant.provider} on {variant.device}.",
                why="A runtime selects a variant of a package by provider and device alone.",
                fix="Build them into packages of their own, with another --output for each.",
            )
