"""The workflows of GitHub Actions: valid by the published schema, pinned, and every command of ours in them exists."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any

import click
import pytest
import typer
import yaml
from check_jsonschema.builtin_schemas import get_builtin_schema  # type: ignore[import-untyped]
from jsonschema import Draft7Validator  # type: ignore[import-untyped]

from phiforge.cli.app import app
from phiforge.verbs.matrix import BuildJob, Jobs, MeasureJob, ReleaseJob, matrix

ROOT = Path(__file__).parents[2]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
RELEASE = ROOT / ".github" / "workflows" / "release.yml"
COMMANDS: dict[str, click.Command] = typer.main.get_command(app).commands  # type: ignore[attr-defined]
# What a step puts together before it calls a command, and the command itself.
OPTION = re.compile(r"(?<![\w-])--[a-z][a-z-]+")


def load(path: Path) -> dict[str, Any]:
    found = yaml.safe_load(path.read_text(encoding="utf-8"))
    found["on"] = found.pop(True)  # YAML 1.1 reads `on` as true
    assert isinstance(found, dict)
    return found


def steps(path: Path) -> list[tuple[str, dict[str, Any]]]:
    return [(name, step) for name, job in load(path)["jobs"].items() for step in job.get("steps", [])]


def commands(script: str) -> list[list[str]]:
    """The words of every call of phiforge in a shell script."""
    calls = re.findall(r"(?<![\w./-])phiforge ([a-z][^|>;&\n]*)", script)
    return [shlex.split(call) for call in calls]


def test_there_are_workflows() -> None:
    assert [path.name for path in WORKFLOWS] == ["ci.yml", "release.yml"]


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_it_is_valid_by_the_published_schema(path: Path) -> None:
    errors = list(Draft7Validator(get_builtin_schema("vendor.github-workflows")).iter_errors(load(path)))
    assert [error.message for error in errors] == []


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_actions_are_pinned_and_rights_are_few(path: Path) -> None:
    workflow = load(path)
    assert workflow["permissions"] == {"contents": "read"}
    for job in workflow["jobs"].values():
        assert set(job.get("permissions", {}).items()) <= {("contents", "read"), ("id-token", "write")}
        assert "timeout-minutes" in job
    text = path.read_text(encoding="utf-8")
    for use in re.findall(r"uses: (\S+.*)", text):
        assert re.fullmatch(r"[\w-]+/[\w-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", use), use
    assert text.count("persist-credentials: false") == text.count("uses: actions/checkout@")


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_nothing_from_outside_is_read_as_a_script(path: Path) -> None:
    """What comes from inputs reaches a shell as a variable alone, and a secret only where it is needed."""
    for name, step in steps(path):
        assert "${{" not in step.get("run", ""), step
        secret = "secrets." in json.dumps(step)
        assert not secret or (name == "release" and "HF_TOKEN" in step["env"]), step
        assert "set -x" not in step.get("run", "")


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_every_command_of_ours_exists(path: Path) -> None:
    """A script's options belong to the commands that it calls, also those that it puts together before."""
    for _, step in steps(path):
        script = step.get("run", "")
        calls = commands(script)
        if not calls:
            continue
        known: set[str] = set()
        for verb, *_ in calls:
            assert verb in COMMANDS, verb
            known |= {option for parameter in COMMANDS[verb].params for option in parameter.opts}
        ours = "\n".join(line for line in script.splitlines() if not re.match(r"\s*(hf|pip|python) ", line))
        assert set(OPTION.findall(ours)) <= known, script


def test_the_commands_are_found() -> None:
    called = {call[0] for path in WORKFLOWS for _, step in steps(path) for call in commands(step.get("run", ""))}
    assert called == {"matrix", "build", "verify", "measure", "bench", "release"}


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
