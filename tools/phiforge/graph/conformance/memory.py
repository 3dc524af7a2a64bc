"""What onnxruntime does to a graph that a provider and the CPU share: nodes it moves to the CPU, values it copies."""

from __future__ import annotations

from typing import TYPE_CHECKING

import onnx_ir as ir

from phiforge.graph.conformance.nodes import constant_elements, dtype_of, given
from phiforge.graph.conformance.table import DTYPES

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from phiforge.graph.conformance.table import Kernel

# onnxruntime takes a constant of at most so many elements along to the CPU (kSmallInitializerThreshold in
# core/framework/fallback_cpu_capability.cc), and never a node that reads one of these types (the same file).
SMALL_ELEMENTS = 100
_STAY = frozenset(
    dtype for name, dtype in DTYPES.items() if name.startswith(("float16", "bfloat16", "float8", "float4"))
)


def moved_to_cpu(nodes: Sequence[ir.Node], rows: Mapping[ir.Node, Kernel]) -> set[ir.Node]:
    """Return the nodes that onnxruntime runs on the CPU though there is a kernel: what is computed from shapes alone.

    Follows GetCpuPreferredNodes (core/framework/fallback_cpu_capability.cc, and for plugins
    include/onnxruntime/ep/get_capability_utils.h), which goes through the nodes once in topological order; going on
    until nothing changes comes to the same.

    Args:
        nodes: The nodes of one graph, without those of its subgraphs.
        rows: The row of each node with a kernel.
    """
    members, moved, others = set(nodes), set[ir.Node](), set[ir.Node]()
    on_cpu = {value for node in nodes if node in rows for value in _left_on_cpu(node, rows[node])}
    waiting = list(on_cpu)
    while waiting:
        for node in {use.node for use in waiting.pop().uses()} & members - moved - others:
            if node not in rows:
                others.add(node)
            elif all(_goes_along(value, place, rows[node], on_cpu) for place, value in enumerate(node.inputs)):
                moved.add(node)
            else:
                continue
            on_cpu.update(node.outputs)
            waiting += node.outputs
    return moved


def copied_values(
    nodes: Sequence[ir.Node], on_device: Mapping[ir.Node, Kernel]
) -> Iterator[tuple[ir.Value, ir.Node | None, ir.Node]]:
    """Yield the values of one graph that onnxruntime copies at every run: the value, its producer, its first consumer.

    Follows core/optimizer/transformer_memcpy.cc: a graph input is copied only if both sides read it, and then to the
    device; constants are copied once, before the first run.

    Args:
        nodes: The nodes of one graph, without those of its subgraphs.
        on_device: The row of each node that runs on the device.
    """
    at_cpu, at_device = dict[ir.Value, ir.Node](), dict[ir.Value, ir.Node]()
    for node in nodes:
        row = on_device.get(node)
        for place, value in given(node.inputs):
            readers = at_cpu if row is None or place in row.cpu_inputs else at_device
            readers.setdefault(value, node)
    for value in at_cpu | at_device:
        if constant_elements(value) is not None:
            continue
        producer = value.producer()
        if producer is None:
            consumer = at_device.get(value) if value.is_graph_input() and value in at_cpu else None
        else:
            made_by = on_device.get(producer)
            made_at_cpu = made_by is None or value in _left_on_cpu(producer, made_by)
            consumer = (at_device if made_at_cpu else at_cpu).get(value)
        if consumer is not None:
            yield value, producer, consumer


def _left_on_cpu(node: ir.Node, row: Kernel) -> list[ir.Value]:
    return [value for place, value in enumerate(node.outputs) if place in row.cpu_outputs]


def _goes_along(value: ir.Value | None, place: int, row: Kernel, on_cpu: set[ir.Value]) -> bool:
    """Whether an input lets its node move to the CPU."""
    if value is None or value.name == "":
        return True
    if dtype_of(value) in _STAY:
        return False
    elements = constant_elements(value)
    if elements is not None:
        return elements <= SMALL_ELEMENTS
    return value.is_graph_input() or (value in on_cpu and place not in row.cpu_inputs)
