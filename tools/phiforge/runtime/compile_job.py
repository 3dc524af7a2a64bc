"""What the compiling process is asked and what it answers; read and written by `compile` and `compile_worker`."""

from __future__ import annotations

from pathlib import Path
from typing import Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

JOB_SUFFIX, RESULT_SUFFIX = ".job.json", ".result.json"
# Written to the log before each graph, so that after a crash the log tells which one it was.
GRAPH_MARK = "phiforge compiles "


class _Message(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class GraphJob(_Message):
    """One graph: the ONNX file to read and the compiled ONNX file to write."""

    source: Path
    target: Path


class CompileJob(_Message):
    """The graphs that one process compiles, in this order.

    Attributes:
        graphs: Their file names must differ: graphs inside a binary are named after their source's.
        shared: Whether the graphs get one binary with one copy of the weights. Such a binary crashes on x86.
        soc_model: Qualcomm's number of the chip.
        optimization: How long the compiler tries, 1 to 3.
        attention_on_npu: Whether GroupQueryAttention is compiled too; then nothing may be left to the CPU.
        cpu_operators: The operators that each graph leaves to the CPU, with their exact counts.
    """

    graphs: tuple[GraphJob, ...] = Field(min_length=1)
    shared: bool
    soc_model: int = Field(gt=0)
    optimization: int = Field(default=3, ge=1, le=3)
    attention_on_npu: bool = False
    cpu_operators: dict[str, int] = {}

    @model_validator(mode="after")
    def _check(self) -> Self:
        for kind in ("source", "target"):
            names = [getattr(graph, kind).name for graph in self.graphs]
            if len(set(names)) < len(names):
                raise ValueError(f"two graphs have one {kind} name")
        if len({graph.target.parent for graph in self.graphs}) > 1:
            raise ValueError("the targets are in more than one folder")
        if self.attention_on_npu and self.cpu_operators:
            raise ValueError("nothing is left to the CPU where attention is on the NPU")
        return self

    @property
    def name(self) -> str:
        """The name of the job's own files: that of its first target."""
        return self.graphs[0].target.stem

    def binary(self, graph: GraphJob) -> Path:
        """The binary of a graph, as onnxruntime 1.31 names it: after the target, or after the first one if shared."""
        target = self.graphs[0].target if self.shared else graph.target
        return target.with_name(f"{target.stem}_qnn.bin")


class CompileReport(_Message):
    """What the process says when all graphs are compiled.

    Attributes:
        seconds: Of each graph.
        peak_resident_bytes: The most memory the process held, mapped files included; VmHWM on Linux.
        peak_anon_bytes: The most memory of its own that was seen, every 20 ms; RssAnon on Linux.
    """

    seconds: tuple[float, ...]
    peak_resident_bytes: int
    peak_anon_bytes: int


def result_file(job_file: Path) -> Path:
    """Where the process writes its report: beside the job."""
    return job_file.with_name(job_file.name.removesuffix(JOB_SUFFIX) + RESULT_SUFFIX)
