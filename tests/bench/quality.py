"""What each way of quantizing costs the embedded model: the table of docs/quantization.md, from real builds.

    python tests/bench/quality.py [--output artifacts/bench/quality] [--jobs 2] [--only NAME ...]

Every row is a build by `phiforge build` with a pipeline of its own, validated on the shipped runtime. The embedded
model keeps one core busy, so several rows are made side by side, each with a store of its own.
"""

from __future__ import annotations

import argparse
import json
import os
import queue
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import yaml

from phiforge.checkpoint.nano import CHECKPOINT_DIR
from phiforge.reporting import load_report

ROOT = Path(__file__).parents[2]

BLOCKS: dict[str, dict[str, object]] = {
    **{f"b{block}": {"block_size": block} for block in (16, 32, 64, 128, 256)},
    # Stored in blocks of 256 that have the same scale, which is how MatMulNBits can read it.
    "channel": {"block_size": 256, "per_channel": True},
}
ROTATE = "rotate + "
# What each row changes of this; a name that begins with ROTATE has a rotation before it.
BASE: dict[str, object] = {
    "algorithm": "k-quant", "block_size": 32, "symmetric": False, "mixed": "none", "lm_head_bits": 8,
    "embedding_bits": 8, "per_channel": False, "act_order": False, "search": "k-quant",
}  # fmt: skip
ALGORITHMS: dict[str, dict[str, object]] = {
    "rtn": {"algorithm": "rtn"},
    "k-quant": {"algorithm": "k-quant"},
    "awq": {"algorithm": "awq"},
    "gptq": {"algorithm": "gptq"},
    "rotate + rtn": {"algorithm": "rtn"},
    "rotate + gptq": {"algorithm": "gptq"},
}
# "int4 head" gives head and embedding 4 bits.
INT4_HEAD: dict[str, object] = {"lm_head_bits": 4, "embedding_bits": 4}
GRID: dict[str, dict[str, object]] = {
    **{
        f"{algorithm} {block}": changes | blocks
        for algorithm, changes in ALGORITHMS.items()
        for block, blocks in BLOCKS.items()
    },
    **{
        f"gptq act-order {block}": {"algorithm": "gptq", "act_order": True} | BLOCKS[block]
        for block in ("b32", "b128", "channel")
    },
    "gptq b128 act-order, rtn scales": {"algorithm": "gptq", "block_size": 128, "act_order": True, "search": "rtn"},
    "rtn b32 symmetric": {"algorithm": "rtn", "symmetric": True},
    "k-quant b32 symmetric": {"symmetric": True},
    "gptq b128 symmetric": {"algorithm": "gptq", "block_size": 128, "symmetric": True},
    "gptq b128 rtn scales": {"algorithm": "gptq", "block_size": 128, "search": "rtn"},
    "rtn b32 k-quant-mixed": {"algorithm": "rtn", "mixed": "k-quant-mixed"},
    "k-quant b32 k-quant-mixed": {"mixed": "k-quant-mixed"},
    "k-quant b128 k-quant-mixed": {"block_size": 128, "mixed": "k-quant-mixed"},
    "k-quant b128 measured 5.05": {"block_size": 128, "mixed": "measured", "target_bpw": 5.05},
    "gptq b128 measured 4.6": {"algorithm": "gptq", "block_size": 128, "mixed": "measured", "target_bpw": 4.6},
    "gptq b128 int4 head": {"algorithm": "gptq", "block_size": 128} | INT4_HEAD,
    "awq b128 int4 head": {"algorithm": "awq", "block_size": 128} | INT4_HEAD,
    "rotate + gptq b128 int4 head": {"algorithm": "gptq", "block_size": 128} | INT4_HEAD,
    "rotate + gptq b256 int4 head": {"algorithm": "gptq", "block_size": 256} | INT4_HEAD,
    "rtn b32 int8": {"algorithm": "rtn", "bits": 8},
}


@dataclass(frozen=True, kw_only=True)
class Row:
    """One way of quantizing and what it costs."""

    name: str
    bits_per_weight: float
    kl_mean_nats: float
    kl_mean_se_nats: float
    kl_p99_nats: float
    top1_fraction: float
    exact_match_fraction: float
    recovery_fraction: float


def main() -> None:
    """Build and validate every row, and write the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--output", type=Path, default=ROOT / "artifacts" / "bench" / "quality")
    parser.add_argument("--only", nargs="*", default=list(GRID), choices=list(GRID))
    parser.add_argument("--jobs", type=int, default=2, help="rows made at the same time")
    args = parser.parse_args()
    stores: queue.SimpleQueue[Path] = queue.SimpleQueue()
    for number in range(args.jobs):
        stores.put(args.output / f"builds-{number}")
    with ThreadPoolExecutor(args.jobs) as pool:
        for row in pool.map(lambda name: make_row(name, args.output, stores), args.only):
            sys.stderr.write(_table([row]).splitlines()[-1] + "\n")
    rows = [_kept(name, args.output) for name in GRID if _row_file(name, args.output).is_file()]
    (args.output / "quality.md").write_text(_table(rows), encoding="utf-8")
    sys.stdout.write(_table(rows))


def make_row(name: str, output: Path, stores: queue.SimpleQueue[Path]) -> Row:
    """Build and validate one row, unless an earlier run did, and keep its figures."""
    if _row_file(name, output).is_file():
        return _kept(name, output)
    # A latency is no part of the table, so the profile asks for next to none.
    profile = _changed(ROOT / "targets" / "cpu-x64.toml", output / "targets" / "cpu-x64.toml")
    store = stores.get()
    command = [sys.executable, "-m", "phiforge", "build", str(CHECKPOINT_DIR), "--target", str(profile)]
    command += ["--pipeline", str(_pipeline(name, output)), "--output", str(store), "--quiet"]
    # One thread for each: the rows are made side by side.
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    try:
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
        # 3 and 4 are verdicts.
        assert done.returncode in {0, 3, 4}, done.stderr
        (report,) = store.glob("*.ortpackage/report/report.json")
        row = _row(name, report)
    finally:
        for folder in ("variant", "unfinished"):
            shutil.rmtree(store / "store" / folder, ignore_errors=True)
        stores.put(store)
    _row_file(name, output).parent.mkdir(exist_ok=True)
    _row_file(name, output).write_text(json.dumps(asdict(row), indent=1) + "\n", encoding="utf-8")
    return row


def _changed(profile: Path, copy: Path) -> Path:
    copy.parent.mkdir(parents=True, exist_ok=True)
    text = profile.read_text(encoding="utf-8")
    head, _, _ = text.partition("[measure]")
    copy.write_text(f"{head}[measure]\nwarmups = 1\nrepeats = 5\nprompt_tokens = [16]\ndecode_tokens = 8\n")
    return copy


def _pipeline(name: str, output: Path) -> Path:
    base = yaml.safe_load((ROOT / "pipelines" / "cpu-int4-k-quant.yaml").read_text(encoding="utf-8"))
    quantize = base["passes"]["quantize"] | BASE | GRID[name]
    rotation = {"rotate": {"type": "PhiforgeRotate"}} if name.startswith(ROTATE) else {}
    base["passes"] = rotation | {"quantize": quantize, "export": base["passes"]["export"]}
    pipeline = output / "pipelines" / f"{name.replace(' ', '-')}.yaml"
    pipeline.parent.mkdir(parents=True, exist_ok=True)
    pipeline.write_text(yaml.safe_dump(base, sort_keys=False), encoding="utf-8")
    return pipeline


def _row_file(name: str, output: Path) -> Path:
    return output / "rows" / f"{name.replace(' ', '-')}.json"


def _kept(name: str, output: Path) -> Row:
    return Row(**json.loads(_row_file(name, output).read_text(encoding="utf-8")))


def _row(name: str, report_path: Path) -> Row:
    report = load_report(report_path).report_for("cpu-x64")
    assert report.drift is not None
    assert report.tasks is not None
    return Row(
        name=name,
        bits_per_weight=report.variant.bits_per_weight,
        kl_mean_nats=report.drift.kl_nats.mean,
        kl_mean_se_nats=report.drift.kl_nats.standard_error,
        kl_p99_nats=report.drift.kl_percentiles_nats.p99,
        top1_fraction=report.drift.top1_agreement_fraction.mean,
        exact_match_fraction=report.tasks.overall.variant_correct / report.tasks.overall.questions,
        recovery_fraction=report.tasks.overall.recovery_fraction,
    )


def _table(rows: list[Row]) -> str:
    head = (
        "| quantization | bits per weight | mean KL, nats | p99 KL, nats | top-1 | exact match | answers kept |\n"
        "|---|---|---|---|---|---|---|\n"
    )
    return head + "".join(
        f"| {row.name} | {row.bits_per_weight:.2f} | {row.kl_mean_nats:.4f} ± {row.kl_mean_se_nats:.4f} | "
        f"{row.kl_p99_nats:.3f} | {row.top1_fraction:.2%} | {row.exact_match_fraction:.1%} | "
        f"{row.recovery_fraction:.1%} |\n"
        for row in rows
    )


if __name__ == "__main__":
    main()
