"""Compiles the graphs of one job in this process: `python -m phiforge.runtime.compile_worker JOB.json`.

Run as a process of its own by `phiforge.runtime.compile`, because the compiler keeps its memory and may crash. An error
of onnxruntime ends the process with its traceback.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from pathlib import Path
from typing import Any

import onnxruntime as ort
import psutil

from phiforge.runtime.compile_job import GRAPH_MARK, CompileJob, CompileReport, GraphJob, result_file
from phiforge.runtime.qnn import session_options
from phiforge.store import write_atomically

SAMPLE_SECONDS = 0.02
AFFINITY_SUFFIX = ".affinity.json"
AFFINITY = {"op_type": {"GroupQueryAttention": "htp"}}
# Only the most verbose log says which node the library refused, and why. It takes about 70 KB for a decoder layer.
_VERBOSE = 0


def run(job_file: Path) -> None:
    """Compile the graphs of a job and write its report; the targets and binaries of an earlier run are removed."""
    job = CompileJob.model_validate_json(job_file.read_bytes())
    for graph in job.graphs:
        graph.target.unlink(missing_ok=True)
        job.binary(graph).unlink(missing_ok=True)
    memory = MemoryWatch()
    provider_options = _provider_options(job, job_file)
    seconds, sessions = [], []
    for graph in job.graphs:
        started = time.perf_counter()
        session = _compile(job, graph, provider_options)
        seconds.append(round(time.perf_counter() - started, 3))
        if job.shared:  # the binary is written with the last graph, from all sessions
            sessions.append(session)
        del session
    report = CompileReport(
        seconds=tuple(seconds), peak_resident_bytes=peak_resident_bytes(), peak_anon_bytes=memory.peak_bytes
    )
    write_atomically(result_file(job_file), report.model_dump_json(indent=1) + "\n")


def _provider_options(job: CompileJob, job_file: Path) -> dict[str, str]:
    options = {
        "soc_model": str(job.soc_model),
        "htp_graph_finalization_optimization_mode": str(job.optimization),
        "htp_performance_mode": "burst",
    }
    if job.shared:
        options["enable_htp_weight_sharing"] = "1"
    if job.attention_on_npu:
        affinity = job_file.with_name(job.name + AFFINITY_SUFFIX)
        write_atomically(affinity, json.dumps(AFFINITY) + "\n")
        options["op_affinity"] = str(affinity)
    return options


def _compile(job: CompileJob, graph: GraphJob, provider_options: dict[str, str]) -> Any:
    """Compile one graph and return its session."""
    config = {"ep.context_enable": "1", "ep.context_embed_mode": "0", "ep.context_file_path": str(graph.target)}
    if job.shared:
        last = graph is job.graphs[-1]
        config |= {"ep.share_ep_contexts": "1", "ep.stop_share_ep_contexts": "1" if last else "0"}
    options = session_options(provider_options, cpu_fallback=not job.attention_on_npu, config=config, severity=_VERBOSE)
    sys.stdout.write(f"{GRAPH_MARK}{graph.source}\n")
    sys.stdout.flush()
    # onnxruntime names graphs by a hash of the path it is given. Without a folder it is the same everywhere, and so is
    # every byte of the binary.
    os.chdir(graph.source.parent)
    return ort.InferenceSession(graph.source.name, options)


class MemoryWatch:
    """Samples this process's own memory from a thread; onnxruntime lets it run while it compiles."""

    def __init__(self) -> None:
        self.peak_bytes = 0
        threading.Thread(target=self._watch, daemon=True).start()

    def _watch(self) -> None:
        process = psutil.Process()
        while True:
            self.peak_bytes = max(self.peak_bytes, _anon_bytes(process))
            time.sleep(SAMPLE_SECONDS)


def peak_resident_bytes() -> int:
    """The most memory this process held at once, mapped files included."""
    if sys.platform == "linux":
        return _status_bytes("VmHWM")
    info = psutil.Process().memory_info()
    return int(getattr(info, "peak_wset", info.rss))


def _anon_bytes(process: psutil.Process) -> int:
    if sys.platform == "linux":
        return _status_bytes("RssAnon")
    info = process.memory_info()
    return int(getattr(info, "private", info.rss))


def _status_bytes(field: str) -> int:
    for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    raise LookupError(field)


if __name__ == "__main__":
    run(Path(sys.argv[1]).resolve())
