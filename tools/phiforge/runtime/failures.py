"""What the runtimes raise when they fail."""

from __future__ import annotations

from phiforge import errors


def _ort_errors() -> tuple[type[Exception], ...]:
    """What making or running a session raises; nothing where onnxruntime itself is not installed."""
    try:
        from phiforge.runtime.onnx_runtime import ort_state as state
    except errors.DependencyMissingError:
        return ()
    return (
        state.DeviceReset,
        state.EPFail,
        state.EngineError,
        state.Fail,
        state.InvalidArgument,
        state.InvalidGraph,
        state.InvalidProtobuf,
        state.ModelLoadCanceled,
        state.ModelLoaded,
        state.ModelRequiresCompilation,
        state.NoModel,
        state.NoSuchFile,
        state.NotFound,
        state.NotImplemented,
        state.RuntimeException,
    )


# They are no RuntimeErrors, and have no base of their own.
ORT_ERRORS = _ort_errors()
# onnxruntime-genai raises the first two.
RUNTIME_ERRORS: tuple[type[Exception], ...] = (RuntimeError, OSError, *ORT_ERRORS)
