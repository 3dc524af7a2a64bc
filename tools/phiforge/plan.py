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
from phiforge.hashing import content_key
from phiforge.needs import Preflight, predict
from phiforge.pipeline import MEASURED
from phiforge.quantize.assign import assign_specs

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from phiforge.checkpoint.config import ModelConfig
    from phiforge.checkpoint.inspect import CheckpointFacts
    from phiforge.pipeline import Pipeline, QuantizeOptions
    from phiforge.quantize.spec import QuantSpec
    from phiforge.target import Profile

WORKFLOW_CHECKPOINT = "checkpoint"
WORKFLOW_OUTPUT = "variant"


@dataclass(frozen=True, kw_only=True)
class WeightPlan:
    """What one module's weight becomes."""

    module: str
    rows: int
    columns: int
    spec: QuantSpec

    @property
    def weights(self) -> int:
        """Number of weights."""
        return self.rows * self.columns

    @property
    def stored_bytes(self) -> int:
        """Bytes of codes, float32 scales and packed zero points."""
        blocks = self.columns // self.spec.block_size
        zero_points = 0 if self.spec.symmetric else self.rows * -(-blocks * self.spec.bits // 8)
        return self.weights * self.spec.bits // 8 + self.rows * blocks * 4 + zero_points


@dataclass(frozen=True, kw_only=True)
class VariantPlan:
    """One variant: a pipeline resolved for a checkpoint, and the profiles that share it."""

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
    key: str

    @property
    def weight_bytes(self) -> int:
        """Bytes of all weights in the variant."""
        return sum(weight.stored_bytes for weight in self.weights) + self.float_bytes

    @property
    def bits_per_weight(self) -> float:
        """Bits stored for each weight, scales and zero points included."""
        return 8 * self.weight_bytes / (sum(weight.weights for weight in self.weights) + self.float_bytes // 4)


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
    """Return the plan: one variant for each pipeline that the profiles name.

    Args:
        facts: The checkpoint, inspected.
        fingerprint: Hash of the checkpoint's files.
        profiles: Device profiles to build for.
        pipelines: The profiles' pipelines, by the name each profile gives.
        toolchain: Versions of everything that shapes the result.

    Raises:
        PipelineInvalidError: A pipeline does not fit the checkpoint, or two variants would be selected alike.
    """
    groups: dict[str, list[Profile]] = defaultdict(list)
    for profile in profiles:
        groups[profile.build.pipeline].append(profile)
    variants = tuple(
        _variant(facts, fingerprint, group, pipelines[name], toolchain) for name, group in sorted(groups.items())
    )
    _refuse_ties(variants)
    return Plan(
        model=facts.name,
        family=facts.family,
        published=facts.model_name,
        fingerprint=fingerprint,
        parameter_count=facts.parameter_count,
        checkpoint_bytes=facts.weight_bytes,
        variants=variants,
        toolchain=dict(toolchain),
        preflight=predict(facts.config, [(pipelines[item.name], item.weights, item.float_bytes) for item in variants]),
    )


def plan_weights(config: ModelConfig, options: QuantizeOptions) -> tuple[WeightPlan, ...]:
    """What every weight of the checkpoint becomes under these options."""
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
        mixed="none" if options.mixed == MEASURED else options.mixed,
        int8_modules=options.int8_modules,
        lm_head_bits=options.lm_head_bits,
        embedding_bits=options.lm_head_bits if config.tied_embeddings else options.embedding_bits,
    )
    return tuple(
        WeightPlan(module=name, rows=shapes[name][0], columns=shapes[name][1], spec=spec)
        for name, spec in specs.items()
    )


def exported_config(config: ModelConfig, pipeline: Pipeline) -> ModelConfig:
    """The configuration of what the pipeline exports: a rotation folds the last norm into the head, which unties it."""
    shared = pipeline.quantize_options().shared_embeddings and not pipeline.rotate_options()
    return config if shared else replace(config, tied_embeddings=False)


def float_bytes(config: ModelConfig) -> int:
    """Bytes of what stays float32: the norms' weights."""
    return 4 * sum(shape[0] for shape in expected_tensors(config).values() if len(shape) == 1)


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
    toolchain: Mapping[str, str],
) -> VariantPlan:
    workflow = resolved_workflow(pipeline)
    config = exported_config(facts.config, pipeline)
    weights = plan_weights(config, pipeline.quantize_options())
    return VariantPlan(
        name=pipeline.name,
        profiles=tuple(profile.name for profile in profiles),
        provider=profiles[0].runtime.provider,
        device=profiles[0].runtime.device,
        algorithm=pipeline.quantize_options().algorithm,
        tied=config.tied_embeddings,
        calibrated=pipeline.quantize_options().calibration is not None,
        workflow=workflow,
        weights=weights,
        float_bytes=float_bytes(config),
        key=content_key([fingerprint, workflow, dict(toolchain)]),
    )


def _refuse_ties(variants: Sequence[VariantPlan]) -> None:
    """A runtime that finds two variants for one provider and device takes the first, whatever was meant."""
    seen: dict[tuple[str, str], str] = {}
    for variant in variants:
        other = seen.setdefault((variant.provider, variant.device), variant.name)
        if other != variant.name:
            raise errors.PipelineInvalidError(
                f"The variants {other} and {variant.name} would both be for {variant.provider} on {variant.device}.",
                why="A runtime selects a variant of a package by provider and device alone.",
                fix="Build them into packages of their own, with another --output for each.",
            )
