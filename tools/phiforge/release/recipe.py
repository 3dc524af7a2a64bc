"""Whether a package tells how to make it again: checkpoint, workflow, tools and calibration texts by hash."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from phiforge import errors
from phiforge.hashing import content_key
from phiforge.packaging.layout import BUILD_FOLDER, load_component
from phiforge.toolchain import PACKAGES
from phiforge.variant import PLAN_FILE, RECORD_FILE, WORKFLOW_FILE, load_record

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from phiforge.variant import VariantRecord

OLIVE_PACKAGE = "olive-package.json"
CODE_DIGEST = "phiforge-code"
ABSENT = "absent"
_HEX, _SHA256 = re.compile("([0-9a-f]{2})+"), re.compile("[0-9a-f]{64}")
# What only an NPU's variant is made with.
_NPU_TOOLS = ("onnxruntime-qnn",)


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """What one variant was made of: its record, the plan's part about it, and the workflow that Olive ran."""

    record: VariantRecord
    plan: Mapping[str, Any]
    workflow: Mapping[str, Any]


def read_recipes(package: Path) -> tuple[dict[str, Recipe], list[str]]:
    """Return the recipe of each variant of a package, and what is wrong with any, a sentence each."""
    recipes, faults = {}, []
    for name in load_component(package).variants:
        folder = package / BUILD_FOLDER / name
        try:
            recipe = Recipe(
                record=load_record(folder), plan=_object(folder / PLAN_FILE), workflow=_object(folder / WORKFLOW_FILE)
            )
            olive = _object(folder / OLIVE_PACKAGE)
        except errors.VariantUnusableError as error:
            faults.append(f"{BUILD_FOLDER}/{name}/{RECORD_FILE} cannot be read: {error.why}")
        except (OSError, ValueError) as error:
            faults.append(f"{BUILD_FOLDER}/{name}: {' '.join(str(error).split())}")
        else:
            recipes[name] = recipe
            faults += [f"{BUILD_FOLDER}/{name}: {fault}" for fault in _faults(name, recipe, olive)]
    return recipes, faults


def _faults(name: str, recipe: Recipe, olive: Mapping[str, Any]) -> Iterator[str]:
    record, plan, workflow = recipe.record, recipe.plan, recipe.workflow
    (planned, *others) = plan.get("variants") or [{}]
    if others or not isinstance(planned, dict) or planned.get("name") != name or record.name != name:
        yield f"{PLAN_FILE} and {RECORD_FILE} are not of the one variant {name}"
        return
    if plan.get("fingerprint") != record.checkpoint.fingerprint:
        yield f"{PLAN_FILE} and {RECORD_FILE} name different checkpoints"
    if planned.get("workflow") != workflow:
        yield f"{WORKFLOW_FILE} is not the workflow of {PLAN_FILE}"
    if plan.get("toolchain") != record.toolchain:
        yield f"{PLAN_FILE} and {RECORD_FILE} name different tools"
    key = content_key([record.checkpoint.fingerprint, workflow, record.toolchain])
    if not key == planned.get("key") == record.key:
        yield f"the key of {PLAN_FILE} and {RECORD_FILE} is not that of checkpoint, workflow and tools"
    yield from _tool_faults(record)
    yield from _pass_faults(workflow, olive)


def _tool_faults(record: VariantRecord) -> Iterator[str]:
    needed = [tool for tool in (CODE_DIGEST, *PACKAGES) if record.npu is not None or tool not in _NPU_TOOLS]
    unknown = [tool for tool in needed if record.toolchain.get(tool, ABSENT) in (ABSENT, "")]
    if unknown:
        yield f"the versions of {', '.join(unknown)} are not known"
    elif not _HEX.fullmatch(record.toolchain[CODE_DIGEST]):
        yield f"{CODE_DIGEST} is no digest"
    if not _SHA256.fullmatch(record.checkpoint.fingerprint):
        yield "the fingerprint of the checkpoint is no SHA-256"


def _pass_faults(workflow: Mapping[str, Any], olive: Mapping[str, Any]) -> Iterator[str]:
    passes = workflow.get("passes")
    if not isinstance(passes, dict) or not passes:
        yield f"{WORKFLOW_FILE} has no passes"
        return
    registered = olive.get("passes")
    for name, options in passes.items():
        kind = options.get("type") if isinstance(options, dict) else None
        if not isinstance(registered, dict) or kind not in registered:
            yield f"{OLIVE_PACKAGE} does not say what the pass {name} ({kind}) is"
        elif options.get("calibration") is not None and not _SHA256.fullmatch(str(options.get("calibration_sha256"))):
            yield f"{WORKFLOW_FILE} does not name the calibration texts of the pass {name} by hash"


def _object(path: Path) -> dict[str, Any]:
    content = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(content, dict):
        raise ValueError(f"{path.name} is no JSON object")
    return content
