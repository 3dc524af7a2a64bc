"""The workflows of GitHub Actions: valid by the published schema, pinned, and of one mind with the matrix."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from check_jsonschema.builtin_schemas import get_builtin_schema  # type: ignore[import-untyped]
from jsonschema import Draft7Validator  # type: ignore[import-untyped]

from phiforge.verbs.matrix import BuildJob, Jobs, MeasureJob, ReleaseJob, matrix

ROOT = Path(__file__).parents[2]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
RELEASE = ROOT / ".github" / "workflows" / "release.yml"


def load(path: Path) -> dict[str, Any]:
    found = yaml.safe_load(path.read_text(encoding="utf-8"))
    found["on"] = found.pop(True)  # YAML 1.1 reads `on` as true
    assert isinstance(found, dict)
    return found


def steps(path: Path) -> list[tuple[str, dict[str, Any]]]:
    return [(name, step) for name, job in load(path)["jobs"].items() for step in job.get("steps", [])]


def test_there_are_workflows() -> None:
    assert [path.name for path in WORKFLOWS] == ["ci.yml", "release.yml", "tag.yml"]


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_it_is_valid_by_the_published_schema(path: Path) -> None:
    errors = list(Draft7Validator(get_builtin_schema("vendor.github-workflows")).iter_errors(load(path)))
    assert [error.message for error in errors] == []


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_actions_are_pinned_and_rights_are_few(path: Path) -> None:
    workflow = load(path)
    assert workflow["permissions"] == {"contents": "read"}
    for name, job in workflow["jobs"].items():
        rights = {("contents", "read"), ("id-token", "write")}
        if (path.name, name) == ("tag.yml", "attach"):
            rights = {("contents", "write")}
        assert set(job.get("permissions", {}).items()) <= rights
        assert "timeout-minutes" in job or "uses" in job
    text = path.read_text(encoding="utf-8")
    for use in re.findall(r"uses: (\S+.*)", text):
        own = use.startswith("./") and (ROOT / use).is_file()
        assert own or re.fullmatch(r"[\w-]+/[\w-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", use), use
    assert text.count("persist-credentials: false") == text.count("uses: actions/checkout@")


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_nothing_from_outside_is_read_as_a_script(path: Path) -> None:
    """What comes from inputs reaches a shell as a variable alone, and a secret only where it is needed."""
    for name, step in steps(path):
        assert "${{" not in step.get("run", ""), step
        secret = "secrets." in json.dumps(step)
        assert not secret or (name == "release" and "HF_TOKEN" in step["env"]), step
        assert "set -x" not in step.get("run", "")


@pytest.mark.parametrize(
    ("job", "model"), [("build", BuildJob), ("measure", MeasureJob), ("release", ReleaseJob)], ids=str
)
def test_a_job_uses_what_the_matrix_has(job: str, model: type[BuildJob]) -> None:
    workflow = load(RELEASE)
    used = set(re.findall(r"matrix\.(\w+)", json.dumps(workflow["jobs"][job]))) - {"outputs"}

    assert used <= set(model.model_fields)
    assert workflow["jobs"][job]["strategy"]["matrix"] == f"${{{{ fromJSON(needs.matrix.outputs.{job}) }}}}"
    assert set(workflow["jobs"]["matrix"]["outputs"]) == set(Jobs.model_fields)


def test_every_extra_of_the_matrix_is_one() -> None:
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    jobs = matrix(
        [ROOT / "tools/phiforge/checkpoint/nano/phi-4-nano"], targets=[p.stem for p in profiles()], project=ROOT
    )

    assert {job.profile for job in jobs.measure} == {path.stem for path in profiles()}
    assert all(re.search(rf"^{job.extra} = \[", text, re.MULTILINE) for job in jobs.measure)


def profiles() -> list[Path]:
    return sorted((ROOT / "targets").glob("*.toml"))
