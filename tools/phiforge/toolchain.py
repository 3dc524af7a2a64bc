"""Versions of everything that shapes a built variant, phiforge's own code included."""

from __future__ import annotations

import hashlib
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

PACKAGES = (
    "olive-ai",
    "onnxruntime",
    "onnxruntime-genai",
    "onnxruntime-qnn",
    "onnx-ir",
    "onnx",
    "numpy",
    "numba",
    "safetensors",
    "torch",
    "transformers",
)
# Modules whose code decides which bytes a variant has.
CODE = (
    "activations.py",
    "checkpoint",
    "decoder",
    "graph",
    "olive",
    "parts.py",
    "pipeline.py",
    "plan.py",
    "quantize",
    "runtime/compile.py",
    "runtime/compile_job.py",
    "runtime/compile_worker.py",
)


def toolchain() -> dict[str, str]:
    """Name to version of every package that shapes a variant, and a digest of phiforge's own code."""
    versions = {"phiforge-code": code_digest(CODE)}
    for name in PACKAGES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = "absent"
    return versions


def code_digest(entries: Sequence[str]) -> str:
    """A digest of phiforge modules' code; `entries` are files and folders below the package."""
    root = Path(__file__).parent
    digest = hashlib.sha256()
    for entry in entries:
        path = root / entry
        for file in sorted(path.rglob("*.py")) if path.is_dir() else [path]:
            if "nano" not in file.relative_to(root).parts:
                digest.update(f"{file.relative_to(root).as_posix()}\0".encode())
                digest.update(file.read_bytes().replace(b"\r\n", b"\n"))
    return digest.hexdigest()[:16]
