"""What a device's compiler left: an ONNX file whose EPContext nodes name a binary beside it.

onnxruntime puts a node that the compiler refuses on the CPU without a word, and takes a binary of an earlier run as it
finds it. So every compiled file is read back and checked.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

import onnx_ir as ir
from google.protobuf.message import DecodeError

from phiforge import errors

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

CONTEXT_OPERATOR = "EPContext"
_NODES_TOLD = 5
_AGAIN = "Build again; if it happens again, report it with the compiler's log."
_SDK = re.compile(r"v?(\d+)\.(\d+)\.(\d+)(?:\.\d+)*", flags=re.ASCII)


@dataclass(frozen=True, kw_only=True)
class ContextTensor:
    """An input or output of a compiled graph; `dtype` is numpy's name."""

    name: str
    dtype: str
    shape: tuple[int | str, ...]


@dataclass(frozen=True, kw_only=True)
class ContextFacts:
    """What is in a compiled file.

    Attributes:
        graphs: The names of the graphs inside the binary, one for each EPContext node.
        outside: The names of the nodes outside EPContext, by operator.
        binaries: The files that the EPContext nodes name, as they name them.
        embedded: Whether a node holds its binary itself.
        sdk_versions: What the EPContext nodes were compiled with, as "v2.51.0.260929181845".
        external: The data files of the weights that stayed outside.
    """

    graphs: tuple[str, ...]
    outside: dict[str, tuple[str, ...]]
    binaries: tuple[str, ...]
    embedded: bool
    sdk_versions: tuple[str, ...]
    external: tuple[str, ...]
    inputs: tuple[ContextTensor, ...]
    outputs: tuple[ContextTensor, ...]

    def strays(self, allowed: Mapping[str, int]) -> dict[str, tuple[str, ...]]:
        """Return the nodes outside EPContext whose operator is not allowed there, or not so many times."""
        return {kind: names for kind, names in self.outside.items() if len(names) > allowed.get(kind, 0)}


def read_context(path: Path) -> ContextFacts:
    """Read a compiled file; neither its binary nor its external data is read.

    Raises:
        CompileFailedError: The file is absent or no ONNX model.
    """
    try:
        model = ir.load(path)
    except (OSError, ValueError, DecodeError) as error:
        raise _failed(f"{path} cannot be read as a compiled graph.", f"{error}.") from error
    nodes = [node for node in model.graph if node.op_type == CONTEXT_OPERATOR]
    outside: dict[str, list[str]] = {}
    for node in model.graph.all_nodes():
        if node.op_type != CONTEXT_OPERATOR:
            outside.setdefault(node.op_type, []).append(node.name or "")
    tensors = (value.const_value for value in model.graph.initializers.values())
    linked = [node for node in nodes if not node.attributes.get_int("embed_mode", 1)]
    return ContextFacts(
        graphs=_texts(nodes, "partition_name"),
        outside={kind: tuple(names) for kind, names in sorted(outside.items())},
        binaries=tuple(dict.fromkeys(_texts(linked, "ep_cache_context"))),
        embedded=len(linked) < len(nodes),
        sdk_versions=tuple(dict.fromkeys(node.attributes.get_string("ep_sdk_version", "") for node in nodes)),
        external=tuple(sorted({str(tensor.location) for tensor in tensors if isinstance(tensor, ir.ExternalTensor)})),
        inputs=tuple(_tensor(value) for value in model.graph.inputs),
        outputs=tuple(_tensor(value) for value in model.graph.outputs),
    )


def check_context(path: Path, *, allowed: Mapping[str, int], started: float, sdk_version: str) -> ContextFacts:
    """Check that a compiled file is complete, of this run and of this SDK; return what is in it.

    Args:
        path: The compiled ONNX file; its binary lies in the same folder.
        allowed: Operators that must be outside EPContext, each with its exact count.
        started: When the compiler was started, in seconds of the file system's clock.
        sdk_version: The SDK that must have made it, as "2.51.0"; the build number after that is not compared.

    Raises:
        CompileFailedError: A node is outside EPContext, nothing is compiled, a binary is missing, empty, elsewhere or
            older than `started`, or another SDK made it.
    """
    facts = read_context(path)
    _check_nodes(path, facts, allowed)
    if facts.embedded or not facts.binaries:
        raise _failed(f"{path} names no binary.", "Its EPContext nodes hold the binary themselves, or none.")
    if facts.external:
        listed = ", ".join(facts.external)
        raise _failed(f"{path} needs more than its binary.", f"Some of its weights are in {listed}.")
    for name in facts.binaries:
        _check_binary(path, name, started)
    for version in facts.sdk_versions:
        if not same_sdk(version, sdk_version):
            why = f"The file says {version or 'nothing'}; the installed SDK is {sdk_version}."
            raise _failed(f"{path} was compiled with another SDK than the installed one.", why)
    return facts


def parse_sdk(version: str) -> tuple[int, int, int]:
    """Return the three numbers of an SDK version, as "2.51.0" or "v2.51.0.260929181845".

    Raises:
        ValueError: It is no such version.
    """
    found = _SDK.fullmatch(version)
    if not found:
        raise ValueError(f"{version!r} is no SDK version")
    major, minor, patch = (int(part) for part in found.groups())
    return major, minor, patch


def same_sdk(left: str, right: str) -> bool:
    """Whether two SDK versions agree in their three numbers; one that cannot be read agrees with none."""
    try:
        return parse_sdk(left) == parse_sdk(right)
    except ValueError:
        return False


def _check_nodes(path: Path, facts: ContextFacts, allowed: Mapping[str, int]) -> None:
    strays = facts.strays(allowed)
    if not facts.graphs:
        raise _failed(f"Nothing of {path} was compiled.", f"It has no EPContext node, but {_told(strays)}.")
    if strays:
        why = f"Allowed there: {', '.join(f'{n} {kind}' for kind, n in allowed.items()) or 'nothing'}."
        fix = "Build for a chip that takes these operators, or report it with the compiler's log."
        raise _failed(f"The compiler left nodes of {path} to the CPU: {_told(strays)}.", why, fix)
    for kind, count in allowed.items():
        found = len(facts.outside.get(kind, ()))
        if found != count:
            raise _failed(f"{path} has {found} {kind} on the CPU, not {count}.", "The graph is another one.")


def _check_binary(path: Path, name: str, started: float) -> None:
    folder = path.parent.resolve()
    file = (folder / name.replace("\\", "/")).resolve()
    if not file.is_relative_to(folder):
        raise _failed(f"{path} names a binary outside its folder.", f"The name is {name!r}.")
    if not file.is_file():
        raise _failed(f"The binary of {path} is missing.", f"There is no file {file}.")
    facts = file.stat()
    if not facts.st_size:
        raise _failed(f"The binary of {path} is empty.", f"{file} has 0 bytes.")
    if min(facts.st_mtime, path.stat().st_mtime) < started:
        raise _failed(f"{path} or its binary is of an earlier run.", f"{file} or {path} is older than this run.")


def _texts(nodes: Iterable[ir.Node], attribute: str) -> tuple[str, ...]:
    """The attribute of every node that has it; a secondary EPContext node names no binary."""
    return tuple(node.attributes.get_string(attribute, "") for node in nodes if attribute in node.attributes)


def _tensor(value: ir.Value) -> ContextTensor:
    dims = value.shape.dims if value.shape is not None else ()
    return ContextTensor(
        name=str(value.name),
        dtype=value.dtype.name.lower() if value.dtype is not None else "",
        shape=tuple(dim if isinstance(dim, int) else str(dim) for dim in dims),
    )


def _told(nodes: Mapping[str, tuple[str, ...]]) -> str:
    parts = []
    for kind, names in nodes.items():
        more = f" and {len(names) - _NODES_TOLD} more" if len(names) > _NODES_TOLD else ""
        parts.append(f"{len(names)} {kind} ({', '.join(names[:_NODES_TOLD])}{more})")
    return ", ".join(parts) or "nothing else"


def _failed(what: str, why: str, fix: str = _AGAIN) -> errors.CompileFailedError:
    return errors.CompileFailedError(what, why=why, fix=fix)
