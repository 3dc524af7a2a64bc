"""Complete pipelines with what only the checkpoint and calibration texts can tell, before they are planned."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

from phiforge import errors
from phiforge.calibration import check_files, check_leakage, evaluation_texts, load_calibration
from phiforge.hashing import content_key, hash_file
from phiforge.pipeline import MEASURED, CalibrateOptions
from phiforge.plan import exported_config, norm_weights, plan_weights
from phiforge.quantize.budget import Candidate, choose_raised
from phiforge.quantize.mixed import MIXED_BITS
from phiforge.store import write_atomically
from phiforge.toolchain import code_digest
from phiforge.validation.texts import load_tasks, load_texts
from phiforge.variant import CALIBRATION_FILE

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from phiforge.checkpoint.inspect import CheckpointFacts
    from phiforge.pipeline import Pipeline, QuantizeOptions
    from phiforge.plan import WeightPlan
    from phiforge.store import Store
    from phiforge.verbs.watch import Stages

SENSITIVITY_FILE = "sensitivity.json"
# Tokens of calibration text that sensitivities are measured on; each weight is one more pass over them.
SENSITIVITY_TOKENS = 512
SENSITIVITY_CODE = ("decoder", "quantize", "validation/sensitivity.py")


@dataclass(frozen=True, kw_only=True)
class Calibrating:
    """What calibration needs to know.

    Attributes:
        facts: The checkpoint.
        fingerprint: Hash of its files.
        calibration: Calibration texts, JSONL.
        threads: Threads of torch.
    """

    facts: CheckpointFacts
    fingerprint: str
    calibration: Path
    threads: int


def needs_calibration(pipelines: Mapping[str, Pipeline]) -> bool:
    """Whether any pipeline uses calibration texts."""
    return any(pipeline.needs_calibration for pipeline in pipelines.values())


def check_calibration(calibration: Path, texts: Path, tasks: Path | None) -> None:
    """Refuse calibration texts that overlap what the variant is judged by.

    Raises:
        CalibrationInvalidError: The texts cannot be used.
        LeakageError: They hold evaluation data.
    """
    check_files(calibration, [texts, *(sorted(tasks.glob("*.jsonl")) if tasks else ())])
    held_out = evaluation_texts(load_texts(texts), load_tasks(tasks) if tasks else ())
    check_leakage(load_calibration(calibration), held_out)


def complete_pipelines(
    pipelines: Mapping[str, Pipeline], about: Calibrating, store: Store | None, stages: Stages
) -> dict[str, Pipeline]:
    """Return the pipelines with their calibration file named, and with the weights chosen that get 8 bits.

    Args:
        pipelines: By name.
        about: What calibration needs to know.
        store: Where measurements are found and kept; None to measure nothing and choose by size, for a plan of the
            right sizes.
        stages: Told of a measurement.

    Raises:
        PipelineInvalidError: A pipeline's `target_bpw` is below what its base bits take.
    """
    found = {}
    for name, pipeline in pipelines.items():
        options = pipeline.quantize_options()
        if pipeline.needs_calibration:
            texts = {"calibration": CALIBRATION_FILE, "calibration_sha256": hash_file(about.calibration)}
            pipeline = pipeline.with_options(CalibrateOptions, **texts)
            if options.calibrated or options.mixed == MEASURED:
                pipeline = pipeline.with_quantize_options(**texts)
        if options.mixed == MEASURED:
            pipeline = _with_measured(pipeline, about, store, stages)
        found[name] = pipeline
    return found


def _with_measured(pipeline: Pipeline, about: Calibrating, store: Store | None, stages: Stages) -> Pipeline:
    options = pipeline.quantize_options()
    assert options.target_bpw is not None
    config = exported_config(about.facts.config, pipeline)
    # Scales count as float32 also where a GPU has them in float16, so that all targets share one quantized checkpoint.
    weights = plan_weights(config, options, row_scales=pipeline.stages_options() is not None)
    norms = norm_weights(config)
    candidates = [weight for weight in weights if weight.spec.bits < MIXED_BITS]
    stored = sum(weight.stored_bytes for weight in weights) + 4 * norms
    parameters = sum(weight.weights for weight in weights) + norms
    budget = int(options.target_bpw * parameters / 8) - stored
    if budget < 0:
        bits = 8 * stored / parameters
        raise errors.PipelineInvalidError(
            f"The pipeline {pipeline.name} cannot reach {options.target_bpw} bits per weight.",
            why=f"With every decoder weight at {options.bits} bits it takes {bits:.2f}, scales and head included.",
            fix="Raise the target, take larger blocks, or give head and embedding 4 bits.",
        )
    costs = (
        _sensitivities(pipeline, candidates, about, store, stages)
        if store
        else {weight.module: float(weight.weights) for weight in candidates}
    )
    raised = choose_raised([_candidate(weight, costs) for weight in candidates], budget)
    return pipeline.with_quantize_options(int8_modules=raised)


def _candidate(weight: WeightPlan, costs: Mapping[str, float]) -> Candidate:
    # Raising the bits changes the codes and the packed zero points, not the scales.
    blocks = weight.columns // weight.spec.block_size
    zeros = 0 if weight.spec.symmetric else weight.rows * (blocks - -(-blocks * weight.spec.bits // 8))
    extra = weight.weights * (MIXED_BITS - weight.spec.bits) // 8 + zeros
    return Candidate(module=weight.module, cost=costs[weight.module], extra_bytes=extra)


def _sensitivities(
    pipeline: Pipeline, candidates: list[WeightPlan], about: Calibrating, store: Store, stages: Stages
) -> dict[str, float]:
    """What each weight costs, from the store or measured now."""
    options = pipeline.quantize_options()
    key = _key(options, pipeline, about)
    folder = store.find("sensitivity", key)
    stage = f"sensitivity {pipeline.name}"
    if folder is not None:
        stages.reused(stage)
    else:
        with stages.timed(stage), store.stage("sensitivity", key) as partial:
            costs = _measure(pipeline, candidates, about, partial / "scratch", stages)
            (partial / "scratch").rmdir()
            write_atomically(partial / SENSITIVITY_FILE, json.dumps(costs, indent=1) + "\n")
        folder = store.find("sensitivity", key)
        assert folder is not None
    content: dict[str, float] = json.loads((folder / SENSITIVITY_FILE).read_text(encoding="utf-8"))
    return content


def _measure(
    pipeline: Pipeline, candidates: list[WeightPlan], about: Calibrating, scratch: Path, stages: Stages
) -> dict[str, float]:
    # Imported here: torch takes seconds to load.
    from phiforge.validation.sensitivity import measure_sensitivities, open_decoder

    rotation = pipeline.rotate_options()
    decoder, texts = open_decoder(
        about.facts.folder,
        rotation.seed if rotation else None,
        [text.text for text in load_calibration(about.calibration)],
        tied=exported_config(about.facts.config, pipeline).tied_embeddings,
        tokens=SENSITIVITY_TOKENS,
        threads=about.threads,
    )
    specs = {weight.module: weight.spec for weight in candidates}
    return measure_sensitivities(
        decoder, specs, texts, scratch=scratch,
        progress=lambda done, total: stages.watcher.advanced("layers", done, total),
    )  # fmt: skip


def _key(options: QuantizeOptions, pipeline: Pipeline, about: Calibrating) -> str:
    rotation = pipeline.rotate_options()
    format_keys = {
        "bits",
        "block_size",
        "symmetric",
        "per_channel",
        "in_blocks",
        "shared_embeddings",
        "lm_head_bits",
        "embedding_bits",
    }
    return content_key(
        [
            "sensitivity",
            about.fingerprint,
            options.model_dump(mode="json", include=format_keys),
            rotation.seed if rotation else None,
            options.calibration_sha256,
            SENSITIVITY_TOKENS,
            code_digest(SENSITIVITY_CODE),
        ]
    )
