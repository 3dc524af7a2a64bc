"""Write a calibrated checkpoint's decoder as stages of QDQ graphs, which an NPU's compiler takes and the CPU runs."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from phiforge import errors
from phiforge.activations import ACTIVATIONS_FILE, SwitchedOff, load_ranges
from phiforge.checkpoint.config import load_config
from phiforge.decoder.decoder import Decoder
from phiforge.graph.npu.config import Stage, stages_config
from phiforge.graph.npu.emit import Quantizers, save_model, save_model_on
from phiforge.graph.npu.layer import DecoderShape
from phiforge.graph.npu.stages import StageWriter
from phiforge.graph.npu.weights import NpuWeights
from phiforge.olive.builder import build_graph
from phiforge.olive.checkpoint_files import WEIGHTS_FILE
from phiforge.olive.export_variant import copy_without_weights, read_specs
from phiforge.olive.quantized_rows import QuantizedRows
from phiforge.parts import split_layers

if TYPE_CHECKING:
    from collections.abc import Callable

    from phiforge.checkpoint.config import ModelConfig
    from phiforge.pipeline import StagesOptions

GENAI_FILE = "genai_config.json"
DECODE_TOKENS = 1
# A graph that there is wherever the embedding is computed.
FIRST_STAGE = "prefill_0.onnx"


def export_stages(
    calibrated: Path,
    folder: Path,
    options: StagesOptions,
    *,
    progress: Callable[[int, int], None],
    off: SwitchedOff | None = None,
) -> None:
    """Write a complete variant in stages, all on the CPU, into the empty `folder`.

    Args:
        calibrated: A quantized checkpoint with the ranges of its activations, as `calibrate_activations` writes it.
        folder: Where to write; must exist.
        options: Lengths, parts, cache and where attention and head are computed.
        progress: Called with (parts written, parts in all).
        off: What is not to be quantized; nothing by default.

    Raises:
        GraphMismatchError: A tensor of the checkpoint is in no graph.
        ActivationRangeError: The ranges cannot be read.
    """
    assert options.context_tokens is not None
    off = off or SwitchedOff()
    config = load_config(calibrated, quantized=True)
    with tempfile.TemporaryDirectory() as plain:
        copy_without_weights(calibrated, Path(plain), tied=config.tied_embeddings)
        build_graph(Path(plain), folder, provider="cpu", stop_ids=config.stop_ids, max_length=options.context_tokens)
    base = json.loads((folder / GENAI_FILE).read_text(encoding="utf-8"))
    writer = StageWriter(
        shape=_shape(calibrated, config, options),
        weights=NpuWeights.of(
            calibrated / WEIGHTS_FILE, read_specs(calibrated, config), originals=off.originals, off=off.modules
        ),
        quantizers=Quantizers(load_ranges(calibrated / ACTIVATIONS_FILE), options.headroom, off.activations),
        tied=config.tied_embeddings,
        pad_id=int(base["model"]["pad_token_id"]),
        embedding_on_npu=options.embedding == "npu",
    )  # fmt: skip
    stages = _write(writer, folder, options, progress)
    _check_all_used(writer.weights)
    content = stages_config(
        base, stages, window=options.window_tokens, context=options.context_tokens, provider_options={}
    )
    (folder / GENAI_FILE).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def _write(
    writer: StageWriter, folder: Path, options: StagesOptions, progress: Callable[[int, int], None]
) -> list[Stage]:
    parts = split_layers(writer.shape.layer_count, options.parts)
    first = [] if writer.embedding_on_npu else [_write_embedding(writer, folder)]
    prefill: list[Stage] = []
    decode: list[Stage] = []
    for number, layers in enumerate(parts):
        progress(number, len(parts))
        stored = folder / f"prefill_{number}.onnx"
        for tokens, name, stages in (
            (options.window_tokens, f"prefill_{number}", prefill),
            (DECODE_TOKENS, f"decode_{number}", decode),
        ):
            model = writer.part(layers, tokens)
            stages.append(Stage.of(model, name, tokens=tokens, npu=True))
            if tokens == DECODE_TOKENS:
                save_model_on(model, folder / f"{name}.onnx", stored)
            else:
                save_model(model, stored, f"part_{number}.data")
    progress(len(parts), len(parts))
    return [*first, *prefill, *decode, *_write_head(writer, folder, options)]


def _check_all_used(weights: NpuWeights) -> None:
    unused = weights.unused()
    if unused:
        raise errors.GraphMismatchError(
            f"{len(unused)} tensors of the checkpoint are unused in the graphs, wholly or in part.",
            why=", ".join(unused[:4]) + ".",
            fix="Report it with the checkpoint's config.json.",
        )


def _write_embedding(writer: StageWriter, folder: Path) -> Stage:
    embedding = writer.embedding()
    save_model(embedding, folder / "embedding.onnx", "embedding.data")
    return Stage.of(embedding, "embedding")


def _write_head(writer: StageWriter, folder: Path, options: StagesOptions) -> list[Stage]:
    if options.head == "cpu":
        head = writer.head()
        save_model(head, folder / "head.onnx", "head.data")
        return [Stage.of(head, "head", head=True)]
    stages = []
    for name, model in (("selection", writer.selection()), ("head", writer.npu_head()), ("logits", writer.logits())):
        save_model(model, folder / f"{name}.onnx", f"{name}.data" if name == "head" else None)
        stages.append(Stage.of(model, name, head=True, npu=name == "head"))
    return stages


def _shape(calibrated: Path, config: ModelConfig, options: StagesOptions) -> DecoderShape:
    assert options.context_tokens is not None
    decoder = Decoder(calibrated, QuantizedRows(calibrated), quantized=True)
    cosines, sines = decoder.rotary_tables(options.context_tokens)
    settings = json.loads((calibrated / "config.json").read_text(encoding="utf-8"))
    return DecoderShape(
        hidden_size=config.hidden_size,
        intermediate_size=config.intermediate_size,
        head_count=config.head_count,
        kv_head_count=config.kv_head_count,
        head_size=config.head_size,
        vocab_size=config.vocab_size,
        layer_count=config.layer_count,
        epsilon=float(settings["rms_norm_eps"]),
        cosines=cosines,
        sines=sines,
        kv_cache_bits=options.kv_cache_bits,
        attention=options.attention,
    )
