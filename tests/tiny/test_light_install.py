"""The light install, for real: an environment without torch, Olive and transformers, away from the project.

The package was made elsewhere; its path has spaces and letters that are not ASCII, and so have the folders written.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

import phiforge
from phiforge.evidence import Drift, load_evidence
from phiforge.evidence_file import load_evidence_file
from phiforge.verbs.build import BuildResult

ROOT = Path(__file__).parents[2]
HEAVY = ("torch", "transformers", "olive", "numba")
VERBS = ("bench", "chat", "explain", "measure", "report", "validate", "verify")
BIN = "Scripts" if sys.platform == "win32" else "bin"
Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="session")
def light(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The scripts' folder of an environment made as docs/device-kit.md says: the wheel with the extra `cpu`."""
    folder = tmp_path_factory.mktemp("light")
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    pip = [str(folder / BIN / "python"), "-m", "pip", "--disable-pip-version-check", "-q"]
    _run_pip([*pip, "wheel", "--no-deps", "-w", str(folder / "dist"), str(ROOT)])
    (wheel,) = (folder / "dist").glob("phiforge-*.whl")
    _run_pip([*pip, "install", "-c", str(ROOT / "constraints.txt"), f"{wheel}[cpu]"])
    return folder / BIN


def _run_pip(command: list[str]) -> None:
    done = subprocess.run(command, env=_environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="session")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working folder that is in no project."""
    return tmp_path_factory.mktemp("Gerät Nr. 1 – 端末")


@pytest.fixture(scope="session")
def package(nano_build: BuildResult, place: Path) -> Path:
    assert nano_build.package is not None
    copy = place / "mein Paket ü.ortpackage"
    shutil.copytree(nano_build.package, copy)
    return copy


@pytest.fixture(scope="session")
def run(light: Path, place: Path) -> Run:
    def command(*arguments: object, code: int | None = 0) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [str(light / "phiforge"), *map(str, arguments)], cwd=place, env=_environment(), capture_output=True,
            encoding="utf-8",
        )  # fmt: skip
        assert "Traceback" not in done.stderr, done.stderr
        assert code is None or done.returncode == code, done.stdout + done.stderr
        return done

    return command


def _environment() -> dict[str, str]:
    """This process's environment, without a way to the checkout."""
    return {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}


@pytest.fixture(scope="session")
def measured(run: Run, package: Path, place: Path) -> Path:
    """The evidence file of the one command."""
    run("measure", package, "--output", "Messung ✓", code=None)
    (file,) = (place / "Messung ✓").glob("evidence-*.json")
    return file


def test_nothing_heavy_is_there(light: Path, place: Path) -> None:
    code = "import importlib.util as u, sys; print([n for n in sys.argv[1:] if u.find_spec(n)])"
    found = subprocess.run(
        [str(light / "python"), "-c", code, *HEAVY, "phiforge"], cwd=place, env=_environment(), capture_output=True,
        text=True, check=True,
    )  # fmt: skip
    assert found.stdout.strip() == "['phiforge']"


def test_no_verb_of_the_kit_brings_what_builds(light: Path, place: Path) -> None:
    modules = ", ".join(f"phiforge.verbs.{verb}" for verb in VERBS)
    listed = "print([name for name in sys.modules if name.startswith('phiforge.olive')])"
    code = f"import sys, phiforge.validation.run, {modules}; {listed}"
    found = subprocess.run(
        [str(light / "python"), "-c", code], cwd=place, env=_environment(), capture_output=True, text=True, check=True
    )
    assert found.stdout.strip() == "[]"


def test_it_says_what_this_machine_gets(run: Run, package: Path) -> None:
    assert "This machine gets cpu-int4" in run("explain", package).stdout
    assert "as it was sealed" in run("verify", package).stdout


def test_one_command_writes_one_file(run: Run, package: Path, measured: Path, place: Path) -> None:
    file = load_evidence_file(measured)
    assert [record.evidence for record in file.records] == [
        "drift", "tasks", "free-running", "refusals", "probes", "latency",
    ]  # fmt: skip
    assert not set(HEAVY) & set(file.records[0].conditions.versions)
    before = measured.read_bytes()
    told = run("measure", package, "--output", "Messung ✓", code=None)
    assert "nothing changed, not done again" in told.stderr
    assert "Nodes on CPUExecutionProvider" in told.stdout
    assert f"Evidence: Messung ✓/{measured.name}".replace("/", os.sep) in told.stdout
    assert measured.read_bytes() == before


def test_it_measures_what_the_full_install_does(measured: Path, package: Path, tmp_path: Path) -> None:
    """The same code path: the drift is the same number, here and there."""
    here = phiforge.validate(package, output=tmp_path)["cpu-int4"]
    own, theirs = load_evidence(here / "drift.json"), load_evidence_file(measured).records[0]
    assert isinstance(own, Drift) and isinstance(theirs, Drift)
    assert own.kl_nats.mean == pytest.approx(theirs.kl_nats.mean, rel=1e-6)


def test_the_build_machine_merges_it(nano_build: BuildResult, measured: Path, tmp_path: Path) -> None:
    assert nano_build.package is not None
    made = phiforge.report([nano_build.package], output=tmp_path, evidence=[measured]).fleet.report_for("cpu-x64")
    assert made.latency == load_evidence_file(measured).records[-1]


def test_validate_and_bench_need_no_checkpoint_and_no_profile(run: Run, package: Path, place: Path) -> None:
    run("validate", package, "--output", "Beleg", "-q")
    run("bench", package, "--output", "Beleg", "-q")
    run("bench", package, "--target", "cpu-x64", "--output", "Beleg 2", "-q")
    names = {path.name for path in (place / "Beleg" / "cpu-int4").iterdir()}
    expected = {"drift", "tasks", "free-running", "refusals", "probes", "latency-cpu-x64"}
    assert {name.removesuffix(".json") for name in names} == expected
    assert [path.name for path in (place / "Beleg 2" / "cpu-int4").iterdir()] == ["latency-cpu-x64.json"]


def test_it_merges_too_and_refuses_what_was_edited(run: Run, package: Path, measured: Path, place: Path) -> None:
    done = run("report", package, "--evidence", measured, "--output", "Bericht", code=None)
    assert done.returncode in {0, 3, 4}
    assert (place / "Bericht" / "report.html").is_file()
    edited = place / "besser.json"
    edited.write_text(measured.read_text(encoding="utf-8").replace('"load_ms": ', '"load_ms": 1'), encoding="utf-8")
    refused = run("report", package, "--evidence", edited, code=34)
    assert "was changed after it was written" in refused.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (["build", "{checkpoint}", "--target", "cpu-x64", "--project", str(ROOT)], 29, "Olive"),
        (["validate", "{package}", "--checkpoint", "{checkpoint}"], 29, "torch"),
        (["validate", "{package}/models/model/cpu-int4"], 10, "--checkpoint"),
        (["bench", "{package}/models/model/cpu-int4"], 21, "--target"),
        (["bench", "{package}", "--target", "qnn-x-elite"], 21, "cpu-x64"),
        (["measure", "{package}", "--output", "{package}/manifest.json"], 52, "--output"),
        (["measure", "{package}/models"], 35, ".ortpackage"),
    ],
    ids=["build", "checkpoint", "folder", "no target", "another target", "unwritable", "no package"],
)
def test_what_it_cannot_do_it_says(
    run: Run, package: Path, nano_checkpoint: Path, arguments: list[str], code: int, told: str
) -> None:
    filled = [text.format(package=package, checkpoint=nano_checkpoint) for text in arguments]
    assert told in run(*filled, code=code).stderr


def test_killed_half_way_it_goes_on(light: Path, run: Run, package: Path, place: Path) -> None:
    """Killed as soon as the first part is done: the next run does not do it again, and the file is written."""
    output = place / "abgebrochen"
    command = [str(light / "phiforge"), "measure", str(package), "--output", str(output), "-q"]
    process = subprocess.Popen(
        command, cwd=place, env=_environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 600
    while not (parts := _parts(output)) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.002)
    process.kill()
    process.wait()
    assert parts, "no part was ever done"
    assert not list(output.glob("evidence-*"))
    before = {part: part.stat().st_mtime_ns for part in parts}
    told = run("measure", package, "--output", output, code=None)
    assert "placement of cpu-int4  nothing changed, not done again" in told.stderr
    assert {part: part.stat().st_mtime_ns for part in parts} == before
    assert len(_parts(output)) == 4
    assert len(list(output.glob("evidence-*.json"))) == 1
    assert not list(output.glob("measured/*/.*.partial"))


def _parts(output: Path) -> list[Path]:
    return [path for path in output.glob("measured/part/*") if not path.name.startswith(".")]
