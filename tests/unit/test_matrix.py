"""The jobs of a release: what they hold, and which names are refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from phiforge import errors
from phiforge.checkpoint.family import model_of_hub_id
from phiforge.cli.app import app
from phiforge.verbs.matrix import matrix

ROOT = Path(__file__).parents[2]


@pytest.fixture
def checkpoints(tmp_path: Path) -> list[Path]:
    for name in ("phi-4-nano", "mine"):
        (tmp_path / name).mkdir()
    return [tmp_path / "phi-4-nano", tmp_path / "mine"]


def test_models_times_devices(checkpoints: list[Path]) -> None:
    jobs = matrix(checkpoints, targets=["cpu-x64", "qnn-x-elite", "cpu-x64"], project=ROOT)

    assert [(job.model, job.targets, job.artifact, job.revision) for job in jobs.build] == [
        ("phi-4-nano", ("cpu-x64", "qnn-x-elite"), "package-phi-4-nano", ""),
        ("mine", ("cpu-x64", "qnn-x-elite"), "package-mine", ""),
    ]
    cpu, npu = jobs.measure[:2]
    assert (cpu.profile, cpu.verb, cpu.extra, cpu.package) == ("cpu-x64", "measure", "cpu", "package-phi-4-nano")
    assert (npu.profile, npu.verb, npu.extra, npu.labels) == (
        "qnn-x-elite",
        "bench",
        "qnn",
        ("self-hosted", "phiforge-qnn-x-elite"),
    )
    assert npu.artifact == "evidence-phi-4-nano--qnn-x-elite"
    assert len(jobs.measure) == 4
    assert all(
        job.artifact.startswith(release.evidence) == (job.model == release.model)
        for job in jobs.measure
        for release in jobs.release
    )


def test_several_models_go_to_several_places(checkpoints: list[Path]) -> None:
    jobs = matrix(
        checkpoints,
        targets=["cpu-x64"],
        destination="hf://OWNER/{model}-onnx",
        previous="OWNER/{model}-onnx@main",
        project=ROOT,
    )

    assert [(job.model, job.destination, job.previous) for job in jobs.release] == [
        ("phi-4-nano", "hf://OWNER/phi-4-nano-onnx", "OWNER/phi-4-nano-onnx@main"),
        ("mine", "hf://OWNER/mine-onnx", "OWNER/mine-onnx@main"),
    ]


def test_one_model_needs_no_placeholder(checkpoints: list[Path]) -> None:
    (job,) = matrix(checkpoints[:1], targets=["cpu-x64"], destination="folder:release", project=ROOT).release
    assert (job.destination, job.previous) == ("folder:release", "")


@pytest.mark.parametrize("option", ["--destination", "--previous"])
@pytest.mark.parametrize(
    ("place", "said"),
    [("hf://OWNER/models", "one place for 2 models (phi-4-nano, mine)"), ("hf://OWNER/{name}", "has {name}; only")],
)
def test_places_that_tell_no_models_apart(checkpoints: list[Path], option: str, place: str, said: str) -> None:
    words = ["matrix", *map(str, checkpoints), "--target", "cpu-x64", "--project", str(ROOT), option, place]
    result = CliRunner().invoke(app, words)

    assert result.exit_code == 2
    assert said in " ".join(result.output.replace("│", " ").split())


def test_models_of_the_hub_keep_their_commit() -> None:
    known = model_of_hub_id("microsoft/Phi-4-mini-instruct")
    assert known is not None
    (job,) = matrix([Path("microsoft/Phi-4-mini-instruct")], targets=["cpu-x64"], project=ROOT).build
    assert (job.model, job.checkpoint, job.revision) == ("Phi-4-mini-instruct", known.hub_id, known.revision)

    commit = "a" * 40
    (job,) = matrix([Path(f"someone/other@{commit}")], targets=["cpu-x64"], project=ROOT).build
    assert (job.model, job.checkpoint, job.revision) == ("other", "someone/other", commit)


@pytest.mark.parametrize(
    ("checkpoint", "error"),
    [
        ("absent", errors.CheckpointNotFoundError),
        ("here/absent", errors.CheckpointNotFoundError),
        ("someone/other@main", errors.RevisionInvalidError),
        (f"here@{'a' * 40}", errors.RevisionInvalidError),
    ],
)
def test_what_is_no_checkpoint(
    checkpoint: str, error: type[errors.PhiforgeError], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(error):
        matrix([Path(checkpoint)], targets=["cpu-x64"], project=ROOT)


def test_an_unknown_profile(checkpoints: list[Path]) -> None:
    with pytest.raises(errors.ProfileUnknownError, match="Did you mean 'cpu-x64'"):
        matrix(checkpoints, targets=["cpu-x46"], project=ROOT)


@pytest.mark.parametrize(
    ("names", "options", "said"),
    [
        (("a/same", "b/same"), (), "Two checkpoints are called same"),
        (("a/na me",), (), "cannot be the name of an artifact"),
        (("a/same",), ("--measure", "qnn-x-elite"), "cannot be measured"),
        (("a/same",), ("--measure", "cpu-x64", "--no-measure"), "--no-measure"),
    ],
)
def test_wrong_usage(names: tuple[str, ...], options: tuple[str, ...], said: str, tmp_path: Path) -> None:
    folders = [tmp_path / name for name in names]
    for folder in folders:
        folder.mkdir(parents=True)
    words = ["matrix", *map(str, folders), "--target", "cpu-x64", "--project", str(ROOT), *options]
    result = CliRunner().invoke(app, words)

    assert result.exit_code == 2
    assert said in " ".join(result.output.replace("│", " ").split())


def test_both_ways_of_printing_say_the_same(checkpoints: list[Path]) -> None:
    words = ["matrix", str(checkpoints[0]), "-t", "cpu-x64", "-t", "webgpu-generic", "--measure", "webgpu-generic"]
    plain = CliRunner().invoke(app, [*words, "--project", str(ROOT)])
    lines = CliRunner().invoke(app, [*words, "--project", str(ROOT), "--github"])

    stages = dict(line.split("=", 1) for line in lines.output.splitlines())
    assert {stage: json.loads(text)["include"] for stage, text in stages.items()} == json.loads(plain.output)
    assert [job["profile"] for job in json.loads(plain.output)["measure"]] == ["webgpu-generic"]
    assert (
        json.loads(CliRunner().invoke(app, [*words[:4], "--project", str(ROOT), "--no-measure"]).output)["measure"]
        == []
    )
