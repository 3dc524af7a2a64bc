"""Our Olive passes. `olive run --package-config` finds them by the package file that `driver` writes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from olive.common.utils import hardlink_copy_dir
from olive.model import HfModelHandler, ONNXModelHandler
from olive.passes import Pass
from olive.passes.pass_config import PassConfigParam

from phiforge.machine import default_threads
from phiforge.olive.driver import OLIVE_MODEL
from phiforge.olive.export_variant import MODEL_FILE, export_variant
from phiforge.olive.progress import note_failure, progress_of, work_folder
from phiforge.olive.quantize_checkpoint import quantize_checkpoint
from phiforge.pipeline import (
    CalibrateOptions,
    CompileOptions,
    ExportOptions,
    QuantizeOptions,
    RotateOptions,
    StagesOptions,
)
from phiforge.variant import CALIBRATED_FOLDER

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


class PhiforgeCalibrate(Pass):  # type: ignore[misc]
    """Record the ranges of a quantized checkpoint's activations, in a file beside it."""

    @classmethod
    def _default_config(cls, accelerator_spec: Any) -> dict[str, Any]:
        return _params(CalibrateOptions)

    def _run_for_config(self, model: HfModelHandler, config: Any, output_model_path: str) -> HfModelHandler:
        options = CalibrateOptions(type="PhiforgeCalibrate", **_options(config, CalibrateOptions.model_fields))
        folder = Path(output_model_path)
        folder.mkdir(parents=True, exist_ok=True)
        source = Path(model.model_path)
        with note_failure():
            from phiforge.olive.calibrate_activations import calibrate_activations
            from phiforge.olive.calibration_tokens import calibration_tokens

            calibrate_activations(
                source, folder, calibration_tokens(source, options),
                work=work_folder(folder / "pass-work"), threads=default_threads(), progress=progress_of("calibrate"),
            )  # fmt: skip
        return HfModelHandler(model_path=output_model_path, task=model.task)


class PhiforgeStages(Pass):  # type: ignore[misc]
    """Write a calibrated checkpoint's decoder as QDQ graphs of fixed shape, in stages."""

    @classmethod
    def _default_config(cls, accelerator_spec: Any) -> dict[str, Any]:
        return _params(StagesOptions)

    def _run_for_config(self, model: HfModelHandler, config: Any, output_model_path: str) -> ONNXModelHandler:
        options = StagesOptions(type="PhiforgeStages", **_options(config, StagesOptions.model_fields))
        folder = Path(output_model_path)
        folder.mkdir(parents=True, exist_ok=True)
        with note_failure():
            from phiforge.olive.export_stages import FIRST_STAGE, export_stages

            export_stages(Path(model.model_path), folder, options, progress=progress_of("stages"))
            hardlink_copy_dir(model.model_path, folder / CALIBRATED_FOLDER)
        return ONNXModelHandler(model_path=output_model_path, onnx_file_name=FIRST_STAGE)


class PhiforgeCompile(Pass):  # type: ignore[misc]
    """Compile a decoder's stages ahead of time for an NPU."""

    @classmethod
    def _default_config(cls, accelerator_spec: Any) -> dict[str, Any]:
        return _params(CompileOptions)

    def _run_for_config(self, model: ONNXModelHandler, config: Any, output_model_path: str) -> ONNXModelHandler:
        options = CompileOptions(type="PhiforgeCompile", **_options(config, CompileOptions.model_fields))
        folder = Path(output_model_path)
        folder.mkdir(parents=True, exist_ok=True)
        with note_failure():
            from phiforge.olive.compile_stages import compile_stages

            source = Path(model.model_path).parent
            compile_stages(
                source, folder, options, log=work_folder(folder) / "compile", progress=progress_of("compile")
            )
        return ONNXModelHandler(model_path=output_model_path, onnx_file_name=OLIVE_MODEL)
