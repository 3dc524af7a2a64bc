"""Which provider a session of onnxruntime assigns each node to."""

from __future__ import annotations

from typing import TYPE_CHECKING

from phiforge import errors
from phiforge.runtime.failures import ORT_ERRORS
from phiforge.runtime.onnx_runtime import ort
from phiforge.runtime.plugins import PLUGINS, register_plugin
from phiforge.runtime.qnn import session_options

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

# Nothing runs, so weights are not prepared: that spares time and memory.
_RECORD = {"session.record_ep_graph_assignment_info": "1", "session.disable_prepacking": "1"}


def assigned_nodes(path: Path, promised: str, qnn_options: Mapping[str, str] | None) -> list[tuple[str, str, str]]:
    """Make a session of one file and return the provider, operator type and name of each of its nodes.

    Args:
        path: An ONNX file.
        promised: onnxruntime's name of the provider.
        qnn_options: Provider options of a stage for QNN; None for any other provider.

    Raises:
        FallbackError: The provider is not there at all.
        RuntimeError: The session cannot be made.
    """
    if qnn_options is None:
        options = _options(promised)
        listed = [promised] if promised in _built_in() else None
    else:  # the options name the plugin; a registered one is listed as available too
        options, listed = session_options(qnn_options, config=_RECORD), None
    try:
        session = ort.InferenceSession(str(path), options, providers=listed)
    except ORT_ERRORS as error:
        raise RuntimeError(f"{path.name}: {error}") from error
    parts = session.get_provider_graph_assignment_info()
    return [(part.ep_name, node.op_type, node.name) for part in parts for node in part.get_nodes()]


def _built_in() -> set[str]:
    """Return the providers of onnxruntime that are no plugins; a registered plugin is listed as available too."""
    return set(ort.get_available_providers()) - {plugin.provider for plugin in PLUGINS.values()}


def _options(promised: str) -> ort.SessionOptions:
    """Session options that record the assignment and name a provider that comes as a plugin."""
    options = ort.SessionOptions()
    options.log_severity_level = 3
    for key, value in _RECORD.items():
        options.add_session_config_entry(key, value)
    plugins = {plugin.provider: name for name, plugin in PLUGINS.items()}
    if promised in plugins:
        options.add_provider_for_devices(register_plugin(plugins[promised])[:1], {})
    elif promised not in _built_in():
        raise errors.FallbackError(
            f"The provider {promised} is not on this machine.",
            why="onnxruntime has it neither built in nor as a plugin that phiforge knows.",
            fix="Install the extra for this device, or validate the variant on a machine that has it.",
        )
    return options
