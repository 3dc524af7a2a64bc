"""Real compilations by Qualcomm's compiler, made once for all tests of this folder."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from emulator.parts import Attention, write_part
from phiforge.runtime.compile import CompileResult, compile_graphs
from phiforge.runtime.compile_job import CompileJob, GraphJob

# There is no wheel for macOS.
collect_ignore_glob = ["test_*.py"] if sys.platform == "darwin" else []

WINDOWS = {"prefill_0": 16, "decode_0": 1}


def job_of(folder: Path, *, shared: bool = False, attention: Attention = "cpu", odd: str | None = None) -> CompileJob:
    """A prefill and a decode graph of one part, in `folder`/src, to be compiled into `folder`/out."""
    graphs = [
        GraphJob(
            source=write_part(folder / "src" / f"{name}.onnx", tokens=tokens, attention=attention, odd=odd),
            target=folder / "out" / f"{name}.onnx",
        )
        for name, tokens in WINDOWS.items()
    ]
    return CompileJob(
        graphs=tuple(graphs),
        shared=shared,
        soc_model=60,
        optimization=1,
        attention_on_npu=attention == "npu",
        cpu_operators={} if attention == "npu" else {"GroupQueryAttention": 2},
    )


def compile_in(folder: Path, job: CompileJob) -> CompileResult:
    return compile_graphs(job, work=folder / "work", log=folder / "compile.log")


@pytest.fixture(scope="session")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with src/ and out/: two graphs, two binaries, attention on the CPU."""
    folder = tmp_path_factory.mktemp("plain")
    compile_in(folder, job_of(folder))
    return folder


@pytest.fixture(scope="session")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with the attention on the NPU."""
    folder = tmp_path_factory.mktemp("whole")
    compile_in(folder, job_of(folder, attention="npu"))
    return folder


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same as `plain`, both graphs in one binary with one copy of the weights."""
    folder = tmp_path_factory.mktemp("shared")
    compile_in(folder, job_of(folder, shared=True))
    return folder
