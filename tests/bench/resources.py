"""Time and memory of building the embedded model, beside what the plan predicted: docs/benchmarks.md.

    python tests/bench/resources.py [--checkpoint FOLDER] [--output artifacts/bench/resources]

Memory is the largest sum of anonymous memory over the build's whole process tree, sampled every 50 ms (Linux).
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import psutil

import phiforge
from phiforge.checkpoint.nano import CHECKPOINT_DIR

ROOT = Path(__file__).parents[2]
INTERVAL_S = 0.05


def main() -> None:
    """Build from nothing under watch, and print stage times, peak memory and the predictions."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--checkpoint", type=Path, default=CHECKPOINT_DIR)
    parser.add_argument("--output", type=Path, default=ROOT / "artifacts" / "bench" / "resources")
    args = parser.parse_args()
    shutil.rmtree(args.output, ignore_errors=True)
    plan = phiforge.build(args.checkpoint, targets=["cpu-x64"], output=args.output, dry_run=True, project=ROOT).plan
    command = [
        sys.executable,
        "-m",
        "phiforge",
        "build",
        str(args.checkpoint),
        "--target",
        "cpu-x64",
        "--output",
        str(args.output),
    ]
    start = time.monotonic()
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL)
    peaks = _watch(process.pid, args.output)
    wall = time.monotonic() - start
    report = json.loads(next(args.output.glob("*.ortpackage/report/report.json")).read_text(encoding="utf-8"))
    lines = [f"| {stage['stage']} | {stage['seconds']:.1f} |" for stage in report["entries"][0]["report"]["stages"]]
    sys.stdout.write("\n".join(["| stage | seconds |", "|---|---|", *lines, f"| whole command | {wall:.1f} |", ""]))
    sys.stdout.write(
        f"\nPeak anonymous memory: build {peaks['build'] / 1e9:.2f} GB (predicted "
        f"{plan.preflight.memory_bytes / 1e9:.2f} GB), validation and after {peaks['after'] / 1e9:.2f} GB\n"
    )


def _watch(pid: int, output: Path) -> dict[str, int]:
    """Sample until the process ends; the build is over when a variant stands under its final name."""
    peaks = {"build": 0, "after": 0}
    root = psutil.Process(pid)
    while root.is_running() and root.status() != psutil.STATUS_ZOMBIE:
        phase = "after" if any(output.glob("store/variant/[0-9a-f]*")) else "build"
        peaks[phase] = max(peaks[phase], sum(map(_anonymous, [root, *_children(root)])))
        time.sleep(INTERVAL_S)
    os.waitpid(pid, 0)
    return peaks


def _children(root: psutil.Process) -> list[psutil.Process]:
    try:
        return root.children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def _anonymous(process: psutil.Process) -> int:
    try:
        status = Path(f"/proc/{process.pid}/status").read_text(encoding="utf-8")
    except OSError:
        return 0
    return next((1024 * int(line.split()[1]) for line in status.splitlines() if line.startswith("RssAnon:")), 0)


if __name__ == "__main__":
    main()
