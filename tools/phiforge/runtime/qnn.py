"""The installed QNN wheel: its SDK's version, and sessions that run by its plugin.

On x86 the wheel brings an emulator of the NPU, so the same sessions run there. The emulator crashes on a binary whose
weights graphs share: run a twin without sharing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from phiforge import errors
from phiforge.graph.npu.context import parse_sdk
from phiforge.runtime.onnx_runtime import ort
from phiforge.runtime.plugins import PLUGINS, QNN, plugin_missing, register_plugin, wheel

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

QNN_PROVIDER = PLUGINS[QNN].provider


def sdk_version() -> str:
    """Return the version of the QNN SDK inside the wheel, as "2.51.0".

    The wheel tells it without its build number; a compiled file has that too.

    Raises:
        DependencyMissingError: The wheel is not installed, or does not tell its version.
    """
    version = getattr(wheel(QNN).build_and_package_info, "qnn_version", None)
    if not isinstance(version, str):
        raise plugin_missing(QNN, "the installed wheel does not tell the version of its SDK")
    return version


def check_sdk(compiled_with: str, folder: Path) -> None:
    """Refuse a variant that a newer SDK compiled; an older one's binaries load.

    Args:
        compiled_with: The SDK that compiled the variant, with or without its build number.
        folder: The variant, for the message.

    Raises:
        SdkTooOldError: The variant's SDK is newer than the installed one, or a version cannot be read.
        DependencyMissingError: The wheel is not installed.
    """
    installed = sdk_version()
    try:
        if parse_sdk(compiled_with) <= parse_sdk(installed):
            return
        why = "A binary loads only with the SDK that compiled it, or a newer one."
    except ValueError as error:
        why = f"{error}, so the two cannot be compared."
    raise errors.SdkTooOldError(
        f"The variant {folder} was compiled with QNN SDK {compiled_with}; installed is {installed}.",
        why=why,
        fix="Install a newer onnxruntime-qnn, or build the variant with the installed one.",
    )


def session_options(
    provider_options: Mapping[str, str],
    *,
    cpu_fallback: bool = True,
    config: Mapping[str, str] | None = None,
    severity: int = 3,
) -> ort.SessionOptions:
    """Return options of a session on the NPU, or on its emulator.

    Args:
        provider_options: As a stage of genai_config.json names them, as {"soc_model": "60"}. `backend_type` is "htp"
            where it is not named: without it the provider finds no backend on x86.
        cpu_fallback: Whether nodes may run on the CPU, as attention does; else such a session is refused.
        config: More entries of the session's configuration.
        severity: From which severity on onnxruntime logs; 0 is everything.

    Raises:
        DependencyMissingError: The wheel is not installed.
    """
    devices = register_plugin(QNN)
    options = ort.SessionOptions()
    options.log_severity_level = severity
    entries = {"session.disable_cpu_ep_fallback": "0" if cpu_fallback else "1", **(config or {})}
    for key, value in entries.items():
        options.add_session_config_entry(key, value)
    options.add_provider_for_devices(devices, {"backend_type": "htp", **provider_options})
    return options
