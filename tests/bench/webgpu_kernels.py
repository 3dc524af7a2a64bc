"""Measure what the WebGPU plugin takes: the rows of targets/providers/webgpu.toml.

    PYTHONPATH=tests python -m bench.webgpu_kernels [OPERATOR ...]

Needs the extra `webgpu` and a Vulkan driver; a software one will do (Mesa 25 or later). Every row is asked of the
plugin itself: a model of one node, all inputs of the node graph inputs, no graph optimization, and where onnxruntime
placed the node. For each schema version from opset 13 on, each type parameter is varied over all its dtypes while the
others keep one that is accepted. Rows that need `enableInt64` say so.

Memory is measured too: onnxruntime copies a graph input that a CPU node and a kernel both read, unless the kernel reads
it in CPU memory; and copies an output to a CPU node, unless the kernel left it there.
"""

from __future__ import annotations

import itertools
import json
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import onnx
from onnx import TensorProto, helper

from bench.one_node import (
    FIRST_OPSET,
    FIRST_TRIED,
    INT64,
    LAST_OPSET,
    MICROSOFT,
    PROVIDER,
    TEMPLATES,
    Signature,
    Types,
    accepted,
    make_node_model,
    placements,
    signature,
)  # fmt: skip

# Attributes that are tried, and what.
ATTRIBUTES = {(MICROSOFT, "MatMulNBits"): {"bits": range(1, 9)}}
# What the plugin places and refuses when it runs; tests/emulator/test_webgpu_conformance.py shows that it does.
REFUSED_INPUTS = {(MICROSOFT, "MatMulNBits"): (4,)}
REFUSED_ATTRIBUTES = {(MICROSOFT, "GroupQueryAttention"): {"qk_output": (0,)}}


@dataclass(frozen=True)
class Row:
    """What was measured of one operator at one schema version."""

    domain: str
    name: str
    since: int
    inputs: tuple[frozenset[str], ...]
    outputs: tuple[frozenset[str], ...]
    absent_inputs: tuple[int, ...]
    cpu_inputs: tuple[int, ...]
    cpu_outputs: tuple[int, ...]
    attributes: tuple[tuple[str, tuple[int, ...]], ...]


def measure_operator(domain: str, name: str, options: Mapping[str, str]) -> list[Row]:
    """Measure one operator at every schema version that an opset from 13 on can have."""
    rows: dict[int, Row] = {}
    for opset in range(FIRST_OPSET, LAST_OPSET + 1):
        kinds = signature(domain, name, opset)
        if kinds is None or kinds.since in rows:
            continue
        row = _measure(domain, name, opset, kinds, options)
        if row is not None:
            rows[kinds.since] = row
    return list(rows.values())


def _measure(domain: str, name: str, opset: int, kinds: Signature, options: Mapping[str, str]) -> Row | None:
    def taken(types: Types, present: Sequence[int]) -> bool:
        return accepted(make_node_model(domain, name, opset, types, present), options)

    every, needed = list(range(len(kinds.inputs))), list(range(kinds.required))
    base = _first_taken(kinds, lambda types: taken(types, every)) or _first_taken(
        kinds, lambda types: taken(types, needed)
    )
    if base is None:
        return None
    present = needed
    for k in every[len(needed) :]:
        if taken(base, [*present, k]):
            present = [*present, k]
    dtypes = {
        parameter: frozenset(dtype for dtype in allowed if taken({**base, parameter: dtype}, present))
        for parameter, allowed in kinds.allowed.items()
    }
    model = make_node_model(domain, name, opset, base, present)
    return Row(
        domain, name, kinds.since,
        tuple(dtypes.get(kind, frozenset({kind})) for kind in kinds.inputs),
        tuple(dtypes.get(kind, frozenset({kind})) for kind in kinds.outputs),
        tuple(sorted({*every} - {*present} | {*REFUSED_INPUTS.get((domain, name), ())})),
        tuple(k for k in present if not _copied(model, f"in{k}", options)),
        tuple(k for k in range(len(kinds.outputs)) if not _copied(model, f"out{k}", options)),
        tuple(_attributes(domain, name, opset, base, present, options)),
    )  # fmt: skip


def _attributes(
    domain: str, name: str, opset: int, types: Types, present: Sequence[int], options: Mapping[str, str]
) -> Iterator[tuple[str, tuple[int, ...]]]:
    for key, choices in ATTRIBUTES.get((domain, name), {}).items():
        models = {n: make_node_model(domain, name, opset, types, present, {key: n}) for n in choices}
        yield key, tuple(n for n, model in models.items() if accepted(model, options))
    yield from REFUSED_ATTRIBUTES.get((domain, name), {}).items()


def _first_taken(kinds: Signature, taken: Any) -> dict[str, str] | None:
    tried = [[dtype for dtype in FIRST_TRIED if dtype in allowed] or allowed[:1] for allowed in kinds.allowed.values()]
    for choice in itertools.product(*tried):
        types = dict(zip(kinds.allowed, choice, strict=True))
        if taken(types):
            return types
    return None


def _copied(model: onnx.ModelProto, value: str, options: Mapping[str, str]) -> bool:
    """Whether onnxruntime copies a value between the node and a node on the CPU that also has it."""
    beside = onnx.ModelProto()
    beside.CopyFrom(model)
    beside.graph.node.append(helper.make_node("Size", [value], ["size"], name="size"))
    beside.graph.output.append(helper.make_tensor_value_info("size", TensorProto.INT64, []))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "optimized.onnx"
        placed = placements(beside, options, optimized=path)
        assert placed is not None and (placed["node"], placed["size"]) == (PROVIDER, "CPUExecutionProvider")
        nodes = onnx.load(path).graph.node
    copied = [name for node in nodes if node.op_type.startswith("Memcpy") for name in (*node.input, *node.output)]
    # A DequantizeLinear with two consumers is first made two, the other's output in0/...
    return any(name == value or name.startswith(f"{value}/") for name in copied)


def measure_all(only: Sequence[str] = ()) -> Iterator[str]:
    """The rows as a table has them; one that needs `enableInt64` is told only where it says more than the plain one."""
    for domain, name in TEMPLATES:
        if only and name not in only:
            continue
        plain = measure_operator(domain, name, {})
        more = [row for row in measure_operator(domain, name, INT64) if row not in plain]
        for rows, needs in ((plain, {}), (more, INT64)):
            for same, versions in itertools.groupby(rows, key=lambda row: replace(row, since=0)):
                yield told(same, [row.since for row in versions], needs)


def told(row: Row, since: Sequence[int], needs: Mapping[str, str]) -> str:
    """One row in TOML."""
    lines = ["[[operator]]", f'name = "{row.name}"', f"since = {list(since)}"]
    if row.domain:
        lines.insert(2, f'domain = "{row.domain}"')
    for key, sets in (("inputs", row.inputs), ("outputs", row.outputs)):
        while len(sets) > 1 and sets[-1] == sets[-2]:
            sets = sets[:-1]
        lines.append(f"{key} = {json.dumps([' '.join(sorted(dtypes)) for dtypes in sets])}")
    places = {"absent_inputs": row.absent_inputs, "cpu_inputs": row.cpu_inputs, "cpu_outputs": row.cpu_outputs}
    lines += [f"{key} = {list(found)}" for key, found in places.items() if found]
    lines += [f"attributes.{key} = {{ values = {list(values)} }}" for key, values in row.attributes]
    lines += [f'needs = {{ {key} = "{value}" }}' for key, value in needs.items()]
    return "\n".join(lines)


def main() -> None:
    """Print all rows, or those of the operators named."""
    for text in measure_all(sys.argv[1:]):
        sys.stdout.write(f"{text}\n\n")


if __name__ == "__main__":
    main()
