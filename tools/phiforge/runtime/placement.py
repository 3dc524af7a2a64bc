"""Where the nodes of a variant really run, asked of onnxruntime itself."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from phiforge import errors
from phiforge.runtime.variant import check_files, onnx_names, runtime_errors

if TYPE_CHECKING:
    from collections.abc import Collection
    from pathlib import Path

try:
    import onnxruntime as ort
except ImportError as missing:
    raise errors.DependencyMissingError(
        "Variants cannot be run here.",
        why=f"onnxruntime does not import: {missing}.",
        fix="Install the runtime: `pip install phiforge[cpu]`, or the extra for your device.",
    ) from missing

# genai_config's provider names and onnxruntime's.
PROVIDERS = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "dml": "DmlExecutionProvider",
    "openvino": "OpenVINOExecutionProvider",
    "qnn": "QNNExecutionProvider",
    "webgpu": "WebGpuExecutionProvider",
}


@dataclass(frozen=True)
class PlacementFacts:
    """How many nodes each provider took, after the runtime's own graph optimizations.

    `nodes` maps (onnxruntime's provider name, operator type) to a count.
    """

    promised: str
    nodes: dict[tuple[str, str], int]

    @property
    def total(self) -> int:
        """Nodes on all providers."""
        return sum(self.nodes.values())

    def elsewhere(self, allowed: Collection[str] = ()) -> dict[tuple[str, str], int]:
        """Return the nodes on another provider than promised, but for operator types that are allowed there."""
        return {key: n for key, n in self.nodes.items() if key[0] != self.promised and key[1] not in allowed}


def check_placement(folder: Path, provider: str, *, allowed: Collection[str] = ()) -> PlacementFacts:
    """Return where the nodes of a variant run, and refuse a variant that does not run where it promises.

    onnxruntime 1.31 records the assignment when a session is made (`session.record_ep_graph_assignment_info`), so
    nothing is run; nodes inside an If are counted with it.

    Args:
        folder: A complete variant folder.
        provider: The provider promised, by its name in genai_config, such as "cpu".
        allowed: Operator types that may run on another provider, such as the shape arithmetic of a GPU variant.

    Raises:
        FallbackError: A node runs elsewhere, or the provider is not there at all.
        VariantUnusableError: The folder is incomplete or does not load.
    """
    facts = placement(folder, provider)
    strays = facts.elsewhere(allowed)
    if strays:
        listed = ", ".join(f"{n} {kind} on {where}" for (where, kind), n in sorted(strays.items()))
        raise errors.FallbackError(
            f"The variant {folder} does not run where it promises.",
            why=f"Of {facts.total} nodes, not on {facts.promised}: {listed}.",
            fix="Build the variant for a provider that takes these operators.",
        )
    return facts


def placement(folder: Path, provider: str) -> PlacementFacts:
    """Return where the nodes of a variant run, without judging it; arguments and errors as `check_placement`."""
    promised = PROVIDERS.get(provider.lower(), provider)
    nodes: Counter[tuple[str, str]] = Counter()
    for name in onnx_names(check_files(folder)):
        with runtime_errors(folder, "does not load"):
            options = _options(promised)
            listed = [promised] if promised in ort.get_available_providers() else []
            session = ort.InferenceSession(str(folder / name), options, providers=listed or None)
            for subgraph in session.get_provider_graph_assignment_info():
                nodes.update((subgraph.ep_name, node.op_type) for node in subgraph.get_nodes())
    return PlacementFacts(promised=promised, nodes=dict(nodes))


def _options(promised: str) -> ort.SessionOptions:
    """Session options that record the assignment and name a provider that comes as a plugin."""
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    options.add_session_config_entry("session.disable_prepacking", "1")  # nothing runs: spare time and memory
    if promised not in ort.get_available_providers():
        devices = [device for device in ort.get_ep_devices() if device.ep_name == promised]
        if not devices:
            raise errors.FallbackError(
                f"The provider {promised} is not on this machine.",
                why="onnxruntime has neither this provider built in nor a registered plugin of this name.",
                fix="Install the extra for this device, or validate the variant on a machine that has it.",
            )
        options.add_provider_for_devices(devices, {})
    return options
