"""Unit tests reach no network, start no process and load no runtime: every attempt raises."""

from __future__ import annotations

import builtins
import os
import socket
import subprocess
from typing import Any, NoReturn

import pytest
from hypothesis import HealthCheck, settings

# A busy machine is slow, not wrong; and a change is judged by the same examples as the one before it.
settings.register_profile("phiforge", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
# Other examples each time: HYPOTHESIS_PROFILE=search pytest tests/unit
settings.register_profile("search", settings.get_profile("phiforge"), derandomize=False)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "phiforge"))

FORBIDDEN_IMPORTS = ("olive", "onnxruntime", "onnxruntime_genai", "torch", "transformers")


@pytest.fixture(autouse=True)
def isolated(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forbid what makes a test slow or dependent on the machine."""
    original = builtins.__import__

    def guarded(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.split(".")[0] in FORBIDDEN_IMPORTS:
            pytest.fail(f"a unit test imports {name}")
        return original(name, *args, **kwargs)

    def forbidden(*args: object, **kwargs: object) -> NoReturn:
        pytest.fail("a unit test starts a process or opens a connection")

    monkeypatch.setattr(builtins, "__import__", guarded)
    monkeypatch.setattr(subprocess, "Popen", forbidden)
    monkeypatch.setattr(socket.socket, "connect", forbidden)
