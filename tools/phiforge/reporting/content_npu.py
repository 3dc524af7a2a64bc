"""The section on what was compiled for an NPU: SDK, binaries, graphs, how inputs and outputs are quantized."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, TypeAlias

from phiforge.gate import number
from phiforge.reporting import text
from phiforge.reporting.layout import Cell, Section, Table, code, fact, num, word
from phiforge.soc import SOC_MODELS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from phiforge.reporting.schema import Report
    from phiforge.variant import BinaryFile, NpuFacts, TensorFacts

_PLACES = {"cpu": "on the CPU", "npu": "on the NPU"}
_SHIPS, _STAYS = "ships", "stays with the build"
# Tokens of the graph, direction, name without its numbers, type, shape: tensors alike in these share a row.
_Alike: TypeAlias = tuple[int, str, str, str, tuple[int, ...]]


def npu(report: Report) -> tuple[Section, ...]:
    """The section of an NPU's variant; other variants have none."""
    facts = report.variant.npu
    if facts is None:
        return ()
    source = report.profile.soc_source or "no source is named"
    doubts = () if facts.confirmed else (f"SoC not confirmed: {source}",)
    intro = (
        "What was compiled for the NPU. Binaries that stay with the build are the twin's, which an x86 host can load "
        "and emulate; they are not part of the package. Facts of the files, not measurements."
    )
    tables = (_settings(facts, source), _binaries(facts), _graphs(facts), _tensors(facts))
    return (Section("npu", "On the NPU", intro, kind="fact", tables=tables, points=doubts),)


def _settings(facts: NpuFacts, source: str) -> Table:
    known = SOC_MODELS.get(facts.soc_model)
    soc = f"{facts.soc_model}{f', {known.name}' if known else ''}{'' if facts.confirmed else ' (not confirmed)'}"
    return Table(
        columns=("", ""),
        rows=(
            fact("SDK", facts.sdk_version),
            fact("SoC model", soc),
            *((fact("SoC source", source),) if facts.confirmed else ()),
            fact("Attention", _PLACES.get(facts.attention, facts.attention)),
            fact("KV cache", f"{facts.kv_cache_bits} bits"),
            fact("Context", f"{text.whole(facts.context_tokens)} tokens"),
            fact("Window", f"{text.whole(facts.window_tokens)} tokens at once"),
        ),
    )


def _binaries(facts: NpuFacts) -> Table:
    files = (*((item, _SHIPS) for item in facts.binaries), *((item, _STAYS) for item in facts.twin_binaries))
    return Table(
        columns=("Binary", "Where", "Size", "Weights", "SHA-256"),
        rows=tuple(_binary(item, where) for item, where in files),
        caption="Binaries; shared weights are one copy for graphs of different lengths",
        stacked=True,
    )


def _binary(item: BinaryFile, where: str) -> tuple[Cell, ...]:
    return (
        word(item.file),
        word(where),
        num(text.value(item.bytes, "bytes")),
        word("shared" if item.shared else "its own"),
        code(text.short_hash(item.sha256)),
    )


def _graphs(facts: NpuFacts) -> Table:
    return Table(
        columns=("Graph", "Binary", "Tokens", "Inputs", "Outputs"),
        rows=tuple(
            (
                word(graph.file),
                word(graph.binary),
                num(text.whole(graph.tokens)),
                num(text.whole(len(graph.inputs))),
                num(text.whole(len(graph.outputs))),
            )
            for graph in facts.graphs
        ),
        caption="Graphs, with the tokens each takes at once",
        stacked=True,
    )


def _tensors(facts: NpuFacts) -> Table:
    alike: dict[_Alike, list[TensorFacts]] = {}
    for graph in facts.graphs:
        for direction, tensors in (("in", graph.inputs), ("out", graph.outputs)):
            for tensor in tensors:
                key = (graph.tokens, direction, re.sub(r"\d+", "*", tensor.name), tensor.dtype, tensor.shape)
                alike.setdefault(key, []).append(tensor)
    return Table(
        columns=("Tensor", "Graph, tokens", "Direction", "Count", "Type", "Shape", "Scale", "Zero point"),
        rows=tuple(_row(key, tensors) for key, tensors in alike.items()),
        caption=f"Inputs and outputs; a quantized one stands for (code {text.minus('-')} zero point) "
        f"{text.TIMES} scale",
        stacked=True,
    )


def _row(key: _Alike, tensors: list[TensorFacts]) -> tuple[Cell, ...]:
    tokens, direction, pattern, dtype, shape = key
    scales = [tensor.scale for tensor in tensors if tensor.scale is not None]
    points = [tensor.zero_point for tensor in tensors if tensor.zero_point is not None]
    names = {tensor.name for tensor in tensors}
    return (
        word(tensors[0].name if len(names) == 1 else pattern),
        num(text.whole(tokens)),
        word(direction),
        num(text.whole(len(tensors))),
        word(dtype),
        word(f" {text.TIMES} ".join(map(text.whole, shape)) or "scalar"),
        word(_span([text.tiny(number(scale)) for scale in sorted(scales)]) if scales else "not quantized"),
        word(_span([text.whole(point) for point in sorted(points)])),
    )


def _span(sorted_texts: Sequence[str]) -> str:
    """The least and the greatest, once if they are alike."""
    if not sorted_texts:
        return text.NONE
    first, last = text.minus(sorted_texts[0]), text.minus(sorted_texts[-1])
    return first if first == last else f"{first} to {last}"
