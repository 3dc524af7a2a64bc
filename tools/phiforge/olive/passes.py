"""Our Olive passes. `olive run --package-config` finds them by the package file that `driver` writes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from olive.model import HfModelHandler, ONNXModelHandler
from olive.passes import Pass
from olive.passes.pass_config import PassConfigParam

from phiforge.machine import default_threads
from phiforge.olive.export_variant import MODEL_FILE, export_variant
from phiforge.olive.progress import note_failure, progress_of, work_folder
from phiforge.olive.quantize_checkpoint import quantize_checkpoint
from phiforge.pipeline import ExportOptions, QuantizeOptions, RotateOptions

if TYPE_CHECKING:
    from pydantic import BaseModel


def _params(options: type[BaseModel]) -> dict[str, Any]:
    """Olive's description of a pass's options, made from ours, so that a key is declared once."""
    return {
        name: PassConfigParam(
            type_=Any,
            required=field.is_required(),
            default_value=None if field.is_required() else field.default,
            description=f"See {options.__name__} in phiforge.pipeline.",
        )
        for name, field in options.model_fields.items()
        if name != "type"
    }


def _options(config: Any, names: dict[str, Any]) -> dict[str, Any]:
    return {name: getattr(config, name) for name in names if name != "type"}


class PhiforgeRotate(Pass):  # type: ignore[misc]
    """Rotate a checkpoint's residual stream, streamed, into a checkpoint of the same function."""

    @classmethod
    def _default_config(cls, accelerator_spec: Any) -> dict[str, Any]:
        return _params(RotateOptions)

    def _run_for_config(self, model: HfModelHandler, config: Any, output_model_path: str) -> HfModelHandler:
        folder = Path(output_model_path)
        folder.mkdir(parents=True, exist_ok=True)
        with note_failure():
            from phiforge.olive.rotate_checkpoint import rotate_checkpoint

            rotate_checkpoint(Path(model.model_path), folder, config.seed, progress=progress_of("rotate"))
        return HfModelHandler(model_path=output_model_path, task=model.task)


class PhiforgeQuantize(Pass):  # type: ignore[misc]
    """Quantize a checkpoint's weights, streamed, into Olive's checkpoint format."""

    @classmethod
    def _default_config(cls, accelerator_spec: Any) -> dict[str, Any]:
        return _params(QuantizeOptions)

    def _run_for_config(self, model: HfModelHandler, config: Any, output_model_path: str) -> HfModelHandler:
        options = QuantizeOptions(type="PhiforgeQuantize", **_options(config, QuantizeOptions.model_fields))
        folder = Path(output_model_path)
        folder.mkdir(parents=True, exist_ok=True)
        source, threads, progress = Path(model.model_path), default_threads(), progress_of("quantize")
        with note_failure():
            if options.calibrated:
                # Imported here because torch's and transformers' modules take seconds, and the others need none.
                from phiforge.olive.calibrate_checkpoint import calibrate_checkpoint
                from phiforge.olive.calibration_tokens import calibration_tokens

                calibrate_checkpoint(
                    source, folder, options, calibration_tokens(source, options),
                    work=work_folder(folder / "pass-work"), threads=threads, progress=progress,
                )  # fmt: skip
            else:
                quantize_checkpoint(source, folder, options, threads=threads, progress=progress)
        return HfModelHandler(model_path=output_model_path, task=model.task)


class PhiforgeExport(Pass):  # type: ignore[misc]
    """Export a quantized checkpoint through the onnxruntime-genai builder, graph first."""

    @classmethod
    def _default_config(cls, accelerator_spec: Any) -> dict[str, Any]:
        return _params(ExportOptions)

    def _run_for_config(self, model: HfModelHandler, config: Any, output_model_path: str) -> ONNXModelHandler:
        options = ExportOptions(type="PhiforgeExport", **_options(config, ExportOptions.model_fields))
        folder = Path(output_model_path)
        folder.mkdir(parents=True, exist_ok=True)
        with note_failure():
            export_variant(Path(model.model_path), folder, options, progress=progress_of("export"))
        return ONNXModelHandler(model_path=output_model_path, onnx_file_name=MODEL_FILE)
