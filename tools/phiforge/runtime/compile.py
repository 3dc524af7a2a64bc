"""Compiles graphs by Qualcomm's own compiler, in a process that gives its memory back, and checks what it left."""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from phiforge import errors
from phiforge.graph.npu.context import check_context, read_context
from phiforge.runtime.compile_job import JOB_SUFFIX, CompileJob, CompileReport, GraphJob, result_file
from phiforge.runtime.compile_log import Refusal, errors_told, last_graph, refusals, section
from phiforge.runtime.qnn import sdk_version
from phiforge.store import disk_full, write_atomically

if TYPE_CHECKING:
    from collections.abc import Sequence

    from phiforge.graph.npu.context import ContextFacts

_SOURCE_ROOT = Path(__file__).resolve().parents[2]
_FULL_BYTES = 1024 * 1024
_WINDOWS_CRASH = 0xC0000000
_TOLD = 5


@dataclass(frozen=True, kw_only=True)
class CompileResult:
    """What a job gave: the facts and seconds of each graph, the process's peak memory, and the SDK.

    `sdk_version` is with its build number, as the compiled files have it.
    """

    contexts: tuple[ContextFacts, ...]
    seconds: tuple[float, ...]
    peak_resident_bytes: int
    peak_anon_bytes: int
    sdk_version: str


def compile_graphs(job: CompileJob, *, work: Path, log: Path) -> CompileResult:
    """Compile the graphs of a job in a process of its own and check what it left.

    Args:
        job: The graphs. Their targets' folder is made; targets and binaries that are there are replaced.
        work: Where the job's file and the process's report are written. They stay, so that a crash can be repeated.
        log: Where the process's output goes, with onnxruntime's verbose log.

    Raises:
        CompileFailedError: The compiler refused a node, crashed, was killed, or left something incomplete.
        DependencyMissingError: The compiler is not installed.
        DiskFullError: The disk filled up.
    """
    sdk_version()
    job = _absolute(job)
    work, log = work.resolve(), log.resolve()
    for folder in (work, log.parent, job.graphs[0].target.parent):
        folder.mkdir(parents=True, exist_ok=True)
    job_file = work / f"{job.name}{JOB_SUFFIX}"
    result_file(job_file).unlink(missing_ok=True)
    write_atomically(job_file, job.model_dump_json(indent=1) + "\n")
    with log.open("wb") as log_file:
        # run() kills the process if this one is interrupted.
        code = subprocess.run(
            [sys.executable, *_arguments(job_file)], stdin=subprocess.DEVNULL, stdout=log_file,
            stderr=subprocess.STDOUT, env=_environment(), cwd=work, check=False,
        ).returncode  # fmt: skip
    if code or not result_file(job_file).is_file():
        raise worker_failure(job, job_file, log, code)
    report = CompileReport.model_validate_json(result_file(job_file).read_bytes())
    contexts = check_compiled(job, log=log, started=job_file.stat().st_mtime)
    return CompileResult(
        contexts=contexts,
        seconds=report.seconds,
        peak_resident_bytes=report.peak_resident_bytes,
        peak_anon_bytes=report.peak_anon_bytes,
        sdk_version=contexts[0].sdk_versions[0],
    )


def check_compiled(job: CompileJob, *, log: Path, started: float) -> tuple[ContextFacts, ...]:
    """Check every compiled file of a job; the log's reasons are told for nodes that were left to the CPU.

    Args:
        job: The job, its paths absolute.
        log: The log of its process.
        started: When it was started, by the file system's clock.

    Raises:
        CompileFailedError: As `check_context`, or a graph has another binary than its own.
    """
    text = log.read_text(encoding="utf-8", errors="replace")
    return tuple(_check_graph(job, graph, section(text, str(graph.source)), log, started) for graph in job.graphs)


def _check_graph(job: CompileJob, graph: GraphJob, told: str, log: Path, started: float) -> ContextFacts:
    if not graph.target.is_file():
        raise _refused(job, graph.source, told, log)
    try:
        facts = check_context(graph.target, allowed=job.cpu_operators, started=started, sdk_version=sdk_version())
    except errors.CompileFailedError as error:
        left = {name for names in read_context(graph.target).strays(job.cpu_operators).values() for name in names}
        reasons = [refusal for refusal in _disallowed(job, told) if refusal.node in left]
        why = f"{error.why} {_told(reasons)}".rstrip()
        raise errors.CompileFailedError(error.what, why=why, fix=f"{error.fix} It is {log}.") from error
    if facts.binaries != (job.binary(graph).name,):
        raise errors.CompileFailedError(
            f"{graph.target} has another binary than its own.",
            why=f"It names {', '.join(facts.binaries)}, not {job.binary(graph).name}.",
            fix=f"Report it with {log}.",
        )
    return facts


def worker_failure(job: CompileJob, job_file: Path, log: Path, code: int) -> errors.PhiforgeError:
    """The error for a process that ended with this code and without its report."""
    text = log.read_text(encoding="utf-8", errors="replace")
    # A full disk takes no log either, so the disk is asked too.
    if "No space left on device" in text or shutil.disk_usage(job.graphs[0].target.parent).free < _FULL_BYTES:
        return disk_full(job.graphs[0].target.parent)
    source = Path(last_graph(text) or job.graphs[0].source)
    again = f"`python {shlex.join(_arguments(job_file))}` repeats this stage alone; {source} and {log} are kept."
    if code == -9 or "bad_alloc" in text:
        return errors.CompileFailedError(
            f"The compiler was killed while it compiled {source}, or found no memory.",
            why="The system kills a process when memory runs out; it may also have been killed by hand.",
            fix=f"Free memory and run the same command again. {again}",
        )
    crash = _crash(code)
    if crash:
        said = _told(_disallowed(job, section(text, str(source)) or text))
        silent = "It says nothing more. It also crashes where it is given its own output with shared weights."
        return errors.CompileFailedError(
            f"Qualcomm's compiler crashed with {crash} on {source}.",
            why=f"Before that it refused nodes. {said}" if said else silent,
            fix=f"{again} Report it to Qualcomm with both files.",
        )
    return _refused(job, source, section(text, str(source)) or text, log)


def _refused(job: CompileJob, source: Path, told: str, log: Path) -> errors.CompileFailedError:
    """The error for a graph that onnxruntime gave up, with what its library says of it."""
    found = _disallowed(job, told)
    nodes = ", ".join(f"{refusal.operator} {refusal.node}" for refusal in found[:_TOLD])
    said = [_told(found), *(_sentence(line) for line in errors_told(told))]
    return errors.CompileFailedError(
        f"Qualcomm's compiler refused {source}{f': {nodes}' if nodes else ''}.",
        why=" ".join(filter(None, said)) or "Its log names no reason.",
        fix=f"Check the chip's number ({job.soc_model}) and the graph's operators; the whole log is {log}.",
    )


def _disallowed(job: CompileJob, told: str) -> list[Refusal]:
    return [refusal for refusal in refusals(told) if refusal.operator not in job.cpu_operators]


def _told(found: Sequence[Refusal]) -> str:
    return " ".join(_sentence(f"{refusal.operator} {refusal.node}: {refusal.reason}") for refusal in found[:_TOLD])


def _sentence(text: str) -> str:
    return f"{text.strip().rstrip('.')}."


def _crash(code: int) -> str | None:
    """The name of the signal that ended a process, or Windows' number; None where it ended by itself."""
    if code < 0:
        try:
            return signal.Signals(-code).name
        except ValueError:
            return f"signal {-code}"
    return f"{code:#x}" if code >= _WINDOWS_CRASH else None


def _arguments(job_file: Path) -> list[str]:
    return ["-P", "-m", "phiforge.runtime.compile_worker", str(job_file)]


def _environment() -> dict[str, str]:
    paths = [str(_SOURCE_ROOT), os.environ.get("PYTHONPATH", "")]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in paths if path)}


def _absolute(job: CompileJob) -> CompileJob:
    graphs = tuple(GraphJob(source=graph.source.resolve(), target=graph.target.resolve()) for graph in job.graphs)
    return job.model_copy(update={"graphs": graphs})
