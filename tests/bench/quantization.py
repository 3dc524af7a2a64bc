"""What each way of quantizing costs the embedded model: the table of docs/quantization.md, from real builds.

    python tests/bench/quantization.py [--output artifacts/bench] [--only NAME ...]

Every row is a build by `phiforge build` with a pipeline of its own, validated on the shipped runtime. Decode speed is a
ratio to the default pipeline: the variants are measured in turn, round after round, each time in a fresh process, and
the median over the rounds is divided by the default's.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import statistics
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

import yaml

import phiforge
from phiforge.checkpoint.nano import CHECKPOINT_DIR
from phiforge.packaging.layout import variant_folders
from phiforge.reporting import load_report
from phiforge.target import Measure
from phiforge.validation.latency import measure_latency
from phiforge.verbs.subject import find_subjects

ROOT = Path(__file__).parents[2]
DEFAULT = "rotate + gptq b128 int4 head"
ROUNDS = 9
MEASURE = Measure(warmups=1, repeats=5, prompt_tokens=[64], decode_tokens=128)

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
    "gptq act-order": {"algorithm": "gptq", "act_order": True},
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
    "rtn b32 symmetric": {"algorithm": "rtn", "symmetric": True},
    "k-quant b32 symmetric": {"symmetric": True},
    "gptq b128 symmetric": {"algorithm": "gptq", "block_size": 128, "symmetric": True},
    "gptq b128 rtn scales": {"algorithm": "gptq", "block_size": 128, "search": "rtn"},
    "rtn b32 k-quant-mixed": {"algorithm": "rtn", "mixed": "k-quant-mixed"},
    "k-quant b32 k-quant-mixed": {"mixed": "k-quant-mixed"},
    "k-quant b128 k-quant-mixed": {"block_size": 128, "mixed": "k-quant-mixed"},
    "k-quant b32 measured 5.9": {"mixed": "measured", "target_bpw": 5.9},
    "k-quant b128 measured 5.05": {"block_size": 128, "mixed": "measured", "target_bpw": 5.05},
    "gptq b128 measured 4.6": {"algorithm": "gptq", "block_size": 128, "mixed": "measured", "target_bpw": 4.6},
    "k-quant b32 int4 head": INT4_HEAD,
    "gptq b32 int4 head": {"algorithm": "gptq"} | INT4_HEAD,
    "gptq b128 int4 head": {"algorithm": "gptq", "block_size": 128} | INT4_HEAD,
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
    decode_ratio: float


def main() -> None:
    """Build, validate and measure every row, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=ROOT / "artifacts" / "bench")
    parser.add_argument("--only", nargs="*", default=list(GRID), choices=list(GRID))
    parser.add_argument("--speeds-again", action="store_true", help="measure an earlier run's packages again")
    args = parser.parse_args()
    names = list(dict.fromkeys([DEFAULT, *args.only]))
    reports = {name: (_kept if args.speeds_again else _build)(name, args.output) for name in names}
    speeds = _speeds({name: folder for name, (folder, _) in reports.items()})
    rows = [
        _row(name, report, speeds[name] / speeds[DEFAULT]) for name, (_, report) in reports.items() if name in args.only
    ]
    table = _table(sorted(rows, key=lambda row: list(GRID).index(row.name)))
    (args.output / "quantization.md").write_text(table, encoding="utf-8")
    (args.output / "quantization.json").write_text(
        json.dumps([asdict(row) for row in rows], indent=1) + "\n", encoding="utf-8"
    )
    sys.stdout.write(table)


def _build(name: str, output: Path) -> tuple[Path, Path]:
    """Build one row; all rows share one store, and so the reference. Returns the variant and its report."""
    label = name.replace(" ", "-")
    base = yaml.safe_load((ROOT / "pipelines" / "cpu-int4.yaml").read_text(encoding="utf-8"))
    quantize = base["passes"]["quantize"] | BASE | GRID[name]
    rotation = {"rotate": {"type": "PhiforgeRotate"}} if name.startswith(ROTATE) else {}
    base["passes"] = rotation | {"quantize": quantize, "export": base["passes"]["export"]}
    pipeline = output / "pipelines" / f"{label}.yaml"
    pipeline.parent.mkdir(parents=True, exist_ok=True)
    pipeline.write_text(yaml.safe_dump(base, sort_keys=False), encoding="utf-8")
    result = phiforge.build(
        CHECKPOINT_DIR, targets=["cpu-x64"], pipeline=str(pipeline), output=output / "builds", project=ROOT
    )
    assert result.package is not None
    sys.stderr.write(f"{name}: built, {result.verdicts['cpu-x64'].outcome}\n")
    kept = output / "packages" / f"{label}.ortpackage"
    shutil.rmtree(kept, ignore_errors=True)
    shutil.copytree(result.package, kept)
    return _kept(name, output)


def _kept(name: str, output: Path) -> tuple[Path, Path]:
    kept = output / "packages" / f"{name.replace(' ', '-')}.ortpackage"
    (variant,) = variant_folders(kept).values()
    return variant, kept / "report" / "cpu-x64" / "report.json"


def _speeds(variants: dict[str, Path]) -> dict[str, float]:
    found: dict[str, list[float]] = {name: [] for name in variants}
    for number in range(ROUNDS):
        # Another order every round: whoever comes first in a round was found to be faster.
        for name, folder in random.Random(number).sample(sorted(variants.items()), len(variants)):
            evidence = measure_latency(
                folder, variant_sha256=find_subjects(folder)[0].sha256, measure=MEASURE, progress=lambda *_: None
            )
            found[name].append(evidence.rows[0].decode_tokens_per_s_p50)
        sys.stderr.write(f"decode speed: round {number + 1} of {ROUNDS}\n")
    return {name: statistics.median(values) for name, values in found.items()}


def _row(name: str, report_path: Path, decode_ratio: float) -> Row:
    report = load_report(report_path)
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
        decode_ratio=decode_ratio,
    )


def _table(rows: list[Row]) -> str:
    head = (
        "| quantization | bits per weight | mean KL, nats | p99 KL, nats | top-1 | exact match | answers kept | "
        "decode speed |\n|---|---|---|---|---|---|---|---|\n"
    )
    return head + "".join(
        f"| {row.name} | {row.bits_per_weight:.2f} | {row.kl_mean_nats:.4f} ± {row.kl_mean_se_nats:.4f} | "
        f"{row.kl_p99_nats:.3f} | {row.top1_fraction:.2%} | {row.exact_match_fraction:.1%} | "
        f"{row.recovery_fraction:.1%} | {row.decode_ratio:.2f} |\n"
        for row in rows
    )


if __name__ == "__main__":
    main()
