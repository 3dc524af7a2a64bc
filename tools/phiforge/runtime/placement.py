"""Where the nodes of a variant really run: as a session assigns them, or as a profile of a run shows."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from phiforge import errors
from phiforge.graph.integers import integer_nodes
from phiforge.providers import PROVIDERS
from phiforge.runtime.profiled_placement import profiled_nodes
from phiforge.runtime.variant import check_files, onnx_names, runtime_errors

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping
    from pathlib import Path
    from typing import Any

# genai_config's provider names and onnxruntime's; the last two are of folders that others made.
EXECUTION_PROVIDERS = {name: provider.execution_provider for name, provider in PROVIDERS.items()} | {
    "cuda": "CUDAExecutionProvider",
    "openvino": "OpenVINOExecutionProvider",
}
_CPU, _DML, _QNN = (EXECUTION_PROVIDERS[name] for name in ("cpu", "dml", "qnn"))
# Nodes that an error names.
NAMED_NODES = 8
# What a stage on the NPU may leave to the CPU: attention, which the compiler takes only if it is told to.
QNN_ALLOWED = frozenset({"GroupQueryAttention"})


@dataclass(frozen=True)
class PlacementFacts:
    """How many nodes each provider took, after the runtime's own graph optimizations.

    `nodes` maps (onnxruntime's provider name, operator type) to a count; `strays` are those of them that are not where
    their own graph promises, and `stray_names` the names of those nodes.
    """

    promised: str
    nodes: dict[tuple[str, str], int]
    strays: dict[tuple[str, str], int]
    stray_names: tuple[str, ...] = ()

    @property
    def total(self) -> int:
        """Nodes on all providers."""
        return sum(self.nodes.values())

    def elsewhere(self, allowed: Collection[str] = ()) -> dict[tuple[str, str], int]:
        """Return the nodes on another provider than promised, but for operator types that are allowed there."""
        return {key: n for key, n in self.strays.items() if key[1] not in allowed}


def check_placement(folder: Path, provider: str, *, allowed: Collection[str] = ()) -> PlacementFacts:
    """Return where the nodes of a variant run, and refuse a variant that does not run where it promises.

    onnxruntime 1.31 records the assignment when a session is made (`session.record_ep_graph_assignment_info`), so
    nothing is run; nodes inside an If are counted with it. DirectML comes with onnxruntime 1.30 and fuses nodes by the
    session's own options: there a profile of a short generation shows what ran where.

    A GPU provider may leave nodes that compute on integers alone to the CPU: lengths, positions and indices.

    Each stage of a decoder in stages promises for itself, if one names QNN: those that do may leave attention to the
    CPU, the others run there alone. On x86 that loads the stages into the emulator, which crashes on binaries with
    shared weights: check a twin without sharing.

    Args:
        folder: A complete variant folder.
        provider: The provider promised, by its name in genai_config, such as "cpu". A decoder with stages for QNN may
            be called "qnn", or "cpu" as its genai_config says of the decoder as a whole.
        allowed: Operator types that may run on another provider.

    Raises:
        FallbackError: A node runs elsewhere, or the provider is not there at all.
        VariantUnusableError: The folder is incomplete or does not load.
        DependencyMissingError: A stage is for QNN, which is not installed.
    """
    facts = placement(folder, provider)
    strays = facts.elsewhere(allowed)
    if strays:
        listed = ", ".join(f"{n} {kind} on {where}" for (where, kind), n in sorted(strays.items()))
        named = ", ".join(facts.stray_names[:NAMED_NODES])
        more = len(facts.stray_names) - NAMED_NODES
        listed += f" ({named}" + (f" and {more} more)" if more > 0 else ")")
        raise errors.FallbackError(
            f"The variant {folder} does not run where it promises.",
            why=f"Of {facts.total} nodes, not on {facts.promised}: {listed}.",
            fix="Build the variant for a provider that takes these operators.",
        )
    return facts


def placement(folder: Path, provider: str) -> PlacementFacts:
    """Return where the nodes of a variant run, without judging it; arguments and errors as `check_placement`."""
    config = check_files(folder)
    promised = EXECUTION_PROVIDERS.get(provider.lower(), provider)
    stages = _qnn_stages(config) if promised in (_CPU, _QNN) else {}
    if stages:
        promised = _QNN
    nodes, strays = Counter[tuple[str, str]](), Counter[tuple[str, str]]()
    names: list[str] = []
    for name in onnx_names(config):
        here = promised if not stages or name in stages else _CPU
        allowed = QNN_ALLOWED if name in stages else frozenset[str]()
        light = integer_nodes(folder / name) if here not in (_CPU, _QNN) else frozenset[str]()
        with runtime_errors(folder, "does not load"):
            found = _nodes(folder, name, here, stages.get(name))
        for where, operator, node in found:
            nodes[where, operator] += 1
            if where != here and operator not in allowed and node not in light:
                strays[where, operator] += 1
                names.append(node)
    return PlacementFacts(promised=promised, nodes=dict(nodes), strays=dict(strays), stray_names=tuple(names))


def _nodes(folder: Path, name: str, promised: str, qnn_options: Mapping[str, str] | None) -> list[tuple[str, str, str]]:
    """Return the provider, operator type and name of each node of one file."""
    if promised == _DML:
        return profiled_nodes(folder)
    # Imported here: it needs onnxruntime.
    from phiforge.runtime.session_placement import assigned_nodes

    return assigned_nodes(folder / name, promised, qnn_options)


def _qnn_stages(config: Mapping[str, Any]) -> dict[str, dict[str, str]]:
    """The files of a decoder's stages for QNN, with the provider options each names."""
    from phiforge.runtime.stages import provider_options

    entries = [stage for group in config["model"]["decoder"].get("pipeline", []) for stage in group.values()]
    return {stage["filename"]: options for stage in entries if (options := provider_options(stage))}
