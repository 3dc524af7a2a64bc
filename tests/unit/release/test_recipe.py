from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from phiforge.release.recipe import read_recipes
from unit.release.packages import TOOLS, WORKFLOW, Made, make_package


def edit(package: Path, file: str, **fields: Any) -> None:
    path = package / "build" / "cpu-int4" / file
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | fields), encoding="utf-8")


def test_a_complete_recipe_has_no_fault(tmp_path: Path) -> None:
    recipes, faults = read_recipes(make_package(tmp_path))
    assert (list(recipes), faults) == (["cpu-int4", "qnn-a16w4"], [])


@pytest.mark.parametrize("file", ["plan.json", "workflow.json", "olive-package.json", "variant.json"])
def test_each_file_that_is_absent_or_broken_is_named(tmp_path: Path, file: str) -> None:
    package = make_package(tmp_path)
    path = package / "build" / "cpu-int4" / file
    for content in (b"[]", b"{", b"\xff"):
        path.write_bytes(content)
        (fault,) = read_recipes(package)[1]
        assert "build/cpu-int4" in fault
    path.unlink()
    (fault,) = read_recipes(package)[1]
    assert file in fault


@pytest.mark.parametrize(
    ("file", "fields", "said"),
    [
        ("plan.json", {"fingerprint": "0" * 64}, "different checkpoints"),
        ("plan.json", {"toolchain": {}}, "different tools"),
        ("plan.json", {"variants": []}, "not of the one variant"),
        ("workflow.json", {"extra": 1}, "workflow.json is not the workflow of plan.json"),
        ("variant.json", {"key": "0" * 64}, "is not that of checkpoint, workflow and tools"),
        ("olive-package.json", {"passes": {}}, "does not say what the pass quantize"),
    ],
)
def test_files_that_contradict_each_other_are_told(
    tmp_path: Path, file: str, fields: dict[str, Any], said: str
) -> None:
    package = make_package(tmp_path)
    edit(package, file, **fields)
    assert said in "; ".join(read_recipes(package)[1])


def test_a_tool_of_no_version_is_named(tmp_path: Path) -> None:
    tools = {**TOOLS, "onnx": "absent", "onnxruntime-qnn": "absent"}
    faults = read_recipes(make_package(tmp_path, Made(tools=tools, npu=False)))[1]
    assert faults == ["build/cpu-int4: the versions of onnx are not known"]


def test_what_is_no_digest_is_told(tmp_path: Path) -> None:
    package = make_package(tmp_path, Made(tools={**TOOLS, "phiforge-code": "dev"}, npu=False))
    assert read_recipes(package)[1] == ["build/cpu-int4: phiforge-code is no digest"]
    facts = json.loads((package / "build/cpu-int4/variant.json").read_text(encoding="utf-8"))
    edit(package, "variant.json", checkpoint=facts["checkpoint"] | {"fingerprint": "mine"})
    assert "the fingerprint of the checkpoint is no SHA-256" in "; ".join(read_recipes(package)[1])


@pytest.mark.parametrize("digest", [None, "", "mine"])
def test_calibration_texts_without_a_hash_are_told(tmp_path: Path, digest: str | None) -> None:
    workflow = copy.deepcopy(WORKFLOW)
    workflow["passes"]["quantize"]["calibration_sha256"] = digest
    faults = read_recipes(make_package(tmp_path, Made(workflow=workflow, npu=False)))[1]
    assert faults == ["build/cpu-int4: workflow.json does not name the calibration texts of the pass quantize by hash"]
