"""Memory and time of an NPU variant at real shapes, stage by stage: a table of docs/benchmarks.md.

    PYTHONPATH=tests python -m bench.npu [--jobs NAME ...] [--checkpoints FOLDER] [--output FOLDER]

Each job is a build alone, from a checkpoint with random weights to the compiled variant and its twin, in processes of
its own (Linux). The rounding is calibrated on few tokens, because that changes the time and not the memory. Checkpoints
are written once and kept: 7.7 GB for phi-4-mini, 1.7 and 3.4 GB for two layers of it and of phi-4. The whole model
fills 25 GB more while it is built.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections import defaultdict
from dataclasses import asdict, dataclass
from pathlib import Path

from bench.real_shapes import write_real_shape
from bench.watched import INTERVAL_S, tree_anonymous_bytes
from phiforge.checkpoint.inspect import inspect_checkpoint
from phiforge.checkpoint.nano import EVAL_DIR
from phiforge.graph.npu.check import check_stages
from phiforge.hashing import hash_file
from phiforge.olive.driver import OliveRun, run_olive
from phiforge.pipeline import CalibrateOptions, Pipeline, QuantizeOptions, StagesOptions, load_pipeline
from phiforge.plan import Plan, resolve
from phiforge.target import Profile, load_profile
from phiforge.variant import CALIBRATION_FILE, MODEL_FOLDER, NPU_FILE, QDQ_FOLDER, NpuFacts
from phiforge.verbs.make_variant import NPU_FILES

ROOT = Path(__file__).parents[2]
GIB = 1 << 30
CALIBRATION = EVAL_DIR / "calibration.jsonl"
PROFILE = "qnn-x-elite"
# What Olive writes to its log when a pass starts and when it ends.
PASS_LINE = re.compile(r"(Running pass|Pass) (\w+):")
# Olive's start, the time between its passes, and the check of the graphs.
AROUND = "around"
# What the plan calls a pass that it names otherwise.
STEPS = {"calibrate": "calibrate activations"}
EMBEDDING = "model.embed_tokens"


@dataclass(frozen=True, kw_only=True)
class Job:
    """A build of one model, cut to `layers`; `limit_gib` is what it must stay below. Without GPTQ, RTN rounds."""

    model: str
    layers: int | None
    limit_gib: float
    calibration_tokens: int = 2048
    head_on_npu: bool = False
    gptq: bool = True


JOBS: dict[str, Job] = {
    "phi-4-mini, 2 layers": Job(model="phi-4-mini", layers=2, limit_gib=6.0),
    "phi-4, 2 layers": Job(model="phi-4", layers=2, limit_gib=6.0),
    "phi-4-mini, 2 layers, head on the NPU": Job(model="phi-4-mini", layers=2, limit_gib=6.0, head_on_npu=True),
    "phi-4-mini, RTN": Job(model="phi-4-mini", layers=None, limit_gib=8.0, calibration_tokens=1024, gptq=False),
    "phi-4-mini": Job(model="phi-4-mini", layers=None, limit_gib=8.0, calibration_tokens=1024),
}


@dataclass(frozen=True, kw_only=True)
class StageRow:
    """What one stage took, and what was predicted."""

    stage: str
    seconds: float
    peak_anon_bytes: int
    predicted_seconds: float | None
    predicted_bytes: int | None


@dataclass(frozen=True, kw_only=True)
class Row:
    """What one job took: its stages, and the bytes of the variant and of the binaries in it."""

    job: str
    limit_gib: float
    status: int
    stages: tuple[StageRow, ...]
    variant_bytes: int
    binary_bytes: int

    @property
    def peak_anon_bytes(self) -> int:
        """The most of any stage."""
        return max(stage.peak_anon_bytes for stage in self.stages)


def main() -> None:
    """Run the jobs in their order and write the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--jobs", nargs="*", default=list(JOBS), choices=list(JOBS), metavar="NAME")
    parser.add_argument("--checkpoints", type=Path, default=ROOT / "artifacts" / "bench" / "checkpoints")
    parser.add_argument("--output", type=Path, default=ROOT / "artifacts" / "bench" / "npu")
    parser.add_argument("--keep", action="store_true", help="keep what was built")
    parser.add_argument("--inside", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.inside:
        run_inside(JOBS[args.inside], args.checkpoints, args.output)
        return
    rows = []
    for name in args.jobs:
        rows.append(run_job(name, _checkpoint(JOBS[name], args.checkpoints), args.output))
        sys.stderr.write(f"{rows[-1]}\n")
        (args.output / "npu.json").write_text(json.dumps([asdict(row) for row in rows], indent=1), encoding="utf-8")
        if not args.keep and rows[-1].status == 0:
            shutil.rmtree(args.output / _slug(name))
    sys.stdout.write(_table(rows))


def run_job(name: str, checkpoint: Path, output: Path) -> Row:
    """Run one job from nothing under watch."""
    folder = output / _slug(name)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    command = [sys.executable, "-m", "bench.npu", "--inside", name]
    command += ["--checkpoints", str(checkpoint), "--output", str(folder)]
    watch, status = _run_watched(command, folder)
    predicted = {step.step: step for step in _plan(JOBS[name], checkpoint).preflight.steps}
    stages = []
    for stage, seconds in watch.seconds.items():
        step = predicted.get(STEPS.get(stage, stage))
        stages.append(
            StageRow(
                stage=stage,
                seconds=seconds,
                peak_anon_bytes=watch.peaks[stage],
                predicted_seconds=step.seconds if step else None,
                predicted_bytes=step.memory_bytes if step else None,
            )
        )
    made = folder / "made"
    return Row(
        job=name,
        limit_gib=JOBS[name].limit_gib,
        status=status,
        stages=tuple(stages),
        variant_bytes=sum(path.stat().st_size for path in (made / MODEL_FOLDER).glob("*")),
        binary_bytes=_binary_bytes(made / NPU_FILE),
    )


class _Watch:
    """Time and peak memory by the pass that Olive's log says is running."""

    def __init__(self, log: Path) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self.peaks: dict[str, int] = defaultdict(int)
        self._log, self._read, self._stage = log, 0, AROUND

    def sample(self, pid: int, seconds: float) -> None:
        """Count the seconds since the last sample, and the memory of the process tree now."""
        stage = self._running()
        self.seconds[stage] += seconds
        self.peaks[stage] = max(self.peaks[stage], tree_anonymous_bytes(pid))

    def _running(self) -> str:
        if self._log.is_file():
            with self._log.open("rb") as file:
                file.seek(self._read)
                lines = file.read().rpartition(b"\n")[0] + b"\n"
            self._read += len(lines) if len(lines) > 1 else 0
            for word, stage in PASS_LINE.findall(lines.decode(errors="replace")):
                self._stage = stage if word.startswith("Running") else AROUND
        return self._stage


def _run_watched(command: list[str], folder: Path) -> tuple[_Watch, int]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT / "tools"), str(ROOT / "tests")])}
    watch, last = _Watch(folder / "work" / "olive.log"), time.monotonic()
    with (folder / "log.txt").open("wb") as file:
        process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, env=environment)
        while process.poll() is None:
            now = time.monotonic()
            watch.sample(process.pid, now - last)
            last = now
            time.sleep(INTERVAL_S)
    return watch, process.returncode


def run_inside(job: Job, checkpoint: Path, folder: Path) -> None:
    """Build and check the graphs, in the process that is watched."""
    (variant,) = _plan(job, checkpoint).variants
    assert variant.npu is not None
    made = folder / "made"
    run = OliveRun(
        workflow=variant.workflow,
        checkpoint=checkpoint,
        work=folder / "work",
        output=made,
        calibration=CALIBRATION,
        promised=NPU_FILES,
    )
    run_olive(run, _tell)
    check_stages(made / QDQ_FOLDER, variant.weights, variant.npu, tied=variant.tied)


def _tell(step: str, done: int, total: int) -> None:
    sys.stderr.write(f"{step} {done}/{total}\n")


def _plan(job: Job, checkpoint: Path) -> Plan:
    profile = _profile(job)
    name = profile.build.pipeline
    facts = inspect_checkpoint(checkpoint, scan=False)
    return resolve(facts, "bench", [profile], {name: _pipeline(job, name)}, {})


def _profile(job: Job) -> Profile:
    """The device's profile, with few tokens of calibration."""
    profile = load_profile(ROOT / "targets" / f"{PROFILE}.toml")
    assert profile.npu is not None
    npu = profile.npu.model_copy(update={"calibration_tokens": job.calibration_tokens})
    return profile.model_copy(update={"npu": npu})


def _pipeline(job: Job, name: str) -> Pipeline:
    pipeline = load_pipeline(ROOT / "pipelines" / f"{name}.yaml")
    for kind in (QuantizeOptions, CalibrateOptions):
        pipeline = pipeline.with_options(kind, calibration=CALIBRATION_FILE, calibration_sha256=hash_file(CALIBRATION))
    if job.head_on_npu:
        pipeline = pipeline.with_options(StagesOptions, head="npu").with_quantize_options(in_blocks=(EMBEDDING,))
    if not job.gptq:
        pipeline = pipeline.with_quantize_options(algorithm="rtn", smoothing=None)
    return pipeline


def _checkpoint(job: Job, folder: Path) -> Path:
    found = folder / (job.model if job.layers is None else f"{job.model}-{job.layers}")
    if not (found / "done").is_file():
        write_real_shape(found, job.model, layers=job.layers)
        (found / "done").touch()
    return found


def _binary_bytes(file: Path) -> int:
    if not file.is_file():
        return 0
    return sum(binary.bytes for binary in NpuFacts.model_validate_json(file.read_bytes()).binaries)


def _slug(name: str) -> str:
    return re.sub(r"\W+", "-", name)


def _table(rows: list[Row]) -> str:
    lines = [
        "| job | stage | peak anonymous memory | predicted | wall time | predicted |\n",
        "|---|---|---|---|---|---|\n",
    ]
    for row in rows:
        failed = "" if row.status == 0 else f" (exit {row.status})"
        for stage in row.stages:
            memory = f"{stage.predicted_bytes / GIB:.2f} GiB" if stage.predicted_bytes else ""
            seconds = f"{stage.predicted_seconds:,.0f} s" if stage.predicted_seconds else ""
            lines.append(
                f"| {row.job}{failed} | {stage.stage} | {stage.peak_anon_bytes / GIB:.2f} GiB | {memory} | "
                f"{stage.seconds:,.0f} s | {seconds} |\n"
            )
        lines.append(
            f"| {row.job}{failed} | all: {row.variant_bytes / 1e9:.2f} GB, {row.binary_bytes / 1e9:.2f} GB of them "
            f"compiled | {row.peak_anon_bytes / GIB:.2f} GiB of {row.limit_gib:.0f} GiB | | "
            f"{sum(stage.seconds for stage in row.stages):,.0f} s | |\n"
        )
    return "".join(lines)


if __name__ == "__main__":
    main()
