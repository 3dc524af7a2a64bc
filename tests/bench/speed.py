"""Prefill and decode speed of several model folders in one interleaved run: the speed table of docs/benchmarks.md.

    python tests/bench/speed.py stock=FOLDER ours=FOLDER [NAME=FOLDER ...] [--rounds 7] [--threads N]
                                [--prompt-tokens 128] [--decode-tokens 24] [--output artifacts/bench/speed]

A folder is a package, a built variant or what another builder wrote. The first one is the baseline. All are measured at
equal threads, the baseline also as it runs when nobody sets anything (its own genai_config.json, else the runtime's
half of the logical CPUs). Each measurement is a fresh process; every round has another order. A ratio is the median of
the rounds' own ratios, with the lowest and the highest of them. Run it on a machine that does nothing else.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

from phiforge.evidence import Machine
from phiforge.machine import default_threads, describe_machine, tool_versions
from phiforge.validation.latency import Work, run_worker
from phiforge.validation.trials import times_of
from phiforge.verbs.subject import find_subjects

ROOT = Path(__file__).parents[2]
RUNTIME_THREADS = 0
WARMUPS, REPEATS = 1, 3


@dataclass(frozen=True)
class Contender:
    """One row of the table: a model folder at a number of threads, 0 for what it comes to by itself."""

    name: str
    folder: Path
    threads: int

    @property
    def bytes(self) -> int:
        return sum(path.stat().st_size for path in self.folder.rglob("*") if path.is_file())


@dataclass(frozen=True)
class Speed:
    """One process's medians."""

    prefill_tokens_per_s: float
    decode_tokens_per_s: float
    load_ms: float
    peak_anon_bytes: int


def main() -> None:
    """Measure, print the table and write it with all rounds."""
    args = _arguments()
    threads = args.threads or default_threads()
    models = [_model(text) for text in args.models]
    contenders = [Contender(name, folder, threads) for name, folder in models]
    contenders.append(Contender(f"{models[0][0]}, its defaults", models[0][1], RUNTIME_THREADS))
    rounds = [
        _round(number, args.rounds, contenders, args.prompt_tokens, args.decode_tokens) for number in range(args.rounds)
    ]
    conditions = (
        f"{args.prompt_tokens} prompt tokens, {args.decode_tokens} decoded; {args.rounds} rounds; "
        f"{_machine(describe_machine())}; {_versions()}"
    )
    text = f"{conditions}\n\n{table(contenders, rounds)}"
    args.output.mkdir(parents=True, exist_ok=True)
    (args.output / "speed.md").write_text(text, encoding="utf-8")
    record = {"conditions": conditions, "rounds": [{name: asdict(one) for name, one in row.items()} for row in rounds]}
    (args.output / "speed.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    sys.stdout.write(text)


def table(contenders: Sequence[Contender], rounds: Sequence[dict[str, Speed]]) -> str:
    """The Markdown table: medians, and ratios to the baseline at equal threads and at its defaults."""
    bases = {"baseline": contenders[0].name, "its defaults": contenders[-1].name}
    head = ["model", "threads", "size", "memory", "prefill tokens/s", "decode tokens/s"]
    head += [f"{kind} / {base}" for base in bases for kind in ("prefill", "decode")]
    lines = [head, ["---"] * len(head)]
    for contender in contenders:
        own = [row[contender.name] for row in rounds]
        cells = [
            contender.name,
            str(contender.threads or "as it comes"),
            f"{contender.bytes / 1e9:.2f} GB",
            f"{max(one.peak_anon_bytes for one in own) / 1e9:.2f} GB",
            _spread([one.prefill_tokens_per_s for one in own], 1),
            _spread([one.decode_tokens_per_s for one in own], 2),
        ]
        for base in bases.values():
            pairs = [(row[contender.name], row[base]) for row in rounds]
            cells.append(_spread([one.prefill_tokens_per_s / other.prefill_tokens_per_s for one, other in pairs], 2))
            cells.append(_spread([one.decode_tokens_per_s / other.decode_tokens_per_s for one, other in pairs], 2))
        lines.append(cells)
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _round(number: int, rounds: int, contenders: Sequence[Contender], prompt: int, decode: int) -> dict[str, Speed]:
    found = {}
    for contender in random.Random(number).sample(list(contenders), len(contenders)):
        raw, memory = run_worker(
            contender.folder,
            threads=contender.threads,
            session_options={},
            work=Work(WARMUPS, REPEATS, (prompt,), decode),
            progress=lambda *_: None,
        )
        times = times_of(raw, memory)
        found[contender.name] = Speed(
            prefill_tokens_per_s=prompt * 1e3 / times.ttft_ms,
            decode_tokens_per_s=times.decode_tokens_per_s,
            load_ms=times.load_ms,
            peak_anon_bytes=times.peak_anon_bytes,
        )
    sys.stderr.write(f"round {number + 1} of {rounds}\n")
    return found


def _spread(values: Sequence[float], digits: int) -> str:
    return f"{median(values):.{digits}f} ({min(values):.{digits}f} to {max(values):.{digits}f})"


def _model(text: str) -> tuple[str, Path]:
    name, _, path = text.partition("=")
    if not path:
        sys.exit(f"{text}: give NAME=FOLDER")
    return name, find_subjects(Path(path))[0].folder


def _machine(machine: Machine) -> str:
    return f"{machine.processor}, {machine.physical_cores} cores, {machine.memory_bytes / 1e9:.1f} GB, {machine.system}"


def _versions() -> str:
    return ", ".join(f"{name} {number}" for name, number in tool_versions(("onnxruntime", "onnxruntime-genai")).items())


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("models", nargs="+", metavar="NAME=FOLDER", help="the first is the baseline")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, help="threads of all; by default the cores this process may use")
    parser.add_argument("--prompt-tokens", type=int, default=128)
    parser.add_argument("--decode-tokens", type=int, default=24)
    parser.add_argument("--output", type=Path, default=ROOT / "artifacts" / "bench" / "speed")
    return parser.parse_args()


if __name__ == "__main__":
    main()
