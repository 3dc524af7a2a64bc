"""Compiling for real: what comes out, and what is said when the compiler refuses, crashes or is killed."""

from __future__ import annotations

import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest

from emulator.conftest import WINDOWS, compile_in, job_of
from emulator.parts import Attention, feed
from phiforge import errors
from phiforge.hashing import hash_files
from phiforge.runtime.compile import compile_graphs, worker_failure
from phiforge.runtime.compile_job import CompileJob, GraphJob
from phiforge.runtime.qnn import session_options

TOOLS = Path(__file__).parents[2] / "tools"


@pytest.mark.parametrize("name", WINDOWS)
@pytest.mark.parametrize("attention", ["plain", "whole"])
def test_the_emulator_agrees_with_the_cpu(request: pytest.FixtureRequest, attention: str, name: str) -> None:
    folder: Path = request.getfixturevalue(attention)
    values = feed(WINDOWS[name])
    options = session_options({"soc_model": "60"}, cpu_fallback=attention == "plain")
    compiled = ort.InferenceSession(folder / "out" / f"{name}.onnx", options)
    source = ort.InferenceSession(folder / "src" / f"{name}.onnx", providers=["CPUExecutionProvider"])
    outputs = [value.name for value in source.get_outputs()]
    for output, got, wanted in zip(outputs, compiled.run(outputs, values), source.run(outputs, values), strict=True):
        zero = 32768 if got.dtype == np.uint16 else 0
        difference = np.linalg.norm(got.astype(np.float64) - wanted)
        assert difference < 0.01 * np.linalg.norm(wanted.astype(np.float64) - zero), output


def test_each_graph_has_its_own_binary(plain: Path, shared: Path) -> None:
    assert sorted(hash_files(plain / "out")) == [
        "decode_0.onnx", "decode_0_qnn.bin", "prefill_0.onnx", "prefill_0_qnn.bin",
    ]  # fmt: skip
    assert sorted(hash_files(shared / "out")) == ["decode_0.onnx", "prefill_0.onnx", "prefill_0_qnn.bin"]
    alone = sum((plain / "out" / f"{name}_qnn.bin").stat().st_size for name in WINDOWS)
    assert (shared / "out" / "prefill_0_qnn.bin").stat().st_size < alone
    assert not [path for path in (plain / "src").iterdir() if not path.name.startswith(tuple(WINDOWS))]


def test_the_bytes_do_not_depend_on_the_folder(shared: Path, tmp_path: Path) -> None:
    """A second compilation into the same folder replaces the first one."""
    job = job_of(tmp_path, shared=True)
    for _ in range(2):
        result = compile_in(tmp_path, job)
        assert hash_files(tmp_path / "out") == hash_files(shared / "out")
    assert len(result.seconds) == 2
    assert result.peak_resident_bytes > result.peak_anon_bytes > 10e6
    assert result.sdk_version.startswith("v2.")
    assert [facts.binaries for facts in result.contexts] == [("prefill_0_qnn.bin",)] * 2


# Mish is a function of other operators, which onnxruntime unfolds too late and then calls an invalid node.
@pytest.mark.parametrize("operator", ["Acosh", "Mish"])
@pytest.mark.parametrize("attention", ["cpu", "npu"])
def test_a_refused_node_is_named(tmp_path: Path, attention: Attention, operator: str) -> None:
    with pytest.raises(errors.CompileFailedError) as caught:
        compile_in(tmp_path, job_of(tmp_path, attention=attention, odd=operator))
    told = caught.value
    assert operator in told.what
    assert "odd_node" in told.what
    assert f"Operators of type `{operator}` are not supported by QNN EP" in told.why
    assert "l0_attention" not in told.what
    assert str(tmp_path / "compile.log") in told.fix


def test_an_unknown_chip_is_told(tmp_path: Path) -> None:
    job = job_of(tmp_path).model_copy(update={"soc_model": 9999})
    with pytest.raises(errors.CompileFailedError, match=r"prefill_0\.onnx") as caught:
        compile_in(tmp_path, job)
    assert "QNN_DEVICE_ERROR_INVALID_CONFIG" in caught.value.why
    assert "9999" in caught.value.fix


@pytest.fixture
def crash(shared: Path, tmp_path: Path) -> CompileJob:
    """A graph that the library crashes on: on x86 it cannot load a binary with shared weights."""
    shutil.copytree(shared / "out", tmp_path / "out")
    graph = GraphJob(source=tmp_path / "out" / "prefill_0.onnx", target=tmp_path / "out" / "again.onnx")
    return CompileJob(graphs=(graph,), shared=False, soc_model=60)


@pytest.mark.skipif(sys.platform == "win32", reason="the signal has no such name there")
def test_a_crash_names_the_graph_and_the_stage(crash: CompileJob, tmp_path: Path) -> None:
    with pytest.raises(errors.CompileFailedError) as caught:
        compile_in(tmp_path, crash)
    assert "SIGSEGV" in caught.value.what
    assert str(crash.graphs[0].source) in caught.value.what
    assert crash.graphs[0].source.is_file()
    command = caught.value.fix.split("`")[1]
    assert str(tmp_path / "work" / "again.job.json") in command
    again = subprocess.run(
        [sys.executable, *shlex.split(command)[1:]], env={"PYTHONPATH": str(TOOLS)}, capture_output=True, check=False
    )
    assert again.returncode == -11


def test_a_kill_for_memory_is_told(tmp_path: Path) -> None:
    job, log = job_of(tmp_path), tmp_path / "compile.log"
    (tmp_path / "out").mkdir()
    log.write_text(f"phiforge compiles {job.graphs[1].source}\n", encoding="utf-8")
    error = worker_failure(job, tmp_path / "job.json", log, -9)
    assert isinstance(error, errors.CompileFailedError)
    assert "memory" in error.why
    assert str(job.graphs[1].source) in error.what
    log.write_text("write failed: No space left on device\n", encoding="utf-8")
    assert isinstance(worker_failure(job, tmp_path / "job.json", log, 1), errors.DiskFullError)


def test_an_absent_source_is_told(tmp_path: Path) -> None:
    graph = GraphJob(source=tmp_path / "none.onnx", target=tmp_path / "out" / "none.onnx")
    job = CompileJob(graphs=(graph,), shared=False, soc_model=60)
    with pytest.raises(errors.CompileFailedError) as caught:
        compile_in(tmp_path, job)
    assert "File doesn't exist" in caught.value.why


def test_an_absent_compiler_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime_qnn", None)
    with pytest.raises(errors.DependencyMissingError) as caught:
        compile_graphs(job_of(tmp_path), work=tmp_path, log=tmp_path / "log.txt")
    assert "phiforge[qnn]" in caught.value.fix
