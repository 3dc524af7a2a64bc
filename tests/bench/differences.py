"""How much worse one variant's mean KL is than another's, paired by block of text and not, for docs/release.md.

Run it with `PYTHONPATH=tests python -m bench.differences`. It builds the embedded model for the CPU and for DirectML,
whose graph runs on the CPU too, and quantizes one layer of the former badly.
"""

from __future__ import annotations

import json
import tempfile
from dataclasses import replace
from pathlib import Path

import phiforge
from damaged import package_damaged
from phiforge.checkpoint.nano import CHECKPOINT_DIR
from phiforge.evidence import parse_evidence
from phiforge.release.differences import worsening
from phiforge.release.numbers import Reading, read_numbers
from phiforge.verbs.defaults import default_tasks, default_texts

CPU, DIRECTML = "cpu-int4", "directml-int4"


def mean_kl(package: Path, variant: str) -> Reading:
    """Read the mean KL of a variant of a package."""
    path = package / "evidence" / variant / "drift.json"
    drift = parse_evidence(path.read_text(encoding="utf-8"), path.name)
    return next(item for item in read_numbers(0, [drift]) if item.number.metric == "kl_mean_nats")


def row(new: Reading, old: Reading) -> str:
    """Return what the table says of two readings, in percent of the old one."""
    before, cells = old.number.value, [f"{100 * (new.number.value / old.number.value - 1):.1f} %"]
    for one in (new, replace(new, blocks=())):
        found = worsening(one, old, lower_is_worse=False)
        low, high = (100 * (end or 0.0) / before for end in (found.interval.low, found.interval.high))
        cells.append(f"{'' if found.paired else 'not '}paired {low:.1f} to {high:.1f} %")
    return ", ".join(cells)


def main() -> None:
    """Build, damage, and print a row for each pair."""
    with tempfile.TemporaryDirectory(prefix="phiforge-bench-") as name:
        work = Path(name)
        targets = ["cpu-x64", "directml-generic"]
        package = phiforge.build(CHECKPOINT_DIR, targets=targets, output=work).package
        assert package is not None
        tasks = default_tasks(CHECKPOINT_DIR)
        assert tasks is not None
        stages = (work / "store" / "variant").iterdir()
        (stage,) = [path for path in stages if json.loads((path / "variant.json").read_text())["name"] == CPU]
        damaged = package_damaged(
            stage, CHECKPOINT_DIR, work / "worse", texts=default_texts(), tasks=tasks,
            cache=work / "store" / "reference",
        )  # fmt: skip
        own = mean_kl(package, CPU)
        print(f"{DIRECTML}, then {CPU}: {row(own, mean_kl(package, DIRECTML))}")  # noqa: T201
        print(f"{CPU}, then one layer at 2 bits: {row(mean_kl(damaged, CPU), own)}")  # noqa: T201


if __name__ == "__main__":
    main()
