"""Memory and time at real shapes: the table of docs/benchmarks.md, each job in processes of its own.

    PYTHONPATH=tests python -m bench.scale [--jobs NAME ...] [--checkpoints FOLDER] [--output FOLDER] [--layers N]

Jobs of one model run one after the other, so that their ratios are of one run. `stock` is the onnxruntime-genai
builder's own int4 build, which needs 22 GiB of free memory for Phi-4-mini. Checkpoints of real shapes with random
weights are written once (7.7 GB for phi-4-mini, 29 GB for phi-4) and kept.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

from bench.real_shapes import SHAPES, write_real_shape
from bench.watched import run_watched
from phiforge.checkpoint.inspect import inspect_checkpoint
from phiforge.checkpoint.nano import EVAL_DIR
from phiforge.hashing import hash_file
from phiforge.olive.driver import OliveRun, run_olive
from phiforge.pipeline import Pipeline, RotateOptions, load_pipeline
from phiforge.plan import Plan, resolve
from phiforge.target import Profile, load_profile
from phiforge.variant import CALIBRATION_FILE

ROOT = Path(__file__).parents[2]
GIB = 1 << 30
FEW_TOKENS = 1024
CALIBRATION = EVAL_DIR / "calibration.jsonl"


@dataclass(frozen=True, kw_only=True)
class Job:
    """A build, or the drift reference, of one model; `limit_gib` is what it must stay below."""

    model: str
    kind: str
    limit_gib: float | None
    options: dict[str, object]
    rotated: bool = False
    target: str = "cpu-x64"


_PLAIN = {"block_size": 32, "mixed": "none", "lm_head_bits": 4, "embedding_bits": 4, "symmetric": False}
JOBS: dict[str, Job] = {
    "stock": Job(model="phi-4-mini", kind="stock", limit_gib=None, options={}),
    "rtn": Job(model="phi-4-mini", kind="build", limit_gib=1.0, options=_PLAIN | {"algorithm": "rtn"}),
    "k-quant": Job(model="phi-4-mini", kind="build", limit_gib=1.0, options=_PLAIN | {"algorithm": "k-quant"}),
    "gptq": Job(model="phi-4-mini", kind="build", limit_gib=4.0, options=_PLAIN | {"algorithm": "gptq"}),
    "awq": Job(model="phi-4-mini", kind="build", limit_gib=4.0, options=_PLAIN | {"algorithm": "awq"}),
    "rotate": Job(model="phi-4-mini", kind="build", limit_gib=3.0, options=_PLAIN | {"algorithm": "rtn"}, rotated=True),
    "directml": Job(
        model="phi-4-mini",
        kind="build",
        limit_gib=1.0,
        options=_PLAIN | {"algorithm": "rtn"},
        target="directml-generic",
    ),
    "reference": Job(model="phi-4-mini", kind="reference", limit_gib=3.0, options={}),
    "phi-4 rtn": Job(model="phi-4", kind="build", limit_gib=1.5, options=_PLAIN | {"algorithm": "rtn"}),
    "phi-4 k-quant": Job(model="phi-4", kind="build", limit_gib=1.5, options=_PLAIN | {"algorithm": "k-quant"}),
    "phi-4 directml": Job(
        model="phi-4",
        kind="build",
        limit_gib=1.5,
        options=_PLAIN | {"algorithm": "rtn"},
        target="directml-generic",
    ),
}


@dataclass(frozen=True, kw_only=True)
class Row:
    """What one job took, and what was predicted."""

    job: str
    model: str
    seconds: float
    predicted_seconds: float | None
    peak_anon_bytes: int
    predicted_bytes: int | None
    limit_gib: float | None
    output_bytes: int
    status: int


def main() -> None:
    """Run the jobs in their order and write the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--jobs", nargs="*", default=list(JOBS), choices=list(JOBS))
    parser.add_argument("--checkpoints", type=Path, default=ROOT / "artifacts" / "bench" / "checkpoints")
    parser.add_argument("--output", type=Path, default=ROOT / "artifacts" / "bench" / "scale")
    parser.add_argument("--layers", type=int, help="cut the models to so many layers")
    parser.add_argument("--keep", action="store_true", help="keep what was built")
    parser.add_argument("--inside", help=argparse.SUPPRESS)
    parser.add_argument("--few-tokens", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.inside:
        run_inside(args.inside, args.checkpoints, args.output, few_tokens=args.few_tokens)
        return
    rows = []
    for name in args.jobs:
        checkpoint = _checkpoint(JOBS[name].model, args.checkpoints, args.layers)
        rows.append(run_job(name, checkpoint, args.output))
        sys.stderr.write(f"{rows[-1]}\n")
        if not args.keep:
            shutil.rmtree(args.output / name.replace(" ", "-"))
        (args.output / "scale.json").write_text(json.dumps([asdict(row) for row in rows], indent=1), encoding="utf-8")
    sys.stdout.write(_table(rows))


def run_job(name: str, checkpoint: Path, output: Path, *, few_tokens: bool = False) -> Row:
    """Run one job from nothing under watch; with few calibration tokens it takes less time and as much memory."""
    job = JOBS[name]
    folder = output / name.replace(" ", "-")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    watched = run_watched(_command(name, checkpoint, folder, few_tokens), folder / "log.txt")
    predicted = _predicted(job, checkpoint)
    made = folder.rglob("model.onnx*")
    return Row(
        job=name,
        model=job.model,
        seconds=watched.seconds,
        predicted_seconds=predicted[1] if predicted else None,
        peak_anon_bytes=watched.peak_anon_bytes,
        predicted_bytes=predicted[0] if predicted else None,
        limit_gib=job.limit_gib,
        output_bytes=sum(path.stat().st_size for path in made if "cache" not in path.parts),
        status=watched.status,
    )


def _command(name: str, checkpoint: Path, folder: Path, few_tokens: bool) -> list[str]:
    if JOBS[name].kind == "stock":
        options = {"-i": checkpoint, "-o": folder / "model", "-p": "int4", "-e": "cpu", "-c": folder / "cache"}
        command = [sys.executable, "-m", "onnxruntime_genai.models.builder"]
        command += [str(part) for option in options.items() for part in option]
        return [*command, "--extra_options", "int4_accuracy_level=4"]
    command = [sys.executable, "-m", "bench.scale", "--inside", name]
    command += ["--checkpoints", str(checkpoint), "--output", str(folder)]
    return [*command, "--few-tokens"] if few_tokens else command


def run_inside(name: str, checkpoint: Path, folder: Path, *, few_tokens: bool) -> None:
    """Do one job's work, in the process that is watched."""
    job = JOBS[name]
    if job.kind == "build":
        plan = _plan(job, checkpoint, {"calibration_tokens": FEW_TOKENS} if few_tokens else {})
        run = OliveRun(
            workflow=plan.variants[0].workflow,
            checkpoint=checkpoint,
            work=folder / "work",
            output=folder / "model",
            calibration=CALIBRATION if plan.variants[0].calibrated else None,
        )
        run_olive(run, lambda step, done, total: None)
    else:
        from phiforge.validation.reference import Source, compute_reference, tokenize
        from phiforge.validation.texts import load_texts

        source = Source(checkpoint, "bench", folder / "cache", 2)
        texts = tokenize(source, [text.text for text in load_texts(EVAL_DIR / "text.jsonl")], []).texts
        compute_reference(source, texts)


def _pipeline(job: Job) -> Pipeline:
    """The job's pipeline: without a rotation unless it asks for one, and exported as its target wants."""
    pipeline = load_pipeline(ROOT / "pipelines" / "cpu-int4-k-quant.yaml").with_quantize_options(**job.options)
    export = load_pipeline(ROOT / "pipelines" / f"{_profile(job).build.pipeline}.yaml").passes["export"]
    pipeline = pipeline.model_copy(update={"passes": {**pipeline.passes, "export": export}})
    if job.rotated:
        rotation = RotateOptions(type="PhiforgeRotate")
        pipeline = pipeline.model_copy(update={"passes": {"rotate": rotation, **pipeline.passes}})
    if pipeline.quantize_options().calibrated:
        return pipeline.with_quantize_options(calibration=CALIBRATION_FILE, calibration_sha256=hash_file(CALIBRATION))
    return pipeline


def _profile(job: Job) -> Profile:
    return load_profile(ROOT / "targets" / f"{job.target}.toml")


def _plan(job: Job, checkpoint: Path, changes: dict[str, object]) -> Plan:
    profile = _profile(job)
    facts = inspect_checkpoint(checkpoint, scan=False)
    name = profile.build.pipeline
    pipeline = _pipeline(job).with_quantize_options(**changes).model_copy(update={"name": name})
    return resolve(facts, "bench", [profile], {name: pipeline}, {})


def _predicted(job: Job, checkpoint: Path) -> tuple[int, float] | None:
    """The plan's memory and time of the job's steps."""
    if job.kind == "stock":
        return None
    plan = _plan(job, checkpoint, {})
    wanted = {"build": {"rotate", "quantize", "export"}, "reference": {"reference"}}[job.kind]
    steps = [step for step in plan.preflight.steps if step.step in wanted]
    return max(step.memory_bytes for step in steps), sum(step.seconds for step in steps)


def _checkpoint(model: str, folder: Path, layers: int | None) -> Path:
    assert model in SHAPES
    found = folder / (model if layers is None else f"{model}-{layers}")
    if not (found / "model.safetensors.index.json").is_file() and not (found / "done").is_file():
        write_real_shape(found, model, layers=layers)
        (found / "done").touch()
    return found


def _table(rows: list[Row]) -> str:
    stock = next((row.seconds for row in rows if row.job == "stock"), None)
    head = "| job | peak anonymous memory | limit | predicted | wall time | predicted | of the stock builder's time |\n"
    lines = [head, "|---|---|---|---|---|---|---|\n"]
    for row in rows:
        ratio = f"{row.seconds / stock:.2f}" if stock and row.model == "phi-4-mini" else ""
        limit = f"{row.limit_gib:.1f} GiB" if row.limit_gib else ""
        memory = f"{row.predicted_bytes / GIB:.2f} GiB" if row.predicted_bytes else ""
        seconds = f"{row.predicted_seconds:,.0f} s" if row.predicted_seconds else ""
        failed = "" if row.status == 0 else f" (exit {row.status})"
        lines.append(
            f"| {row.model} {row.job.removeprefix('phi-4 ')}{failed} | {row.peak_anon_bytes / GIB:.2f} GiB | {limit} | "
            f"{memory} | {row.seconds:,.0f} s | {seconds} | {ratio} |\n"
        )
    return "".join(lines)


if __name__ == "__main__":
    main()
