"""Asks a provider for its devices and adds two numbers on a GPU: `python -m phiforge.runtime.probe_worker PROVIDER`.

onnxruntime lists a device where the system has one, whether or not its driver works; a session shows it. Run as a
process of its own by `phiforge.runtime.abilities`: a bad driver may write to the terminal, hang, or crash, and a plugin
stays as it was registered first. The answer is the last line on standard output.
"""

from __future__ import annotations

import json
import re
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np
from onnx import TensorProto, helper

from phiforge import errors
from phiforge.runtime.abilities import Answer, describe_device, place_of
from phiforge.runtime.failures import ORT_ERRORS
from phiforge.runtime.onnx_runtime import ort
from phiforge.runtime.plugins import PLUGINS, register_plugin
from phiforge.selection import DML_PROVIDER, GPU_PROVIDERS

if TYPE_CHECKING:
    from collections.abc import Sequence

SESSION_ERRORS: tuple[type[Exception], ...] = (*ORT_ERRORS, RuntimeError, ValueError)
# What onnxruntime puts before the cause: places in its source, and the check that failed.
_BEFORE_THE_CAUSE = re.compile(r".*(?:\] : \d+ : [A-Z_]+ : |was false\. )", flags=re.DOTALL)


def probe(provider: str) -> Answer:
    """Return the devices of a provider, and why it is of no use: it has no plugin, or its first GPU gives no sum.

    Args:
        provider: By its name in genai_config: "dml", "qnn" or "webgpu". An NPU is not tried.
    """
    try:
        if provider in PLUGINS:
            register_plugin(provider)
    except errors.DependencyMissingError as error:
        return Answer(fault=error.why)
    except SESSION_ERRORS as error:
        return Answer(fault=f"Its plugin does not load: {cause(str(error))}")
    name = PLUGINS[provider].provider if provider in PLUGINS else DML_PROVIDER
    devices = sorted((device for device in ort.get_ep_devices() if device.ep_name == name), key=place_of)
    adapters = tuple(describe_device(device, provider) for device in devices)
    if not devices or provider not in GPU_PROVIDERS:
        return Answer(adapters=adapters)
    fault = _addition_fault(devices[0])
    return Answer(fault=fault and f"Nothing runs on {adapters[0].description}: {fault}", adapters=adapters)


def cause(message: str) -> str:
    """Return the cause from onnxruntime's message, as a sentence."""
    told = " ".join(_BEFORE_THE_CAUSE.sub("", message).split())
    return f"{told.rstrip('.')}."


def _addition_fault(device: Any) -> str | None:
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    try:
        options.add_provider_for_devices([device], {})
        # Without this, onnxruntime's Python would try the CPU next.
        session = ort.InferenceSession(_addition(), options, enable_fallback=0)
        (total,) = session.run(None, {"x": np.ones(4, dtype=np.float32)})
    except SESSION_ERRORS as error:
        return cause(str(error))
    return None if np.array_equal(total, np.full(4, 2.0)) else f"1 + 1 gave {total[0]} on it."


def _addition() -> bytes:
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [4]) for name in ("x", "y")]
    graph = helper.make_graph([helper.make_node("Add", ["x", "x"], ["y"])], "addition", ends[:1], ends[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return bytes(model.SerializeToString())


def main(arguments: Sequence[str]) -> int:
    """Probe the provider named and tell of it."""
    (provider,) = arguments
    sys.stdout.write(f"\n{json.dumps(asdict(probe(provider)))}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
