"""Make one variant of a plan: Olive in a subprocess, then a check of the graph, then the record beside it."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections import defaultdict
from typing import TYPE_CHECKING

from phiforge.graph.inspect import check_graph, inspect_graph
from phiforge.graph.npu.check import check_stages
from phiforge.hashing import content_key, hash_files, hash_listing
from phiforge.olive.driver import OLIVE_MODEL, PACKAGE_FILE, REQUIRED_FILES, OliveRun, run_olive
from phiforge.variant import (
    CALIBRATION_FILE,
    MODEL_FOLDER,
    NPU_FILE,
    PLAN_FILE,
    QDQ_FOLDER,
    RECORD_FILE,
    WORKFLOW_FILE,
    CheckpointFacts,
    NpuFacts,
    VariantRecord,
    WeightGroup,
)

if TYPE_CHECKING:
    from pathlib import Path

    from phiforge.olive.driver import OliveWorker
    from phiforge.plan import Plan, VariantPlan, WeightPlan
    from phiforge.store import Store
    from phiforge.verbs.watch import Stages

# Where Olive puts what it makes for an NPU, before its folders are moved beside the record.
MADE_FOLDER = "made"
NPU_FILES = (NPU_FILE, f"{MODEL_FOLDER}/genai_config.json", f"{MODEL_FOLDER}/tokenizer.json")
LICENCE_PATTERN = "LICENSE*"
_GROUPS = {
    "self_attn.qkv_proj": "attention qkv",
    "self_attn.o_proj": "attention output",
    "mlp.gate_up_proj": "MLP gate and up",
    "mlp.down_proj": "MLP down",
    "lm_head": "head",
    "model.embed_tokens": "embedding",
}


def make_variant(
    plan: Plan,
    variant: VariantPlan,
    checkpoint: Path,
    store: Store,
    stages: Stages,
    calibration: Path,
    worker: OliveWorker | None = None,
) -> Path:
    """Return the stage folder of the variant, built now unless the store has it.

    The folder holds `model/`, `variant.json`, the workflow, the checkpoint's licence and, if the workflow names them,
    the calibration texts. Variants built one after another may share Olive's process, `worker`.

    Raises:
        PhiforgeError: The build failed in an expected way.
    """
    stage = f"build {variant.name}"
    found = store.find("variant", variant.key)
    if found is not None:
        stages.reused(stage)
        return found
    # Olive's cache is shared by all pipelines on one checkpoint, so that a quantized checkpoint is made once.
    work = store.work("olive", work_key(plan))
    with stages.timed(stage), store.stage("variant", variant.key) as folder:
        run = OliveRun(
            workflow=variant.workflow,
            checkpoint=checkpoint,
            work=work,
            output=folder / MODEL_FOLDER if variant.npu is None else folder / MADE_FOLDER,
            calibration=calibration if variant.calibrated else None,
            promised=REQUIRED_FILES if variant.npu is None else NPU_FILES,
        )
        run_olive(run, stages.watcher.advanced, worker)
        operators, npu = _checked(variant, folder)
        for name in (WORKFLOW_FILE, PACKAGE_FILE):
            shutil.copyfile(work / name, folder / name)
        if run.calibration:
            shutil.copyfile(run.calibration, folder / CALIBRATION_FILE)
        for licence in sorted(checkpoint.glob(LICENCE_PATTERN)):
            shutil.copyfile(licence, folder / licence.name)
        record = _record(plan, variant, operators, npu, folder)
        (folder / RECORD_FILE).write_text(record.model_dump_json(indent=1) + "\n", encoding="utf-8", newline="\n")
        text = json.dumps(plan.as_dict(variant.name), indent=1, sort_keys=True)
        (folder / PLAN_FILE).write_text(text + "\n", encoding="utf-8", newline="\n")
    final = store.find("variant", variant.key)
    assert final is not None
    return final


def work_key(plan: Plan) -> str:
    """The key of the work folder, with Olive's cache, that all variants of a plan share."""
    return content_key([plan.fingerprint, dict(plan.toolchain)])


def _checked(variant: VariantPlan, folder: Path) -> tuple[dict[str, int], NpuFacts | None]:
    """Check that what was made is what was planned; return its operators and, for an NPU, what was compiled."""
    if variant.npu is None:
        facts = inspect_graph(folder / MODEL_FOLDER / "model.onnx")
        check_graph(facts, variant.weights, tied=variant.tied, last_logits=_last_logits(variant))
        return facts.operators, None
    made = folder / MADE_FOLDER
    (made / OLIVE_MODEL).unlink()
    for path in sorted(made.iterdir()):
        os.replace(path, folder / path.name)
    made.rmdir()
    told = NpuFacts.model_validate_json((folder / NPU_FILE).read_bytes())
    operators = check_stages(folder / QDQ_FOLDER, variant.weights, variant.npu, tied=variant.tied)
    return operators, told.model_copy(update={"confirmed": variant.npu.confirmed})


def _record(
    plan: Plan, variant: VariantPlan, operators: dict[str, int], npu: NpuFacts | None, folder: Path
) -> VariantRecord:
    model = folder / MODEL_FOLDER
    return VariantRecord(
        name=variant.name,
        key=variant.key,
        sha256=hash_listing(hash_files(model)),
        bytes=sum(path.stat().st_size for path in model.rglob("*") if path.is_file()),
        bits_per_weight=variant.bits_per_weight,
        provider=variant.provider,
        device=variant.device,
        checkpoint=CheckpointFacts(
            name=plan.model,
            family=plan.family,
            fingerprint=plan.fingerprint,
            parameters=plan.parameter_count,
            bytes=plan.checkpoint_bytes,
        ),
        options=_options(variant),
        operators=operators,
        weights=_groups(variant.weights, tied=variant.tied),
        toolchain=dict(plan.toolchain),
        npu=npu,
    )


def _last_logits(variant: VariantPlan) -> bool:
    return any(options.get("logits") == "last" for options in variant.workflow["passes"].values())


def _options(variant: VariantPlan) -> dict[str, str]:
    return {
        f"{name}.{key}": str(value)
        for name, options in variant.workflow["passes"].items()
        for key, value in options.items()
        if key != "type" and value not in (None, [])
    }


def _groups(weights: tuple[WeightPlan, ...], *, tied: bool) -> tuple[WeightGroup, ...]:
    groups: dict[tuple[str, int], list[WeightPlan]] = defaultdict(list)
    for weight in weights:
        role = _GROUPS[re.sub(r"^model\.layers\.\d+\.", "", weight.module)]
        role = "embedding and head" if tied and role == "embedding" else role
        groups[role, weight.spec.bits].append(weight)
    return tuple(_group(role, members) for (role, _), members in groups.items())


def _group(role: str, members: list[WeightPlan]) -> WeightGroup:
    stored = sum(member.stored_bytes for member in members)
    spec = members[0].spec
    return WeightGroup(
        group=role,
        tensors=len(members),
        bits=spec.bits,
        block_size=spec.block_size,
        symmetric=spec.symmetric,
        bytes=stored,
        bits_per_weight=8 * stored / sum(member.weights for member in members),
    )
