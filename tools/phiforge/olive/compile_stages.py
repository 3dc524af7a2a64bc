"""Compile a decoder's stages for an NPU, part by part: the binaries that ship, and a twin that an x86 host can load.

Both come from the same graphs. In what ships, the prefill and the decode graph of a part share one copy of the weights;
loading such a binary crashes on x86 (QNN 2.51), so the twin's graphs have one each.
"""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import onnx_ir as ir

from phiforge.graph.npu.context import read_context
from phiforge.graph.npu.emit import CODE
from phiforge.hashing import hash_file
from phiforge.olive.driver import OLIVE_MODEL
from phiforge.olive.export_stages import FIRST_STAGE, GENAI_FILE
from phiforge.runtime.compile import compile_graphs
from phiforge.runtime.compile_job import CompileJob, GraphJob
from phiforge.variant import (
    CALIBRATED_FOLDER,
    MODEL_FOLDER,
    NPU_FILE,
    QDQ_FOLDER,
    TWIN_FOLDER,
    BinaryFile,
    CompiledGraph,
    NpuFacts,
    TensorFacts,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from phiforge.pipeline import CompileOptions
    from phiforge.runtime.compile import CompileResult

ATTENTION = "GroupQueryAttention"
PERFORMANCE_MODE = "burst"


@dataclass(frozen=True, kw_only=True)
class _Work:
    """What all compilations of one variant share."""

    source: Path
    folder: Path
    options: CompileOptions
    attention_on_npu: bool
    log: Path

    def compile(self, names: list[str], target: str, *, shared: bool) -> CompileResult:
        """Compile graphs in one process, into the folder `target`."""
        graphs = [self.source / f"{name}.onnx" for name in names]
        left = 0 if self.attention_on_npu else _attention_count(graphs[0])
        assert self.options.soc_model is not None
        job = CompileJob(
            graphs=tuple(GraphJob(source=path, target=self.folder / target / path.name) for path in graphs),
            shared=shared,
            soc_model=self.options.soc_model,
            optimization=self.options.optimization,
            attention_on_npu=self.attention_on_npu,
            cpu_operators={ATTENTION: left} if left else {},
        )
        return compile_graphs(job, work=self.log, log=self.log / f"{target}-{names[0]}.log")


def compile_stages(
    source: Path, folder: Path, options: CompileOptions, *, log: Path, progress: Callable[[int, int], None]
) -> None:
    """Make `model/`, `twin/`, `qdq/`, `calibrated/` and `npu.json` in the empty `folder`.

    Args:
        source: What `export_stages` wrote, with the calibrated checkpoint in a folder of its own.
        folder: Where to write; must exist.
        options: The chip and how long the compiler tries.
        log: Folder for the jobs and logs of the compiling processes, which stay there.
        progress: Called with (compilations done, compilations in all).

    Raises:
        CompileFailedError: The compiler refused a graph, crashed or left something incomplete.
        DependencyMissingError: It is not installed.
    """
    config = json.loads((source / GENAI_FILE).read_text(encoding="utf-8"))
    entries: dict[str, Any] = config["model"]["decoder"]["pipeline"][0]
    groups = list(_groups(entries))
    log.mkdir(parents=True, exist_ok=True)
    work = _Work(
        source=source, folder=folder, options=options, log=log, attention_on_npu=_cache_is_fixed(source, groups[0][0])
    )
    made: list[tuple[str, CompileResult]] = []
    for number, names in enumerate(groups):
        progress(2 * number, 2 * len(groups))
        made.append((MODEL_FOLDER, work.compile(names, MODEL_FOLDER, shared=len(names) > 1)))
        progress(2 * number + 1, 2 * len(groups))
        made.append((TWIN_FOLDER, work.compile(names, TWIN_FOLDER, shared=False)))
    progress(2 * len(groups), 2 * len(groups))
    compiled = {name for names in groups for name in names}
    _complete(source, folder, config, compiled, options)
    facts = _facts(source, folder, config, [result for place, result in made if place == MODEL_FOLDER], options)
    _link(source / FIRST_STAGE, folder / OLIVE_MODEL)
    (folder / NPU_FILE).write_text(facts.model_dump_json(indent=1) + "\n", encoding="utf-8")


def _groups(entries: dict[str, Any]) -> Iterator[list[str]]:
    """The names of the graphs that are compiled together: a part's two lengths, and a head on the NPU."""
    parts = [name.removeprefix("prefill_") for name in entries if name.startswith("prefill_")]
    for part in parts:
        yield [f"prefill_{part}", f"decode_{part}"]
    if "selection" in entries:
        yield ["head"]


def _attention_count(path: Path) -> int:
    return sum(node.op_type == ATTENTION for node in ir.load(path).graph)


def _cache_is_fixed(source: Path, name: str) -> bool:
    """Whether the cache has a fixed length, as attention on the NPU wants it."""
    cache = next(value for value in ir.load(source / f"{name}.onnx").graph.inputs if "past_key" in str(value.name))
    assert cache.shape is not None
    return isinstance(cache.shape[2], int)


def _complete(source: Path, folder: Path, config: dict[str, Any], compiled: set[str], options: CompileOptions) -> None:
    """Put what is not compiled beside what is, and keep the sources."""
    _link_tree(source / CALIBRATED_FOLDER, folder / CALIBRATED_FOLDER)
    files = [path for path in source.iterdir() if path.is_file()]
    for path in files:
        _link(path, folder / QDQ_FOLDER / path.name)
    known = {f"{name}.onnx" for name in compiled}
    stays = [path for path in files if path.name not in known and not _is_weights_of(path, compiled)]
    entries = config["model"]["decoder"]["pipeline"][0]
    provider = {
        "backend_type": "htp",
        "soc_model": str(options.soc_model),
        "htp_performance_mode": PERFORMANCE_MODE,
    }
    for name in compiled:
        entries[name]["session_options"] = {"provider_options": [{"qnn": provider}]}
    for place in (MODEL_FOLDER, TWIN_FOLDER):
        for path in stays:
            _link(path, folder / place / path.name)
        target = folder / place / GENAI_FILE
        target.unlink()
        target.write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")


def _is_weights_of(path: Path, compiled: set[str]) -> bool:
    return path.suffix == ".data" and (path.stem.startswith("part_") or path.stem in compiled)


def _facts(
    source: Path, folder: Path, config: dict[str, Any], results: list[CompileResult], options: CompileOptions
) -> NpuFacts:
    """What was compiled. Whether the chip's number is confirmed is the profile's to say."""
    decoder = config["model"]["decoder"]
    first = ir.load(source / "prefill_0.onnx").graph
    cache = next(value for value in first.inputs if "past_key" in str(value.name))
    assert options.soc_model is not None
    return NpuFacts(
        sdk_version=results[0].sdk_version,
        soc_model=options.soc_model,
        confirmed=False,
        attention="npu" if _cache_is_fixed(source, "prefill_0") else "cpu",
        kv_cache_bits=8 if cache.dtype == ir.DataType.INT8 else 16,
        window_tokens=int(decoder["sliding_window"]["window_size"]),
        context_tokens=int(config["model"]["context_length"]),
        graphs=tuple(_graphs(source, folder, decoder["pipeline"][0])),
        binaries=_binaries(folder / MODEL_FOLDER),
        twin_binaries=_binaries(folder / TWIN_FOLDER),
    )


def _graphs(source: Path, folder: Path, entries: dict[str, Any]) -> Iterator[CompiledGraph]:
    for names in _groups(entries):
        for name in names:
            graph = ir.load(source / f"{name}.onnx").graph
            yield CompiledGraph(
                file=f"{name}.onnx",
                binary=read_context(folder / MODEL_FOLDER / f"{name}.onnx").binaries[0],
                tokens=_tokens(graph),
                inputs=tuple(_tensor(value) for value in graph.inputs),
                outputs=tuple(_tensor(value) for value in graph.outputs),
            )


def _tokens(graph: ir.Graph) -> int:
    shape = graph.inputs[0].shape
    assert shape is not None and isinstance(shape[1], int)
    return shape[1]


def _binaries(folder: Path) -> tuple[BinaryFile, ...]:
    names = [name for path in sorted(folder.glob("*.onnx")) for name in read_context(path).binaries]
    return tuple(
        BinaryFile(
            file=name,
            bytes=(folder / name).stat().st_size,
            sha256=hash_file(folder / name),
            shared=names.count(name) > 1,
        )
        for name in sorted(set(names))
    )


def _tensor(value: ir.Value) -> TensorFacts:
    """An input or output with the scale and zero point of the node that reads or makes its codes."""
    assert value.dtype is not None and value.shape is not None and value.name is not None
    scale, zero = None, None
    if value.dtype == CODE:
        producer = value.producer()
        node = producer if producer is not None else next(iter(value.uses())).node
        held = [item.const_value for item in node.inputs[1:] if item is not None]
        assert held[0] is not None and held[1] is not None
        scale, zero = float(held[0].numpy()), int(held[1].numpy())
    dims = tuple(size if isinstance(size, int) else -1 for size in value.shape)
    return TensorFacts(name=value.name, dtype=value.dtype.name.lower(), shape=dims, scale=scale, zero_point=zero)


def _link_tree(source: Path, target: Path) -> None:
    for path in source.iterdir():
        _link(path, target / path.name)


def _link(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
