"""Run one Olive workflow in a subprocess and believe only what is on disk.

Olive 0.13 exits 0 when a pass fails, replays a failure from its cache, and leaves an earlier run's files in its output
folder. So: an empty output folder, failed cache entries purged, the result judged by its files.
"""

from __future__ import annotations

import contextlib
import errno
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from phiforge import errors
from phiforge.store import disk_full
from phiforge.variant import CALIBRATION_FILE, WORKFLOW_FILE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from phiforge.olive.planned import PlannedGraph

    Progress = Callable[[str, int, int], None]

OUR_PASSES = (
    "PhiforgeRotate",
    "PhiforgeQuantize",
    "PhiforgeExport",
    "PhiforgeCalibrate",
    "PhiforgeStages",
    "PhiforgeCompile",
)
REQUIRED_FILES = ("model.onnx", "model.onnx.data", "genai_config.json", "tokenizer.json")
# What Olive puts beside the model for itself; it names folders of the building machine.
OLIVE_FILES = ("model_config.json", "footprint.json", "output_footprint.json", "run_history.txt")
# Olive wants one model file where it is told that a model is, and gives it this name when it hands the folder over.
OLIVE_MODEL = "model.onnx"
PACKAGE_FILE = "olive-package.json"
CACHE_FOLDER = "cache"
_POLL_S = 0.1
_FULL_BYTES = 1024 * 1024
_EXCEPTION = re.compile(r"^\w[\w.]*(?:Error|Exception)\b.*", flags=re.MULTILINE)


@dataclass(frozen=True, kw_only=True)
class OliveRun:
    """One run: which workflow on which checkpoint, where it may keep its cache, and where the result goes.

    `calibration` is the file of calibration texts, None where no pass needs any. `promised` are the files without which
    the result is none, by their paths below `output`.
    """

    workflow: Mapping[str, Any]
    checkpoint: Path
    work: Path
    output: Path
    calibration: Path | None = None
    promised: tuple[str, ...] = REQUIRED_FILES


def run_olive(run: OliveRun, progress: Progress, worker: OliveWorker | None = None) -> None:
    """Run the workflow; on return `run.output` holds the model's files and nothing else.

    Args:
        run: What to run. `work` may hold the cache of an earlier, killed run; `output` is emptied.
        progress: Called with (step, done, total).
        worker: The process to run in, which several runs may share; by default one for this run alone.

    Raises:
        PhiforgeError: What a pass of ours reported.
        DiskFullError: The disk filled up.
        BuildFailedError: Olive ended without the files; the message quotes its log.
    """
    if worker is None:
        with OliveWorker() as own:
            run_olive(run, progress, own)
        return
    run.work.mkdir(parents=True, exist_ok=True)
    purge_failures(run.work / CACHE_FOLDER)
    shutil.rmtree(run.output, ignore_errors=True)
    run.output.mkdir(parents=True)
    write_workflow(run.workflow, run.work)
    if run.calibration:
        shutil.copyfile(run.calibration, run.work / CALIBRATION_FILE)
    events, log = _fresh_files(run.work)
    code = worker.run(_arguments(run), run.work, events, log, progress)
    missing = [name for name in run.promised if not (run.output / name).is_file()]
    if code or missing:
        raise _failure(events, log, code, missing)
    for name in OLIVE_FILES:
        (run.output / name).unlink(missing_ok=True)


class OliveWorker:
    """The process that Olive runs in, started by the first run. A context manager; the end of the block ends it."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> OliveWorker:
        return self

    def __exit__(self, *_: object) -> None:
        self._end()

    def run(self, arguments: list[str], folder: Path, events: Path, log: Path, progress: Progress) -> int:
        """Run Olive's command line to its end and return its exit code; a process that ended has its own."""
        return self._ask({"arguments": arguments}, folder, events, log, progress)

    def conform(self, planned: PlannedGraph, folder: Path) -> None:
        """Check a graph that is to be built against what its provider has kernels for.

        Args:
            planned: The graph.
            folder: Receives a log.

        Raises:
            ConformanceError: The provider would leave nodes to the CPU; the message names them.
        """
        folder.mkdir(parents=True, exist_ok=True)
        events, log = _fresh_files(folder)
        code = self._ask({"planned": planned.model_dump(mode="json")}, folder, events, log, lambda *_: None)
        if code:
            raise _failure(events, log, code, [])

    def _ask(self, what: dict[str, Any], folder: Path, events: Path, log: Path, progress: Progress) -> int:
        if self._process is None or self._process.poll() is not None:
            self._end()
            self._process = _start(log)
        request = {
            **what,
            "folder": str(folder.resolve()),
            "events": str(events.resolve()),
            "log": str(log.resolve()),
        }
        assert self._process.stdin is not None
        # A process that ended meanwhile takes no request; that it ended is seen in `_wait`.
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(json.dumps(request).encode("utf-8") + b"\n")
            self._process.stdin.flush()
        finished = False
        try:
            code = _wait(self._process, events, progress)
            finished = True
        finally:
            if not finished:
                self._end()
        return code

    def _end(self) -> None:
        if self._process is None:
            return
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()
        if self._process.stdin:
            with contextlib.suppress(BrokenPipeError):
                self._process.stdin.close()
        self._process = None


def write_workflow(workflow: Mapping[str, Any], folder: Path) -> None:
    """Write what `olive run --run-config workflow.json --package-config olive-package.json -m ... -o ...` takes."""
    types = [str(options["type"]) for options in workflow["passes"].values()]
    for name, data in ((WORKFLOW_FILE, workflow), (PACKAGE_FILE, package_config(types))):
        (folder / name).write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")


def package_config(types: list[str]) -> dict[str, Any]:
    """Olive's package configuration for these pass types: ours, and Olive's own from its default file."""
    ours = {
        name: {
            "module_path": f"phiforge.olive.passes.{name}",
            "supported_providers": ["*"],
            "supported_accelerators": ["*"],
            "supported_precisions": ["*"],
        }
        for name in OUR_PASSES
    }
    others = [name for name in types if name not in ours]
    if not others:
        return {"passes": ours, "extra_dependencies": {}}
    spec = importlib.util.find_spec("olive")
    if spec is None or spec.origin is None:
        raise missing_olive()
    default = json.loads((Path(spec.origin).parent / "olive_config.json").read_text(encoding="utf-8"))
    return {
        "passes": ours | {name: default["passes"][name] for name in others if name in default["passes"]},
        "extra_dependencies": default["extra_dependencies"],
    }


def purge_failures(cache: Path) -> int:
    """Remove from an Olive cache every model that failed or is incomplete, and return how many.

    Olive stores a failed pass as an empty model description, and would answer the next run with it.
    """
    purged = 0
    for run in cache.glob("*/runs/*"):
        model = run / "model.json"
        if not (run / "run.json").is_file() or not _is_sound(model):
            shutil.rmtree(run)
            purged += 1
    return purged


def missing_olive() -> errors.DependencyMissingError:
    """The error for an install without the build parts."""
    return errors.DependencyMissingError(
        "Building needs Olive, which is not installed.",
        why="The light install validates and runs packages; it does not build them.",
        fix='pip install -c constraints.txt "phiforge[build,cpu]"',
    )


def _is_sound(model: Path) -> bool:
    try:
        return bool(json.loads(model.read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return False


def _fresh_files(folder: Path) -> tuple[Path, Path]:
    """The empty files of events and of the log."""
    files = folder / "events.jsonl", folder / "olive.log"
    for file in files:
        file.write_bytes(b"")
    return files


def _arguments(run: OliveRun) -> list[str]:
    """What follows `olive` on its command line."""
    paths = ["-m", str(run.checkpoint.resolve()), "-o", str(run.output.resolve())]
    return ["run", "--run-config", WORKFLOW_FILE, "--package-config", PACKAGE_FILE, *paths]


def _start(log: Path) -> subprocess.Popen[bytes]:
    if importlib.util.find_spec("olive") is None:
        raise missing_olive()
    environment = os.environ | {
        "OLIVE_DISABLE_TELEMETRY": "1",
        "HF_HUB_OFFLINE": "1",
        "TRANSFORMERS_OFFLINE": "1",
        "CUDA_VISIBLE_DEVICES": "",
        "PYTHONPATH": os.pathsep.join(
            [str(Path(__file__).resolve().parents[2]), *filter(None, [os.environ.get("PYTHONPATH")])]
        ),
    }
    command = [sys.executable, "-P", "-m", "phiforge.olive.worker"]
    with log.open("ab") as file:  # until the worker opens it for itself
        return subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=file, stderr=subprocess.STDOUT)


def _wait(process: subprocess.Popen[bytes], events: Path, progress: Progress) -> int:
    """Wait for the run to finish, or for the process to end without that."""
    unread = ""
    with events.open(encoding="utf-8") as file:
        while True:
            ended = process.poll() is not None
            # The last line may be read before it is written to its end.
            *lines, unread = (unread + file.read()).split("\n")
            code = _report(lines, progress)
            if code is not None or ended:
                return process.returncode if code is None else code
            time.sleep(_POLL_S)


def _report(lines: list[str], progress: Progress) -> int | None:
    """Tell progress; return the exit code if the run has finished."""
    code = None
    for event in _parse(lines):
        if event["event"] == "progress":
            progress(event["step"], event["done"], event["total"])
        elif event["event"] == "finished":
            code = int(event["code"])
    return code


def _parse(lines: list[str]) -> Iterator[dict[str, Any]]:
    for line in lines:
        try:
            yield json.loads(line)
        except ValueError:
            continue  # a line cut by a kill


def _failure(events: Path, log: Path, code: int, missing: list[str]) -> errors.PhiforgeError:
    for event in _parse(events.read_text(encoding="utf-8").splitlines()):
        if event["event"] == "failure":
            cls = getattr(errors, event["class"])
            error: errors.PhiforgeError = cls(event["what"], why=event["why"], fix=event["fix"])
            return error
        if event["event"] == "os-error" and event["errno"] == errno.ENOSPC:
            return disk_full(log.parent)
    text = log.read_text(encoding="utf-8", errors="replace")
    # A full disk takes no log either, so the disk is asked too.
    if "No space left on device" in text or shutil.disk_usage(log.parent).free < _FULL_BYTES:
        return disk_full(log.parent)
    if code == -9:
        return errors.BuildFailedError(
            "Olive was killed while it worked.",
            why="The system kills a process when memory runs out; it may also have been killed by hand.",
            fix="Free memory and run the same command again: finished passes are not repeated.",
        )
    raised = _EXCEPTION.findall(text)
    return errors.BuildFailedError(
        f"Olive ended with exit code {code} and without {', '.join(missing) or 'an error of its own'}.",
        why=f"The last exception in its log is {raised[-1]}" if raised else "Its log names no exception.",
        fix=f"Read {log}; a second run starts from the last pass that worked.",
    )
