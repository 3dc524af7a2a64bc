"""Where the nodes of a variant really run, asked of onnxruntime itself."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from phiforge import errors
from phiforge.runtime.onnx_runtime import ort
from phiforge.runtime.qnn import ORT_ERRORS, QNN_OPTION, QNN_PROVIDER, session_options
from phiforge.runtime.stages import provider_options
from phiforge.runtime.variant import check_files, onnx_names, runtime_errors

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping
    from pathlib import Path
    from typing import Any

# genai_config's provider names and onnxruntime's.
PROVIDERS = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "dml": "DmlExecutionProvider",
    "openvino": "OpenVINOExecutionProvider",
    QNN_OPTION: QNN_PROVIDER,
    "webgpu": "WebGpuExecutionProvider",
}
_CPU = PROVIDERS["cpu"]
# What a stage on the NPU may leave to the CPU: attention, which the compiler takes only if it is told to.
QNN_ALLOWED = frozenset({"GroupQueryAttention"})
# Nothing runs, so weights are not prepared: that spares time and memory.
_RECORD = {"session.record_ep_graph_assignment_info": "1", "session.disable_prepacking": "1"}


@dataclass(frozen=True)
class PlacementFacts:
    """How many nodes each provider took, after the runtime's own graph optimizations.

    `nodes` maps (onnxruntime's provider name, operator type) to a count; `strays` are those of them that are not where
    their own graph promises.
    """

    promised: str
    nodes: dict[tuple[str, str], int]
    strays: dict[tuple[str, str], int]

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
    nothing is run; nodes inside an If are counted with it.

    Each stage of a decoder in stages promises for itself, if one names QNN: those that do may leave attention to the
    CPU, the others run there alone. On x86 that loads the stages into the emulator, which crashes on binaries with
    shared weights: check a twin without sharing.

    Args:
        folder: A complete variant folder.
        provider: The provider promised, by its name in genai_config, such as "cpu". A decoder with stages for QNN may
            be called "qnn", or "cpu" as its genai_config says of the decoder as a whole.
        allowed: Operator types that may run on another provider, such as the shape arithmetic of a GPU variant.

    Raises:
        FallbackError: A node runs elsewhere, or the provider is not there at all.
        VariantUnusableError: The folder is incomplete or does not load.
        DependencyMissingError: A stage is for QNN, which is not installed.
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
    config = check_files(folder)
    promised = PROVIDERS.get(provider.lower(), provider)
    stages = _qnn_stages(config) if promised in (_CPU, QNN_PROVIDER) else {}
    if stages:
        promised = QNN_PROVIDER
    nodes, strays = Counter[tuple[str, str]](), Counter[tuple[str, str]]()
    for name in onnx_names(config):
        here = promised if not stages or name in stages else _CPU
        allowed = QNN_ALLOWED if name in stages else frozenset[str]()
        with runtime_errors(folder, "does not load"):
            found = _assigned(folder / name, here, stages.get(name))
        nodes.update(found)
        strays.update({key: n for key, n in found.items() if key[0] != here and key[1] not in allowed})
    return PlacementFacts(promised=promised, nodes=dict(nodes), strays=dict(strays))


def _qnn_stages(config: Mapping[str, Any]) -> dict[str, dict[str, str]]:
    """The files of a decoder's stages for QNN, with the provider options each names."""
    entries = [stage for group in config["model"]["decoder"].get("pipeline", []) for stage in group.values()]
    return {stage["filename"]: options for stage in entries if (options := provider_options(stage))}


def _assigned(path: Path, promised: str, qnn_options: Mapping[str, str] | None) -> Counter[tuple[str, str]]:
    """Make a session of one file and count its nodes by provider and operator type."""
    if qnn_options is None:
        options = _options(promised)
        listed = [promised] if promised in ort.get_available_providers() else None
    else:  # the options name the plugin; a registered one is listed as available too
        options, listed = session_options(qnn_options, config=_RECORD), None
    try:
        session = ort.InferenceSession(str(path), options, providers=listed)
    except ORT_ERRORS as error:
        raise RuntimeError(f"{path.name}: {error}") from error
    found = Counter[tuple[str, str]]()
    for subgraph in session.get_provider_graph_assignment_info():
        found.update((subgraph.ep_name, node.op_type) for node in subgraph.get_nodes())
    return found


def _options(promised: str) -> ort.SessionOptions:
    """Session options that record the assignment and name a provider that comes as a plugin."""
    options = ort.SessionOptions()
    options.log_severity_level = 3
    for key, value in _RECORD.items():
        options.add_session_config_entry(key, value)
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
