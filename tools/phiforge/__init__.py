"""phiforge: from a Phi-4 checkpoint to one package with a variant per device, and proof of what each variant costs.

Every verb of the command line is a function here: `phiforge.build(...)` returns what `phiforge build` prints.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from phiforge.verbs.bench import bench
    from phiforge.verbs.build import build
    from phiforge.verbs.chat import chat
    from phiforge.verbs.doctor import doctor
    from phiforge.verbs.inspect import inspect
    from phiforge.verbs.measure import measure
    from phiforge.verbs.package import package
    from phiforge.verbs.pipelines import pipelines
    from phiforge.verbs.predict import predict
    from phiforge.verbs.report import report
    from phiforge.verbs.targets import targets
    from phiforge.verbs.tune import tune
    from phiforge.verbs.validate import validate
    from phiforge.verbs.verify import verify

__all__ = [
    "bench",
    "build",
    "chat",
    "doctor",
    "inspect",
    "measure",
    "package",
    "pipelines",
    "predict",
    "report",
    "targets",
    "tune",
    "validate",
    "verify",
]


def __getattr__(name: str) -> Any:
    """Import a verb when it is first asked for, because some bring heavy libraries."""
    if name in __all__:
        return getattr(importlib.import_module(f"phiforge.verbs.{name}"), name)
    raise AttributeError(f"module 'phiforge' has no attribute {name!r}")
