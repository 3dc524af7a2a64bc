"""onnxruntime itself, or what to install."""

from __future__ import annotations

from phiforge import errors

try:
    import onnxruntime as ort
    from onnxruntime.capi import onnxruntime_pybind11_state as ort_state
except ImportError as missing:
    raise errors.DependencyMissingError(
        "Variants cannot be run here.",
        why=f"onnxruntime does not import: {missing}.",
        fix="Install the runtime: `pip install phiforge[cpu]`, or the extra for your device.",
    ) from missing

__all__ = ["ort", "ort_state"]
