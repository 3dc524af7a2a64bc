"""What a build is predicted to need: peak anonymous memory and time of each step, and disk. Pure.

All numbers are `predicted`. Memory follows from the shapes: each step's largest arrays, on top of what the process
needs for itself. The constants were measured on the machine of docs/benchmarks.md, where predictions stand beside
measurements.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from phiforge.parts import split_layers
from phiforge.quantize.assign import LM_HEAD

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from phiforge.checkpoint.config import ModelConfig
    from phiforge.pipeline import Pipeline, StagesOptions

# Anonymous memory of a build's process tree with next to no weights: Python, Olive, torch and numba; what each layer
# adds (its nodes and modules, however wide), and each token of the vocabulary (the tokenizer).
BASE_MEMORY_BYTES = 500_000_000
LAYER_BYTES = 6_000_000
TOKEN_BYTES = 500
# The quantizer reads so many weights at a time; it holds them in float32 and what it makes of them.
BLOCK_WEIGHTS = 16 * 1024 * 1024
BLOCK_BYTES_PER_WEIGHT = 6
# Weights quantized per second on two cores.
WEIGHTS_PER_S = {"rtn": 1.5e9, "k-quant": 250e6}
ROTATED_WEIGHTS_PER_S = 40e6
# Floating-point operations per second of float32 matrix products on two cores.
FLOPS = 200e9
# Start of Python, Olive and torch, and the graph of a small model.
BASE_SECONDS = 14.0
# Weights are read in 16 bits, and what is stored is written, read and written again.
READ_BYTES, COPIES = 2, 3
COPY_BYTES_PER_S = 700e6
# GPTQ holds so many arrays of a module's Hessian and of its weight: 1.72 GB at Phi-4-mini's shapes, 5.15 GB at Phi-4's.
GPTQ_HESSIANS, GPTQ_WEIGHTS = 2, 2
# Float32 arrays of a weight that is rotated whole: 0.77 GB at Phi-4-mini's shapes, 1.87 GB at Phi-4's.
ROTATED_ARRAYS = 4
# A text in memory at once while a layer computes.
TEXT_TOKENS = 4096
# The reference's head: rows of float32 logits, so many of them at a time in about six float64 arrays, and a block of
# the head's weights, read and widened.
LOGIT_ROWS, DOUBLE_ROWS, DOUBLE_ARRAYS = 512, 64, 6
HEAD_BLOCK_BYTES = 2 * 4 * 32 * 1024 * 1024
# QNN's compiler, beside the process that waits for it: two graphs that share the weights of one layer of Phi-4-mini
# (101 M) took 0.64 GB, of 8 layers (805 M) 4.0 GB, of one of Phi-4 (341 M) 1.8 GB. One graph of a head of 615 M weights
# in 8 bits took 2.7 GB, so the weights count and not their bytes.
COMPILE_BYTES_PER_WEIGHT, COMPILE_BASE_BYTES = 4.8, 160_000_000
# 8 layers of Phi-4-mini, two graphs that share the weights, took 41 s, and 75 s with attention on the NPU. All of it is
# done twice: for the binary and for the twin that an x86 host can load.
COMPILED_WEIGHTS_PER_S = {"cpu": 805e6 / 41, "npu": 805e6 / 75}
COMPILATIONS = 2
# Graphs of each part, for a window and for one token.
NPU_GRAPHS = 2
# A layer's largest weight while its graph is written, in two halves, and a head for the NPU, in 8 bits: 2 layers of
# Phi-4-mini took 0.79 GB in all, of Phi-4 1.01 GB, with a head for the NPU 1.11 to 1.25 GB.
STAGE_BYTES_PER_WEIGHT, STAGE_BYTES_PER_HEAD_WEIGHT = 2.5, 1.0


class Weight(Protocol):
    """What one module's weight becomes; `phiforge.plan.WeightPlan`."""

    @property
    def module(self) -> str:
        """Its module."""

    @property
    def columns(self) -> int:
        """Inputs of the module."""

    @property
    def weights(self) -> int:
        """Number of weights."""

    @property
    def stored_bytes(self) -> int:
        """Bytes in the variant."""


@dataclass(frozen=True, kw_only=True)
class StepNeeds:
    """One step of a build: peak anonymous memory of all its processes, wall time."""

    step: str
    memory_bytes: int
    seconds: float


@dataclass(frozen=True, kw_only=True)
class Preflight:
    """What the build is predicted to need, and the disk it takes at its fullest; the runtime's share is not in it."""

    steps: tuple[StepNeeds, ...]
    disk_bytes: int

    @property
    def largest_step(self) -> StepNeeds:
        """The step that needs most memory."""
        return max(self.steps, key=lambda step: step.memory_bytes)

    @property
    def memory_bytes(self) -> int:
        """The peak of the step that needs most."""
        return self.largest_step.memory_bytes

    @property
    def seconds(self) -> float:
        """All steps but the reference, which belongs to the validation."""
        return sum(step.seconds for step in self.steps if step.step != "reference")


def predict(config: ModelConfig, variants: Sequence[tuple[Pipeline, Sequence[Weight], int]]) -> Preflight:
    """Return what a build needs.

    Args:
        config: The checkpoint's configuration.
        variants: For each variant its pipeline, its weights and the bytes of what stays float32.
    """
    steps: list[StepNeeds] = []
    disk = 0
    checkpoints: list[object] = []
    for pipeline, weights, floats in variants:
        checkpoint = (pipeline.rotate_options(), pipeline.quantize_options())
        if checkpoint not in checkpoints:
            checkpoints.append(checkpoint)
            steps += _checkpoint_steps(config, pipeline, weights)
            disk += _checkpoint_disk(config, pipeline, weights, floats)
        steps += _steps(config, pipeline, weights)
        disk += _disk(config, pipeline, weights, floats)
    return Preflight(steps=(*steps, _reference(config)), disk_bytes=disk)


def _checkpoint_steps(config: ModelConfig, pipeline: Pipeline, weights: Sequence[Weight]) -> Iterator[StepNeeds]:
    """Return what the quantized checkpoint needs, which variants of like options share."""
    options = pipeline.quantize_options()
    if pipeline.rotate_options():
        yield _rotation(weights)
    if options.calibrated:
        memory = max(_calibrated_memory(config, weights), _streamed_memory(config, weights))
        seconds = _calibrated_seconds(weights, options.calibration_tokens)
        yield StepNeeds(step="quantize", memory_bytes=memory, seconds=seconds)
    else:
        seconds = sum(weight.weights for weight in weights) / WEIGHTS_PER_S[options.algorithm]
        yield StepNeeds(step="quantize", memory_bytes=_streamed_memory(config, weights), seconds=seconds)


def _steps(config: ModelConfig, pipeline: Pipeline, weights: Sequence[Weight]) -> Iterator[StepNeeds]:
    """Return what follows the quantized checkpoint."""
    stages = pipeline.stages_options()
    if stages is not None:
        yield from _npu_steps(config, pipeline, stages, weights)
        return
    stored = sum(weight.stored_bytes for weight in weights)
    memory = _base_memory(config) + _rotary_bytes(config)
    copied = READ_BYTES * sum(weight.weights for weight in weights) + COPIES * stored
    yield StepNeeds(step="export", memory_bytes=memory, seconds=BASE_SECONDS + copied / COPY_BYTES_PER_S)


def _npu_steps(
    config: ModelConfig, pipeline: Pipeline, stages: StagesOptions, weights: Sequence[Weight]
) -> Iterator[StepNeeds]:
    """Return what follows the quantization for an NPU: a walk through the decoder, the graphs, their compilation."""
    calibrate = pipeline.calibrate_options()
    tokens = calibrate.calibration_tokens if calibrate else 0
    total, stored = sum(weight.weights for weight in weights), sum(weight.stored_bytes for weight in weights)
    logits = 4 * config.vocab_size * LOGIT_ROWS + HEAD_BLOCK_BYTES
    memory = BASE_MEMORY_BYTES + TOKEN_BYTES * config.vocab_size + max(_walked_bytes(config), logits)
    yield StepNeeds(step="calibrate activations", memory_bytes=memory, seconds=2 * tokens * total / FLOPS)
    memory = _base_memory(config) + _staged_bytes(stages, weights)
    yield StepNeeds(step="stages", memory_bytes=memory, seconds=BASE_SECONDS + COPIES * stored / COPY_BYTES_PER_S)
    compiled = _compiled_weights(stages, weights)
    compiling = COMPILE_BASE_BYTES + round(COMPILE_BYTES_PER_WEIGHT * max(compiled))
    yield StepNeeds(
        step="compile",
        memory_bytes=_base_memory(config) + compiling,
        seconds=COMPILATIONS * sum(compiled) / COMPILED_WEIGHTS_PER_S[stages.attention],
    )


def _staged_bytes(stages: StagesOptions, weights: Sequence[Weight]) -> int:
    """What the largest weight takes while its graph is written; embedding and head of the CPU are mapped files."""
    largest = max(weight.weights for weight in weights if ".layers." in weight.module)
    head = sum(_head_weights(weights)) if stages.head == "npu" else 0
    return round(max(STAGE_BYTES_PER_WEIGHT * largest, STAGE_BYTES_PER_HEAD_WEIGHT * head))


def _compiled_weights(stages: StagesOptions, weights: Sequence[Weight]) -> list[int]:
    """The number of weights in each binary, one after another; a head on the NPU is one more."""
    layers: Counter[str] = Counter()
    for weight in weights:
        if ".layers." in weight.module:
            layers[weight.module.split(".")[2]] += weight.weights
    sizes = [*layers.values()]
    parts = [sum(sizes[start:stop]) for start, stop in split_layers(len(sizes), min(stages.parts, len(sizes)))]
    return parts + _head_weights(weights) if stages.head == "npu" else parts


def _head_weights(weights: Sequence[Weight]) -> list[int]:
    return [weight.weights for weight in weights if weight.module == LM_HEAD]


def _base_memory(config: ModelConfig) -> int:
    return BASE_MEMORY_BYTES + LAYER_BYTES * config.layer_count + TOKEN_BYTES * config.vocab_size


def _streamed_memory(config: ModelConfig, weights: Sequence[Weight]) -> int:
    largest = max(weight.weights for weight in weights)
    return _base_memory(config) + BLOCK_BYTES_PER_WEIGHT * min(BLOCK_WEIGHTS, largest)


def _rotation(weights: Sequence[Weight]) -> StepNeeds:
    """Return what a rotation needs: modules that write the stream are rotated whole, read, rotated and as stored."""
    largest = max(weight.weights for weight in weights if weight.module.endswith(("o_proj", "down_proj")))
    seconds = sum(weight.weights for weight in weights) / ROTATED_WEIGHTS_PER_S
    memory = BASE_MEMORY_BYTES + ROTATED_ARRAYS * 4 * largest
    return StepNeeds(step="rotate", memory_bytes=memory, seconds=seconds)


def _calibrated_memory(config: ModelConfig, weights: Sequence[Weight]) -> int:
    layer = [weight for weight in weights if weight.module.startswith("model.layers.0.")]
    layer_bytes = 4 * sum(weight.weights for weight in layer)
    working = max(4 * (GPTQ_HESSIANS * w.columns**2 + GPTQ_WEIGHTS * w.weights) for w in layer)
    return BASE_MEMORY_BYTES + TOKEN_BYTES * config.vocab_size + layer_bytes + working


def _calibrated_seconds(weights: Sequence[Weight], tokens: int) -> float:
    layers = [weight for weight in weights if ".layers." in weight.module]
    forward = sum(2 * tokens * weight.weights for weight in layers)
    hessians = sum(2 * tokens * weight.columns**2 for weight in layers)
    solving = sum(2 * weight.weights * weight.columns + 2 * weight.columns**3 for weight in layers)
    return (forward + hessians + solving) / FLOPS


def _reference(config: ModelConfig) -> StepNeeds:
    """The drift reference: a layer, a text's widest activations, then rows of logits."""
    logits = config.vocab_size * (4 * LOGIT_ROWS + 8 * DOUBLE_ROWS * DOUBLE_ARRAYS) + HEAD_BLOCK_BYTES
    memory = BASE_MEMORY_BYTES + TOKEN_BYTES * config.vocab_size + max(_walked_bytes(config), logits)
    return StepNeeds(step="reference", memory_bytes=memory, seconds=0.0)


def _walked_bytes(config: ModelConfig) -> int:
    """A layer in float32 and a text's widest activations."""
    return 4 * _layer_weights(config) + 4 * min(TEXT_TOKENS, config.max_positions) * 3 * config.intermediate_size


def _layer_weights(config: ModelConfig) -> int:
    heads = config.head_count * config.head_size
    keys = config.kv_head_count * config.head_size
    return config.hidden_size * (2 * heads + 2 * keys + 3 * config.intermediate_size)


def _checkpoint_disk(config: ModelConfig, pipeline: Pipeline, weights: Sequence[Weight], float_bytes: int) -> int:
    """The rotated and the quantized checkpoint, and what calibration keeps on the disk."""
    stored = sum(weight.stored_bytes for weight in weights) + float_bytes
    disk = stored + _rotary_bytes(config)
    if pipeline.rotate_options():
        disk += 2 * sum(weight.weights for weight in weights)
    options = pipeline.quantize_options()
    if options.calibrated:
        disk += stored + 4 * options.calibration_tokens * (2 * config.hidden_size + config.intermediate_size)
    return disk


def _disk(config: ModelConfig, pipeline: Pipeline, weights: Sequence[Weight], float_bytes: int) -> int:
    """The variant in Olive's cache, in the store and in the package.

    An NPU's variant comes from graphs, and its twin has a copy of the weights for every graph.
    """
    stored = sum(weight.stored_bytes for weight in weights) + float_bytes
    disk = 3 * (stored + _rotary_bytes(config))
    calibrate = pipeline.calibrate_options()
    if calibrate is not None:
        disk += (1 + NPU_GRAPHS) * stored + 4 * calibrate.calibration_tokens * config.hidden_size
    return disk


def _rotary_bytes(config: ModelConfig) -> int:
    return config.max_positions * config.rotary_size * 4 * (2 if config.rope_kind == "longrope" else 1)
