"""Ten undisturbed rebuilds held against the release before them, and one whose decoding is 30 % slower.

Run it with `PYTHONPATH=tests python -m bench.release`; --package names a built package of the embedded model, which
is built anew by default. A rebuild here is the same package with a space more in a configuration, so that its hash is
another and its time is measured.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import phiforge
from phiforge import errors
from phiforge.checkpoint.nano import CHECKPOINT_DIR
from phiforge.gate import Outcome
from phiforge.hashing import hash_files, hash_listing
from phiforge.packaging.layout import SUMS
from phiforge.verbs.release import ReleaseOptions, ReleasePlan, release
from phiforge.verbs.standing import judge_package
from slowed import slowed

VARIANT, PROFILE = "cpu-int4", "cpu-x64"
TEXTS = (".json", ".md", ".html")


def changed(package: Path, folder: Path, change: Callable[[Path], None]) -> Path:
    """Copy a package, change its variant, and make it consistent again: hashes, evidence, seal."""
    copy = folder / package.name
    shutil.copytree(package, copy)
    model = copy / "models" / "model" / VARIANT
    before = hash_listing(hash_files(model))
    change(model)
    after = hash_listing(hash_files(model))
    for path in copy.rglob("*"):
        if path.suffix in TEXTS and path.is_relative_to(model) is False:
            text = path.read_text(encoding="utf-8")
            path.write_text(text.replace(before, after), encoding="utf-8", newline="\n")
    sums = {path: digest for path, digest in hash_files(copy).items() if path != SUMS}
    text = "".join(f"{digest}  {path}\n" for path, digest in sorted(sums.items()))
    (copy / SUMS).write_text(text, encoding="utf-8", newline="\n")
    return copy


def another_space(model: Path) -> None:
    """Change the bytes of a variant and nothing of what it does."""
    path = model / "genai_config.json"
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")), indent=3), encoding="utf-8")


def try_release(package: Path, against: Path, folder: Path) -> tuple[str, str, float]:
    """Release as a dry run; return what came of it, the findings about time, and the seconds it took."""
    plans: list[ReleasePlan] = []
    unpassed = [
        item for item in judge_package(package)[PROFILE].report.verdict.findings if item.outcome != Outcome.PASS
    ]
    waivers = tuple({f"{PROFILE}/{item.budget}=the build's own, on a busy machine" for item in unpassed})
    options = ReleaseOptions(
        destinations=(str(folder / "out"),), against=against, waivers=waivers, require=(PROFILE,), dry_run=True
    )
    start = time.monotonic()
    try:
        release(package, options, on_plan=plans.append)
        outcome = "accepted"
    except errors.ReleaseRefusedError as error:
        outcome = f"refused: {error.why}"
    checks = plans[0].record.profiles[PROFILE].checks if plans else ()
    times = [item.reason for item in checks if item.budget in ("regression:ttft_ms", "regression:decode_tokens_per_s")]
    return outcome, " ".join(times), time.monotonic() - start


def main() -> None:
    """Print what became of each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--package", type=Path)
    parser.add_argument("--rebuilds", type=int, default=10)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="phiforge-bench-") as name:
        work = Path(name)
        package = given.package
        if package is None:
            package = phiforge.build(CHECKPOINT_DIR, targets=[PROFILE], output=work / "build").package
        assert package is not None
        for index in range(given.rebuilds):
            folder = work / f"rebuild-{index}"
            outcome, times, seconds = try_release(changed(package, folder, another_space), package, folder)
            print(f"rebuild {index + 1}: {outcome} ({seconds:.0f} s). {times}", flush=True)  # noqa: T201

        def slow(model: Path) -> None:
            made, ratio = slowed(model, work / "slowed", 0.30)
            print(f"slowed: decoding takes {ratio:.2f} times as long", flush=True)  # noqa: T201
            shutil.rmtree(model)
            shutil.move(made, model)

        folder = work / "slow"
        outcome, times, seconds = try_release(changed(package, folder, slow), package, folder)
        print(f"slowed: {outcome} ({seconds:.0f} s). {times}", flush=True)  # noqa: T201


if __name__ == "__main__":
    main()
