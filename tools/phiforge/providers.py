"""The execution providers that variants are built for: what each is called where."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class Provider:
    """One provider: onnxruntime's name of it, the target it is built for, and the device it runs on.

    `table` says what it has kernels for, by its file in targets/providers/; None where nothing is left to another.
    """

    execution_provider: str
    target: str
    device: str
    table: str | None = None


# By the name in genai_config.
PROVIDERS: dict[str, Provider] = {
    "cpu": Provider(execution_provider="CPUExecutionProvider", target="cpu", device="cpu"),
    "dml": Provider(execution_provider="DmlExecutionProvider", target="directml", device="gpu", table="directml"),
    "qnn": Provider(execution_provider="QNNExecutionProvider", target="qnn", device="npu"),
    "webgpu": Provider(execution_provider="WebGpuExecutionProvider", target="webgpu", device="gpu", table="webgpu"),
}


def measuring_verb(provider: str) -> Literal["measure", "bench"]:
    """Return the verb that measures on a device of a provider.

    It is `measure`, but `bench` for an NPU: its drift is measured on the emulator at the build, only its time there.
    """
    found = PROVIDERS.get(provider)
    return "bench" if found is not None and found.device == "npu" else "measure"
