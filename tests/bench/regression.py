"""Equal copies of a package's CPU variant and one that decodes slower, each compared with it: docs/latency.md's table.

    python tests/bench/regression.py PACKAGE [--copies 10] [--slowed 10] [--fraction 0.3]

An equal copy must be accepted every time, whatever else the machine does, and the slowed one refused.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import time
from pathlib import Path

from phiforge.evidence import Comparison
from phiforge.hashing import hash_files, hash_listing
from phiforge.packaging.layout import variant_folders
from phiforge.validation.comparison import ALLOWED_FRACTION, compare_folders, side

sys.path.insert(0, str(Path(__file__).parents[1]))

from slowed import slowed


def main() -> int:
    """Compare, print a row for each comparison, and fail unless all came out as they must."""
    args = _arguments()
    own = variant_folders(args.package)["cpu-int4"]
    right = 0
    with tempfile.TemporaryDirectory() as name:
        copy = Path(name) / "copy"
        for _ in range(args.copies):
            shutil.rmtree(copy, ignore_errors=True)
            shutil.copytree(own, copy)
            right += _compared("equal copy", copy, own) == "accepted"
        if args.slowed:
            slow, ratio = slowed(own, Path(name) / "slow", args.fraction)
            sys.stdout.write(f"| slowed: calibrated to {ratio:.3f} | | | | |\n")
        for _ in range(args.slowed):
            right += _compared("slowed", slow, own) == "refused"
    sys.stdout.write(f"\n{right} of {args.copies + args.slowed} as they must be\n")
    return 0 if right == args.copies + args.slowed else 1


def _compared(what: str, new: Path, old: Path) -> str:
    started = time.monotonic()
    found = compare_folders(new, old, new_sha256=_digest(new), old_sha256=_digest(old))
    seconds = time.monotonic() - started
    outcome = _outcome(found)
    rows = " | ".join(
        f"{row.metric} {row.prompt_tokens}: {row.ratio_p50:.3f} ({row.ratio_interval.low:.3f} to "
        f"{row.ratio_interval.high:.3f})"
        for row in found.rows
    )
    sys.stdout.write(f"| {what} | {found.rounds} rounds, {seconds:.0f} s | {rows} | {outcome} |\n")
    sys.stdout.flush()
    return outcome


def _outcome(found: Comparison) -> str:
    sides = {side(row.ratio_interval, ALLOWED_FRACTION) for row in found.rows}
    if "beyond" in sides:
        return "refused"
    return "accepted" if sides == {"within"} else "undecided"


def _digest(folder: Path) -> str:
    return hash_listing(hash_files(folder))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("package", type=Path)
    parser.add_argument("--copies", type=int, default=10)
    parser.add_argument("--slowed", type=int, default=10)
    parser.add_argument("--fraction", type=float, default=0.3)
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
