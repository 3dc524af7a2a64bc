"""Check a graph against the table of a provider."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

import onnx
import onnx_ir as ir

from phiforge import errors
from phiforge.graph.conformance.memory import copied_values, moved_to_cpu
from phiforge.graph.conformance.nodes import domain_of, dtype_of, given, is_constant, operator_of
from phiforge.graph.conformance.table import Kernel, ProviderTable, dtype_name

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from phiforge.graph.conformance.table import Limit

CONTROL_FLOW = frozenset({"If", "Loop", "Scan"})
GRAPH_INPUT = "graph input"
NAMED_NODES = 8


@dataclass(frozen=True)
class Misfit:
    """A node that the provider does not take; `integers` says that it neither reads nor gives floats."""

    node: str
    operator: str
    why: str
    integers: bool


@dataclass(frozen=True)
class Crossing:
    """A value that is copied between CPU and device at every run; `consumer` is the first node that needs the copy."""

    value: str
    producer: str
    consumer: str


@dataclass(frozen=True)
class Conformance:
    """What was found of `nodes` nodes, constants not counted.

    `moved` are nodes that onnxruntime runs on the CPU though there is a kernel: what is computed from shapes alone.
    """

    nodes: int
    misfits: tuple[Misfit, ...]
    crossings: tuple[Crossing, ...]
    moved: tuple[str, ...]


def check_conformance(model: ir.Model, table: ProviderTable) -> Conformance:
    """Check every node of a graph, those of subgraphs too, against what the provider's kernels take.

    Args:
        model: A typed graph; its weights are not read.
        table: What the provider takes, `under` the options that its session is made with.

    Returns:
        The nodes that the provider would not take, and the values that would be copied at every run.
    """
    kernels = _Kernels(table, dict(model.opset_imports))
    graphs = defaultdict[int, list[ir.Node]](list)
    misfits, rows = list[Misfit](), dict[ir.Node, Kernel]()
    for node in model.graph.all_nodes():
        if is_constant(node):
            continue
        graphs[id(node.graph)].append(node)
        found = kernels.find(node)
        if isinstance(found, str):
            misfits.append(Misfit(_name(node), operator_of(node), found, _integers(node)))
        else:
            rows[node] = found
    crossings, moved = list[Crossing](), list[str]()
    for nodes in graphs.values():
        on_cpu = moved_to_cpu(nodes, rows) if table.moves_shapes else set()
        moved += [_name(node) for node in nodes if node in on_cpu]
        on_device = {node: row for node, row in rows.items() if node not in on_cpu}
        for value, producer, consumer in copied_values(nodes, on_device):
            made_by = GRAPH_INPUT if producer is None else _name(producer)
            crossings.append(Crossing(value.name or "", made_by, _name(consumer)))
    return Conformance(len(misfits) + len(rows), tuple(misfits), tuple(crossings), tuple(moved))


def require_conformance(model: ir.Model, table: ProviderTable, *, integers_on_cpu: bool = False) -> Conformance:
    """Check a graph, and refuse one with nodes that the provider would leave to the CPU.

    Args:
        model: A typed graph; its weights are not read.
        table: What the provider takes, `under` the options that its session is made with.
        integers_on_cpu: Allow nodes on integers alone there, as a decoder's arithmetic on lengths and positions.

    Raises:
        ConformanceError: Nodes have no kernel; the message names them with the reasons.
    """
    found = check_conformance(model, table)
    misfits = [misfit for misfit in found.misfits if not (integers_on_cpu and misfit.integers)]
    if misfits:
        named = [f"{misfit.operator} {misfit.node} ({misfit.why})" for misfit in misfits[:NAMED_NODES]]
        more = len(misfits) - len(named)
        raise errors.ConformanceError(
            f"{table.execution_provider} does not take {len(misfits)} of {found.nodes} nodes.",
            why=", ".join(named) + (f" and {more} more" if more else "") + ".",
            fix=f"Build with a pipeline for {table.provider}; docs/conformance.md tells what a provider's table holds.",
        )
    return found


class _Kernels:
    """The rows of a table, found by the node they are for."""

    def __init__(self, table: ProviderTable, opsets: dict[str, int]) -> None:
        self._table, self._opsets = table, {"" if domain == "ai.onnx" else domain: n for domain, n in opsets.items()}
        self._rows = defaultdict[tuple[str, str], list[Kernel]](list)
        for row in table.operator:
            self._rows[row.domain, row.name].append(row)
        self._expand = cache(table.expand)

    def find(self, node: ir.Node) -> Kernel | str:
        """The row whose kernel takes a node, or why there is none."""
        domain, name = domain_of(node), node.op_type
        if domain == "" and name in CONTROL_FLOW - set(self._table.control_flow):
            return "control flow, which no session of this provider may hold"
        rows = self._rows.get((domain, name), [])
        if not rows:
            return "no kernel for this operator"
        since = _since(domain, name, self._opsets.get(domain, 1))
        fitting = [row for row in rows if since in row.since]
        if not fitting:
            known = sorted({version for row in rows for version in row.since})
            return f"version {since} of the operator; there are kernels for {', '.join(map(str, known))}"
        faults = [(row, list(self._faults(node, row))) for row in fitting]
        taken = [row for row, found in faults if not found]
        for row in taken:
            if row.needs.items() <= self._table.options.items():
                return row
        if taken:
            return f"taken only with {', '.join(f'{key} = {value}' for key, value in taken[0].needs.items())}"
        return "; ".join(sorted((found for _, found in faults), key=len)[0])

    def _faults(self, node: ir.Node, row: Kernel) -> Iterator[str]:
        yield from self._value_faults("input", given(node.inputs), row.inputs, row.absent_inputs)
        yield from self._value_faults("output", given(node.outputs), row.outputs, row.absent_outputs)
        there = {place for place, _ in given(node.inputs)}
        yield from (f"without input {place}" for place in row.required_inputs if place not in there)
        for key, limit in row.attributes.items():
            yield from _attribute_faults(node, key, limit)

    def _value_faults(
        self, kind: str, values: Sequence[tuple[int, ir.Value]], entries: Sequence[str], absent: Sequence[int]
    ) -> Iterator[str]:
        for place, value in values:
            if place in absent:
                yield f"with {kind} {place} ({value.name})"
                continue
            taken = self._expand(entries[min(place, len(entries) - 1)])
            dtype = dtype_of(value)
            if taken is None or dtype in taken:
                continue
            of = "of unknown type" if dtype is None else f"of {dtype_name(dtype)}"
            yield f"{kind} {place} ({value.name}) {of}, not {' or '.join(sorted(map(dtype_name, taken)))}"


def _attribute_faults(node: ir.Node, key: str, limit: Limit) -> Iterator[str]:
    if key not in node.attributes:
        return
    value = node.attributes[key].value
    if limit.values is not None and value not in limit.values:
        yield f"{key} = {value}, not {' or '.join(map(str, limit.values))}"
    if limit.multiple_of is not None and limit.multiple_of in node.attributes:
        unit = node.attributes[limit.multiple_of].value
        if value % unit:
            yield f"{key} = {value}, no multiple of {limit.multiple_of} = {unit}"


@cache
def _since(domain: str, name: str, opset: int) -> int:
    """The version of the operator's schema as of an opset; 1 for onnxruntime's own operators, which onnx lacks."""
    try:
        return onnx.defs.get_schema(name, opset, domain).since_version
    except onnx.defs.SchemaError:
        return 1


def _integers(node: ir.Node) -> bool:
    dtypes = [dtype_of(value) for _, value in (*given(node.inputs), *given(node.outputs))]
    return all(dtype is ir.DataType.BOOL or (dtype is not None and dtype.is_integer()) for dtype in dtypes)


def _name(node: ir.Node) -> str:
    return node.name or ""
