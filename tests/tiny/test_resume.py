"""A build killed at any stage, started again, gives the package of an undisturbed build."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# A stage, and a file or folder in the output whose appearance says that it has begun.
MOMENTS = {
    "rotate": "store/unfinished/olive-*/cache/*/runs/*/models/model.safetensors.partial",
    "quantize": "store/unfinished/olive-*/pass-work/layer-000.safetensors",
    "export": "store/unfinished/olive-*/cache/*/runs/*/models/.checkpoint",
    "validate": "store/validation/.*.partial",
    "bench": "store/latency/.*.partial",
    "package": ".small.ortpackage.partial",
}


def _command(checkpoint: Path, output: Path, texts: Path) -> list[str]:
    return [
        sys.executable,
        "-m",
        "phiforge",
        "build",
        str(checkpoint),
        "--target",
        "cpu-x64",
        "--output",
        str(output),
        "--texts",
        str(texts),
        "--quiet",
    ]


def _environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT / "tools")}


def _build(command: list[str]) -> str:
    done = subprocess.run(command, cwd=ROOT, env=_environment(), capture_output=True, text=True)
    assert done.returncode in {0, 3, 4}, done.stderr
    return next(line for line in done.stdout.splitlines() if line.startswith("Content:"))


def _kill_at(command: list[str], output: Path, pattern: str) -> bool:
    """Kill the build when the pattern appears; return whether it was still running."""
    process = subprocess.Popen(
        command, cwd=ROOT, env=_environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 600
    while process.poll() is None and time.monotonic() < deadline:
        if any(output.glob(pattern)):
            process.send_signal(signal.SIGKILL)
            process.wait()
            return True
        time.sleep(0.002)
    process.kill()
    process.wait()
    return False


def _killed(command: list[str], output: Path, patterns: Iterable[str]) -> bool:
    """Kill the build at each pattern in turn; begin again if a busy machine let a short moment pass unseen."""
    wanted = list(patterns)
    for _ in range(3):
        if all(_kill_at(command, output, pattern) for pattern in wanted):
            return True
        shutil.rmtree(output)
    return False


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("texts") / "texts.jsonl"
    lines = [f'{{"id": "{n}", "text": "{" ".join(str(n * k % 97) for k in range(40))}"}}\n' for n in range(1, 7)]
    path.write_text("".join(lines), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def undisturbed(small_checkpoint: Path, texts: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    return _build(_command(small_checkpoint, tmp_path_factory.mktemp("undisturbed"), texts))


@pytest.mark.long
@pytest.mark.parametrize("moment", MOMENTS)
def test_killed_and_started_again(
    small_checkpoint: Path, texts: Path, undisturbed: str, tmp_path: Path, moment: str
) -> None:
    command = _command(small_checkpoint, tmp_path / "out", texts)
    assert _killed(command, tmp_path / "out", [MOMENTS[moment]]), f"{moment} was never seen"
    assert not (tmp_path / "out" / "small.ortpackage").exists()
    assert _build(command) == undisturbed
    assert list((tmp_path / "out").glob("store/*/.*.partial")) == []


def test_killed_repeatedly(small_checkpoint: Path, texts: Path, undisturbed: str, tmp_path: Path) -> None:
    """One output folder, killed in every stage in turn, never done twice what was finished."""
    command = _command(small_checkpoint, tmp_path / "out", texts)
    assert _killed(command, tmp_path / "out", MOMENTS.values())
    assert _build(command) == undisturbed


@pytest.mark.long
def test_interrupted_says_so_and_leaves_nothing(small_checkpoint: Path, texts: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    process = subprocess.Popen(
        _command(small_checkpoint, output, texts),
        cwd=ROOT,
        env=_environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # A test run in the background inherits that SIGINT is ignored, and so would the build.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    while process.poll() is None and not any(output.glob(MOMENTS["bench"])):
        time.sleep(0.005)
    process.send_signal(signal.SIGINT)
    _, told = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Interrupted" in told
    assert "Traceback" not in told
    assert list(output.glob("store/*/.*.partial")) == []
    assert not (output / "small.ortpackage").exists()
