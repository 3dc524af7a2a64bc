"""Execution providers that come as plugins: a wheel each, registered with onnxruntime once in a process.

onnxruntime is imported where it is used, so that what is known of the plugins can be told without it.
"""

from __future__ import annotations

import importlib
import os
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from phiforge import errors
from phiforge.providers import PROVIDERS

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import ModuleType

# Set to "1", it lets the WebGPU plugin run on a software Vulkan driver: right numbers, no speed (plugin 0.4.0).
SOFTWARE_ADAPTER_VARIABLE = "ORT_WEBGPU_EP_ALLOW_SOFTWARE_ADAPTER"


@dataclass(frozen=True, kw_only=True)
class Plugin:
    """One plugin: onnxruntime's name of the provider, its wheel, the extra that brings it, and what it is for."""

    provider: str
    distribution: str
    module: str
    extra: str
    purpose: str


QNN, WEBGPU = "qnn", "webgpu"
# By the provider's name in genai_config.
PLUGINS: dict[str, Plugin] = {
    QNN: Plugin(
        provider=PROVIDERS[QNN].execution_provider,
        distribution="onnxruntime-qnn",
        module="onnxruntime_qnn",
        extra="qnn",
        purpose="Qualcomm's compiler and emulator",
    ),
    WEBGPU: Plugin(
        provider=PROVIDERS[WEBGPU].execution_provider,
        distribution="onnxruntime-ep-webgpu",
        module="onnxruntime_ep_webgpu",
        extra="webgpu",
        purpose="The WebGPU provider",
    ),
}


def register_plugin(name: str) -> list[Any]:
    """Register a plugin with onnxruntime, unless that is done, and return its devices.

    Args:
        name: A key of PLUGINS.

    Raises:
        DependencyMissingError: The wheel is not installed, or gives no device.
    """
    from phiforge.runtime.onnx_runtime import ort

    plugin = PLUGINS[name]
    if not plugin_devices(name):
        ort.register_execution_provider_library(plugin.provider, library_path(name))
    devices = plugin_devices(name)
    if not devices:
        # Registered anew, it may find the software adapter that is allowed by then; twice in a row is refused.
        ort.unregister_execution_provider_library(plugin.provider)
        raise plugin_missing(name, _no_device(name))
    return devices


@contextmanager
def allow_software_adapter() -> Iterator[None]:
    """Let the WebGPU plugin use a software adapter for the time of the block, where it is registered in it."""
    before = os.environ.get(SOFTWARE_ADAPTER_VARIABLE)
    os.environ[SOFTWARE_ADAPTER_VARIABLE] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[SOFTWARE_ADAPTER_VARIABLE]
        else:
            os.environ[SOFTWARE_ADAPTER_VARIABLE] = before


def plugin_devices(name: str) -> list[Any]:
    """Return the devices of a plugin, none if it is not registered."""
    from phiforge.runtime.onnx_runtime import ort

    return [device for device in ort.get_ep_devices() if device.ep_name == PLUGINS[name].provider]


def is_software(device: Any) -> bool:
    """Return whether a device of the WebGPU plugin is a software adapter, which the plugin then names a CPU."""
    from phiforge.runtime.onnx_runtime import ort

    return bool(device.device.type == ort.OrtHardwareDeviceType.CPU)


def library_path(name: str) -> str:
    """Return the plugin's library, for a runtime to register.

    Raises:
        DependencyMissingError: The wheel is not installed.
    """
    return str(wheel(name).get_library_path())


def wheel(name: str) -> ModuleType:
    """Return the plugin's Python module.

    Raises:
        DependencyMissingError: The wheel is not installed.
    """
    try:
        return importlib.import_module(PLUGINS[name].module)
    except ImportError as error:
        raise plugin_missing(name, f"{PLUGINS[name].distribution} does not import: {error}") from error


def plugin_missing(name: str, why: str) -> errors.DependencyMissingError:
    """Return the error that a plugin is not here, with the command that brings it."""
    plugin = PLUGINS[name]
    are = "are" if " and " in plugin.purpose else "is"
    return errors.DependencyMissingError(
        f"{plugin.purpose} {are} not here.",
        why=f"{why[0].upper()}{why[1:]}.",
        fix=f'pip install -c constraints.txt "phiforge[{plugin.extra}]"',
    )


def _no_device(name: str) -> str:
    why = "its plugin offers no device on this machine"
    if name == WEBGPU and os.environ.get(SOFTWARE_ADAPTER_VARIABLE) != "1":
        why += (
            f"; without a GPU, {SOFTWARE_ADAPTER_VARIABLE}=1 lets it run on a software Vulkan driver, Mesa 25 or later"
        )
    return why
