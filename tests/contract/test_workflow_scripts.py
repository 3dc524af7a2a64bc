"""The scripts of the release workflows, run by bash as GitHub runs them, with tools that note how they were called.

Every command of ours is then read by the real command line, so that an option which does not exist is found.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import pytest
import typer
import yaml
from typer.testing import CliRunner

from phiforge.cli.app import app
from phiforge.release.waivers import parse_waiver

ROOT = Path(__file__).parents[2]
WORKFLOWS = ROOT / ".github" / "workflows"
COMMANDS: dict[str, click.Command] = typer.main.get_command(app).commands  # type: ignore[attr-defined]
EXPRESSION = re.compile(r"\$\{\{\s*(.*?)\s*\}\}")
NANO = "tools/phiforge/checkpoint/nano/phi-4-nano"
# Notes its name and arguments, says what a file of the name of its first words holds, and ends as one says.
TOOL = """#!/usr/bin/env bash
{ printf '%s\\x1f' "$(basename "$0")" "$@"; printf '\\x1e\\n'; } >> "$NOTES/calls"
told="$NOTES/$(basename "$0")-$1"
if [ -f "$told.out" ]; then cat "$told.out"; fi
if [ -f "$told.code" ]; then exit "$(cat "$told.code")"; fi
"""


def load(name: str) -> dict[str, Any]:
    found = yaml.safe_load((WORKFLOWS / name).read_text(encoding="utf-8"))
    found["on"] = found.pop(True)  # YAML 1.1 reads `on` as true
    assert isinstance(found, dict)
    return found


def scripts(name: str, job: str) -> list[dict[str, Any]]:
    """The steps of a job that run a script."""
    return [step for step in load(name)["jobs"][job]["steps"] if "run" in step]


def inputs(**given: str) -> dict[str, str]:
    """The release workflow's inputs: what a caller gives, and their defaults."""
    declared = load("release.yml")["on"]["workflow_call"]["inputs"]
    assert given.keys() <= declared.keys()
    return {f"inputs.{key}": str(given.get(key, spec.get("default", ""))) for key, spec in declared.items()}


@dataclass(frozen=True)
class Ran:
    """How a script ended, what it printed, and every call of a tool in it."""

    code: int
    said: str
    calls: list[list[str]]

    def of(self, tool: str) -> list[list[str]]:
        """The arguments of each call of a tool."""
        return [call[1:] for call in self.calls if call[0] == tool]


@pytest.fixture
def work(tmp_path: Path) -> Path:
    """A checkout's folder, and tools that take note, with what each says and how it ends in files."""
    (tmp_path / "notes").mkdir()
    (tmp_path / "tools").mkdir()
    for name in ("phiforge", "gh", "hf", "python", "sudo", "tar"):
        tool = tmp_path / "tools" / name
        tool.write_text(TOOL, encoding="utf-8", newline="\n")
        tool.chmod(0o755)
    (tmp_path / "checkout").mkdir()
    return tmp_path


def run(step: Mapping[str, Any], values: Mapping[str, str], work: Path) -> Ran:
    """Run a step's script; `values` holds what each of its expressions stands for."""
    environment = {
        key: EXPRESSION.sub(lambda match: values[match[1]], str(value)) for key, value in step.get("env", {}).items()
    }
    notes = work / "notes"
    (notes / "calls").write_text("", encoding="utf-8")
    ended = subprocess.run(
        ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", step["run"]],
        cwd=work / "checkout",
        env={
            **environment,
            "PATH": os.pathsep.join([str(work / "tools"), os.environ["PATH"]]),
            "NOTES": str(notes),
            "GITHUB_OUTPUT": str(notes / "output"),
            "GITHUB_REPOSITORY": "OWNER/phiforge",
            "GITHUB_SERVER_URL": "https://github.com",
            "GITHUB_REF_NAME": "v0.2.0",
        },
        capture_output=True,
        encoding="utf-8",
        timeout=60,
        check=False,
    )
    calls = (notes / "calls").read_text(encoding="utf-8").split("\x1e\n")
    return Ran(ended.returncode, ended.stdout + ended.stderr, [call.split("\x1f")[:-1] for call in calls if call])


def read(call: list[str]) -> dict[str, Any]:
    """What the real command line makes of a call of phiforge."""
    return COMMANDS[call[0]].make_context(call[0], list(call[1:])).params


def jobs(work: Path, **given: str) -> dict[str, list[dict[str, Any]]]:
    """The jobs that the workflow's matrix has for these inputs, by the stage they belong to."""
    (call,) = run(scripts("release.yml", "matrix")[-1], inputs(**given), work).of("phiforge")
    read(call)
    result = CliRunner().invoke(app, [*call, "--project", str(ROOT)])
    assert result.exit_code == 0, result.output
    lines = (line.split("=", 1) for line in result.output.splitlines())
    return {stage: json.loads(text)["include"] for stage, text in lines}


def of_job(job: Mapping[str, Any]) -> dict[str, str]:
    return {f"matrix.{key}": value for key, value in job.items() if isinstance(value, str)} | {
        "join(matrix.targets, ' ')": " ".join(job.get("targets", ())),
        "github.ref_name": "v0.2.0",
        "github.token": "t",
        "secrets.HF_TOKEN": "",
    }


@pytest.fixture
def two(work: Path) -> dict[str, str]:
    """Inputs of a caller with two models."""
    for name in ("one", "two"):
        (work / name).mkdir()
    return {
        "checkpoints": f"{work / 'one'} {work / 'two'}",
        "targets": "cpu-x64 qnn-x-elite",
        "measure": "cpu-x64 qnn-x-elite",
        "destination": "hf://OWNER/{model}-onnx",
        "previous": "OWNER/{model}-onnx@v1",
        "previous_identity": "https://example.org/signer",
    }


def test_builds_and_measurements_are_calls_of_ours(work: Path, two: dict[str, str]) -> None:
    found = jobs(work, **two)
    (work / "checkout" / "packages" / "m.ortpackage").mkdir(parents=True)
    seen = set()
    for stage in ("build", "measure"):
        for job in found[stage]:
            for step in scripts("release.yml", stage):
                for call in run(step, inputs(**two) | of_job(job), work).of("phiforge"):
                    read(call)
                    seen.add(call[0])
    assert seen == {"build", "verify", "measure", "bench"}


@pytest.mark.parametrize(
    ("stage", "code", "ends"),
    [("build", 4, 0), ("build", 3, 3), ("measure", 3, 0), ("measure", 4, 0), ("measure", 1, 1)],
)
def test_verdicts_are_for_the_release_to_judge(work: Path, stage: str, code: int, ends: int) -> None:
    (work / "one").mkdir()
    (job,) = jobs(work, checkpoints=str(work / "one"), targets="cpu-x64", measure="cpu-x64")[stage]
    (work / "notes" / f"phiforge-{stage}.code").write_text(str(code), encoding="utf-8")
    (step,) = (step for step in scripts("release.yml", stage) if f"phiforge {stage}" in step["run"])
    assert run(step, inputs() | of_job(job), work).code == ends


@pytest.mark.parametrize("job", ["matrix", "build", "measure", "release"])
@pytest.mark.parametrize(
    ("given", "asked"),
    [
        ({}, r"\.\[[a-z,]+\]"),
        ({"phiforge": "phiforge[{extras}]==0.2.0"}, r"phiforge\[[a-z,]+\]==0\.2\.0"),
        ({"phiforge": "phiforge[{extras}] @ git+https://x.org/y@z"}, r"phiforge\[[a-z,]+\] @ git\+https://x\.org/y@z"),
    ],
    ids=["checkout", "version", "commit"],
)
@pytest.mark.parametrize("pinned", [True, False])
def test_a_caller_says_what_is_installed(work: Path, job: str, given: dict[str, str], asked: str, pinned: bool) -> None:
    """Nothing of the caller's checkout is used but what is there: no tools/, no tests/, no constraints.txt."""
    if pinned:
        (work / "checkout" / "constraints.txt").write_text("", encoding="utf-8")
    (step,) = (step for step in scripts("release.yml", job) if "pip install" in step["run"])
    ran = run(step, inputs(**given) | {"matrix.extra": "webgpu"}, work)

    (*words, requirement) = next(call for call in ran.of("python") if "pip" in call)
    assert words == ["-m", "pip", "install", *(["-c", "constraints.txt"] if pinned else [])]
    assert re.fullmatch(asked, requirement)
    extras = re.findall(r"\[([a-z,]+)\]", requirement)[0].split(",")
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert all(re.search(rf"^{extra} = \[", text, re.MULTILINE) for extra in extras)


def test_no_script_names_a_file_of_this_repository() -> None:
    for name, job in load("release.yml")["jobs"].items():
        for step in job["steps"]:
            assert not re.search(r"\b(tests|tools|docs)/", step.get("run", "")), name


@pytest.mark.parametrize(
    ("given", "code"),
    [
        ({}, 0),
        ({"previous": "OWNER/x", "previous_identity": "someone"}, 0),
        ({"previous": "OWNER/x", "previous_public_key": "pem"}, 0),
        ({"previous": "OWNER/x", "unsigned": "yes"}, 0),
        ({"previous": "OWNER/x"}, 2),
        ({"previous": "OWNER/x", "previous_identity": "someone", "unsigned": "yes"}, 2),
        ({"phiforge": "phiforge==0.2.0"}, 2),
    ],
)
def test_inputs_that_cannot_be_are_refused_first(work: Path, given: dict[str, str], code: int) -> None:
    unsigned = {"inputs.previous_unsigned && 'yes' || ''": given.pop("unsigned", "")}
    assert run(scripts("release.yml", "matrix")[0], inputs(**given) | unsigned, work).code == code


def test_each_model_is_released_to_its_own_place(work: Path, two: dict[str, str]) -> None:
    (work / "checkout" / "packages" / "m.ortpackage").mkdir(parents=True)
    download, release = scripts("release.yml", "release")[-2:]
    places = []
    for job in jobs(work, **two)["release"]:
        values = inputs(**two) | of_job(job)
        (fetched,) = run(download, values, work).of("hf")
        (work / "checkout" / "previous").rmdir()
        called = read(run(release, values, work).of("phiforge")[-1])
        assert (called["against"], called["first"], called["keyless"]) == (Path("previous"), False, True)
        places.append((fetched[1], fetched[fetched.index("--revision") + 1], *called["to"]))
    assert places == [
        ("OWNER/one-onnx", "v1", "hf://OWNER/one-onnx"),
        ("OWNER/two-onnx", "v1", "hf://OWNER/two-onnx"),
    ]


@pytest.mark.parametrize(
    ("given", "checked", "trusted"),
    [
        (
            {"previous_identity": "signer"},
            ["--identity", "signer", "--identity-provider", "https://token.actions.githubusercontent.com"],
            {"identity": "signer", "identity_provider": "https://token.actions.githubusercontent.com"},
        ),
        ({"previous_public_key": "pem"}, ["--key", "previous.pem"], {"public_key": Path("previous.pem")}),
        ({}, ["--unsigned"], {}),
    ],
    ids=["identity", "key", "unsigned"],
)
def test_the_signer_of_the_previous_release_is_checked(
    work: Path, given: dict[str, str], checked: list[str], trusted: dict[str, object]
) -> None:
    (work / "checkout" / "packages" / "m.ortpackage").mkdir(parents=True)
    values = inputs(**given) | of_job({"destination": "folder:release", "previous": "OWNER/x"})
    step = scripts("release.yml", "release")[-1]
    verify, release = run(step, values, work).of("phiforge")

    read(verify)
    assert verify == ["verify", "previous", *checked]
    found = {key: value for key, value in read(release).items() if value is not None}
    assert trusted.items() <= found.items()
    assert {"identity", "public_key"} & found.keys() == trusted.keys() - {"identity_provider"}


@pytest.mark.parametrize("code", [4, 36, 60])
@pytest.mark.parametrize("given", [{"previous_identity": "s"}, {"previous_public_key": "s"}, {}], ids=str)
def test_nothing_is_released_against_what_does_not_verify(work: Path, given: dict[str, str], code: int) -> None:
    (work / "notes" / "phiforge-verify.code").write_text(str(code), encoding="utf-8")
    values = inputs(**given) | of_job({"destination": "folder:release", "previous": "OWNER/x"})
    ran = run(scripts("release.yml", "release")[-1], values, work)
    assert ran.code == code
    assert [call[0] for call in ran.of("phiforge")] == ["verify"]


def test_the_first_release_brings_evidence_and_waivers(work: Path) -> None:
    (work / "checkout" / "packages" / "m.ortpackage").mkdir(parents=True)
    for name in ("a b.json", "deep/er/c.json"):
        file = work / "checkout" / "evidence" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("{}", encoding="utf-8")
    values = inputs(waivers="cpu-x64=no device\n\nqnn/kl=no $HOME `date`\n") | of_job(
        {"destination": "folder:release/m", "previous": ""}
    )
    (call,) = run(scripts("release.yml", "release")[-1], values, work).of("phiforge")
    found = read(call)
    assert (found["first"], found["against"], found["version"]) == (True, None, "0.2.0")
    assert list(found["waive"]) == ["cpu-x64=no device", "qnn/kl=no $HOME `date`"]
    assert [path.as_posix() for path in found["evidence"]] == ["evidence/a b.json", "evidence/deep/er/c.json"]


# This repository's own tags.


@pytest.fixture
def own() -> dict[str, str]:
    given = load("tag.yml")["jobs"]["release"]["with"]
    assert isinstance(given, dict)
    return given


def test_our_own_tag_waives_what_no_runner_has_and_nothing_else(own: dict[str, str]) -> None:
    waived = [parse_waiver(line) for line in own["waivers"].splitlines()]
    assert [item.profile for item in waived] == [name for name in own["targets"].split() if name != "cpu-x64"]
    assert all(item.check is None and len(item.reason) > 40 for item in waived)
    assert "measure" not in own


def test_our_own_tag_gives_what_is_asked(own: dict[str, str], work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    declared = load("release.yml")["on"]["workflow_call"]["inputs"]
    required = {key for key, spec in declared.items() if spec.get("required")}
    assert required <= own.keys() <= declared.keys()

    monkeypatch.chdir(ROOT)
    given = {**own, "previous": "", "previous_identity": ""}
    (build,), (release,) = (jobs(work, **given)[stage] for stage in ("build", "release"))
    assert (build["checkpoint"], release["destination"]) == (NANO, "folder:release/phi-4-nano")
    attached = load("tag.yml")["jobs"]["attach"]["steps"]
    assert attached[0]["with"]["name"] == f"release-{release['model']}"
    assert "release/phi-4-nano" in attached[1]["run"]


@pytest.mark.parametrize(
    ("tags", "written"),
    [
        ("", ""),
        (
            "v0.1.0\nv0.0.9\n",
            (
                "place=github:v0.1.0/{model}.tar\n"
                "identity=https://github.com/OWNER/phiforge/.github/workflows/release.yml@refs/tags/v0.1.0\n"
            ),
        ),
    ],
)
def test_our_own_tag_is_held_against_the_last_one(work: Path, tags: str, written: str) -> None:
    (work / "notes" / "output").write_text("", encoding="utf-8")
    (work / "notes" / "gh-api.out").write_text(tags, encoding="utf-8")
    ran = run(scripts("tag.yml", "previous")[0], {"github.token": "t"}, work)
    assert ran.code == 0
    assert (work / "notes" / "output").read_text(encoding="utf-8") == written
    (query,) = (call[-1] for call in ran.of("gh"))
    assert "select(.draft | not)" in query
    assert "select(.tag_name != env.GITHUB_REF_NAME)" in query


def test_the_last_release_is_taken_from_its_tag(work: Path) -> None:
    values = of_job({"previous": "github:v0.1.0/phi-4-nano.tar"})
    (call,) = run(scripts("release.yml", "release")[-2], values, work).of("gh")
    assert call[:3] == ["release", "download", "v0.1.0"]
    assert call[call.index("--pattern") + 1] == "phi-4-nano.tar"


def test_a_hub_that_cannot_be_asked_is_no_first_release(work: Path) -> None:
    (work / "notes" / "gh-api.code").write_text("1", encoding="utf-8")
    assert run(scripts("tag.yml", "previous")[0], {"github.token": "t"}, work).code == 1


@pytest.mark.parametrize(("known", "verb"), [("0", "upload"), ("1", "create")])
def test_a_repeated_run_attaches_again(work: Path, known: str, verb: str) -> None:
    (work / "tools" / "gh").write_text(TOOL.replace("-$1", "-$2"), encoding="utf-8", newline="\n")
    (work / "notes" / "gh-view.code").write_text(known, encoding="utf-8")
    calls = run(scripts("tag.yml", "attach")[0], {}, work).of("gh")
    assert [call[1] for call in calls] == ["view", verb]


# The page.


def test_the_example_of_the_page_is_a_call(work: Path) -> None:
    page = (ROOT / "docs" / "automation.md").read_text(encoding="utf-8")
    (example,) = (yaml.safe_load(text) for text in re.findall(r"(?:^    .*\n)+", page, re.MULTILINE) if "uses:" in text)
    given = example["jobs"]["models"]["with"]
    found = jobs(work, **given)
    assert [job["destination"] for job in found["release"]] == [
        given["destination"].replace("{model}", name.partition("/")[2]) for name in given["checkpoints"].split()
    ]
    declared = load("release.yml")["on"]["workflow_call"]
    assert {f"`{key}`" for key in declared["inputs"]} <= set(re.findall(r"`[^`]+`", page))
