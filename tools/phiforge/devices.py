"""What a variant is predicted to do on each device it is built for, before it is built. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from phiforge import errors
from phiforge.costs import NODES, planned_costs
from phiforge.roofline import Roof, largest_context, memory_need, prompt_ms, token_ms

if TYPE_CHECKING:
    from collections.abc import Sequence

    from phiforge.checkpoint.config import ModelConfig
    from phiforge.costs import Costs, Weight
    from phiforge.pipeline import Pipeline
    from phiforge.target import Profile, Roofline

# The prompt whose times a plan tells, a page of text, and the tokens decoded after it.
PROMPT_TOKENS, DECODE_TOKENS = 512, 64
# 16 bits of activations in the graphs for an NPU.
NPU_ACTIVATION_BYTES = 2
# Graphs besides the parts: the embedding and the head.
OTHER_STAGES = 2


@dataclass(frozen=True, kw_only=True)
class DevicePlan:
    """What is predicted of one device: memory with the promised context, and times where its rates are known.

    `fitting_tokens` is the largest context that would fit, 0 if none does.
    """

    profile: str
    context_tokens: int
    weights_bytes: int
    kv_cache_bytes: int
    workspace_bytes: int
    total_bytes: int
    memory_bytes: int
    available_bytes: int
    fitting_tokens: int
    prompt_tokens: int
    ttft_ms: float | None = None
    decode_tokens_per_s: float | None = None

    @property
    def fits(self) -> bool:
        """Whether the device's memory holds the variant with the promised context."""
        return self.total_bytes <= self.available_bytes


def pipeline_costs(config: ModelConfig, pipeline: Pipeline, weights: Sequence[Weight], float_bytes: int) -> Costs:
    """Count what a pipeline's variant will cost.

    Args:
        config: The configuration of what it exports.
        pipeline: The pipeline, complete for its device.
        weights: What each weight becomes.
        float_bytes: Bytes of what is not quantized.
    """
    stages, export = pipeline.stages_options(), pipeline.export_options()
    if stages is not None:
        return planned_costs(
            config,
            weights,
            float_bytes=float_bytes,
            activation_bytes=NPU_ACTIVATION_BYTES,
            kv_cache_element_bytes=stages.kv_cache_bits // 8,
            head_every_position=False,
            nodes=min(stages.parts, config.layer_count) + OTHER_STAGES,
            window_tokens=stages.window_tokens,
        )
    element_bytes = 2 if export is not None and export.activations == "float16" else 4
    in_layer, besides = NODES[export.provider if export is not None else "cpu"]
    return planned_costs(
        config,
        weights,
        float_bytes=float_bytes,
        activation_bytes=element_bytes,
        kv_cache_element_bytes=element_bytes,
        head_every_position=export is None or export.logits == "all",
        nodes=in_layer * config.layer_count + besides,
    )


def plan_device(profile: Profile, costs: Costs, max_positions: int, compiled_tokens: int | None) -> DevicePlan:
    """Predict a device.

    Args:
        profile: The device.
        costs: The variant's.
        max_positions: The longest context of the model.
        compiled_tokens: The context of graphs of fixed shape.
    """
    hardware = profile.hardware
    context = compiled_tokens or min(hardware.context_tokens, max_positions)
    need = memory_need(costs, context)
    prompt = max(1, min(PROMPT_TOKENS, context - DECODE_TOKENS - 1))
    roof = roof_of(hardware.roofline) if hardware.roofline is not None else None
    return DevicePlan(
        profile=profile.name,
        context_tokens=context,
        weights_bytes=need.weights_bytes,
        kv_cache_bytes=need.kv_cache_bytes,
        workspace_bytes=need.workspace_bytes,
        total_bytes=need.total_bytes,
        memory_bytes=hardware.memory_bytes,
        available_bytes=hardware.available_bytes,
        fitting_tokens=largest_context(costs, hardware.available_bytes, context),
        prompt_tokens=prompt,
        ttft_ms=prompt_ms(costs, roof, prompt) if roof else None,
        decode_tokens_per_s=1e3 / token_ms(costs, roof, prompt + DECODE_TOKENS // 2) if roof else None,
    )


def roof_of(table: Roofline) -> Roof:
    """The roofline of a profile."""
    return Roof(
        bandwidth_bytes_per_s=table.memory_bandwidth_bytes_per_s,
        operations_per_s=table.operations_per_s,
        bandwidth_efficiency_fraction=table.bandwidth_efficiency_fraction,
        compute_efficiency_fraction=table.compute_efficiency_fraction,
        node_overhead_us=table.node_overhead_us,
    )


def check_devices(devices: Sequence[DevicePlan], variant: str, *, compiled: bool) -> None:
    """Refuse a variant that a device could not hold.

    Args:
        devices: Those the variant is planned for.
        variant: Its name.
        compiled: Whether its context is fixed by the build.

    Raises:
        DeviceTooSmallError: The memory of one of them cannot hold the variant with the context that it promises.
    """
    for device in devices:
        if not device.fits:
            raise errors.DeviceTooSmallError(
                f"The variant {variant} with {device.context_tokens:,} tokens of context does not fit the device of "
                f"{device.profile}: it needs {_gigabytes(device.total_bytes)}, and a model may take "
                f"{_gigabytes(device.available_bytes)} of its {_gigabytes(device.memory_bytes)} of memory.",
                why=f"Weights take {_gigabytes(device.weights_bytes)}, the KV cache "
                f"{_gigabytes(device.kv_cache_bytes)}, the workspace of a prompt that long "
                f"{_gigabytes(device.workspace_bytes)}; the runtime's own memory is not counted.",
                fix=_remedy(device, compiled=compiled),
            )


def _remedy(device: DevicePlan, *, compiled: bool) -> str:
    others = "a profile with more memory (`phiforge targets`), or a pipeline with fewer bits (`phiforge pipelines`)"
    if not device.fitting_tokens:
        return f"No context fits beside the weights. Choose {others}."
    how = (
        f"build with --context {device.fitting_tokens // 64 * 64}"
        if compiled
        else f"promise less: context_tokens = {device.fitting_tokens} under [hardware] of a copy of the profile"
    )
    return f"A context of {device.fitting_tokens:,} tokens would fit: {how}. Or choose {others}."


def _gigabytes(count: int) -> str:
    return f"{count / 1e9:.2f} GB"
