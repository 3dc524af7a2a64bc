"""What onnxruntime's verbose log tells of a compilation: which graph, which nodes the library refused, which errors."""

from __future__ import annotations

import re
from dataclasses import dataclass

from phiforge.runtime.compile_job import GRAPH_MARK

_UNIT = re.compile(r"Validation FAILED for \d+ nodes in \w+ \((?P<operator>\w+)\) :\s*\n(?P<block>(?:\t.*\n?)+)")
_NODE = re.compile(r"\tOperator type: (\S*) Node name: (.*?) Node index: \d+")
_REASON = re.compile(r"\tREASON : (.*)")
_ERROR = re.compile(r"\[E:onnxruntime:[^\]]*\] (.*?)(?:\x1b\[m)?$", flags=re.MULTILINE)
_RAISED = re.compile(r"^[A-Za-z_][\w.]*: (?:\[ONNXRuntimeError\] : \d+ : \w+ : )?(.*)$", flags=re.MULTILINE)
_TRACEBACK = "Traceback (most recent call last):"
# `refusals` tells it better.
_REPEATED = "Unsupported nodes in QNN EP"
# After a first pass the parts that the library takes are nodes themselves, of the provider's name.
_OWN_PREFIX = "QNNExecutionProvider"


@dataclass(frozen=True)
class Refusal:
    """One node that the library refused, with the reason it gave."""

    operator: str
    node: str
    reason: str


def section(log: str, source: str) -> str:
    """The part of a log about one graph; empty where it was not begun."""
    parts = re.split(f"^{re.escape(GRAPH_MARK)}(.*)$", log, flags=re.MULTILINE)
    found = [text for name, text in zip(parts[1::2], parts[2::2], strict=True) if name == source]
    return found[-1] if found else ""


def last_graph(log: str) -> str | None:
    """The source of the graph that was begun last."""
    found: list[str] = re.findall(f"^{re.escape(GRAPH_MARK)}(.*)$", log, flags=re.MULTILINE)
    return found[-1] if found else None


def refusals(log: str) -> tuple[Refusal, ...]:
    """The nodes the library refused, each once.

    A refused unit lists the quantizing nodes around its operator too; the operator's own node is the one to name. A
    node refused alone may have been taken together with its neighbours later, so compare with what was left over.
    """
    found = {}
    for unit in _UNIT.finditer(log):
        operator = unit["operator"]
        if operator.startswith(_OWN_PREFIX):
            continue
        reason = _REASON.search(unit["block"])
        # The library runs on with "Acosh node `odd` will not be assigned to QNN EP".
        told = reason[1].partition(f"{operator} node `")[0].strip() if reason else "no reason is given"
        for kind, name in _NODE.findall(unit["block"]):
            if kind == operator:
                found[name] = Refusal(operator, name, told)
    return tuple(found.values())


def errors_told(log: str) -> tuple[str, ...]:
    """The errors in a log, the exception that ended the process last; one that only repeats another is left out."""
    lines = [line.strip() for line in _ERROR.findall(log) if not line.startswith(_REPEATED)]
    _, begun, traceback = log.rpartition(_TRACEBACK)
    lines += _RAISED.findall(traceback)[-1:] if begun else []
    told: list[str] = []
    for line in filter(None, lines):
        if not any(earlier in line for earlier in told):
            told.append(line)
    return tuple(told)
