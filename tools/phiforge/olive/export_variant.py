"""Make a variant folder from a quantized checkpoint: graph first, weights stream."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING

import onnx_ir as ir

from phiforge.checkpoint.config import load_config
from phiforge.graph.bind import QuantizedWeights, bind_weights, weights_of
from phiforge.graph.head import prune_head
from phiforge.graph.rotary import move_tables_out
from phiforge.olive.builder import build_graph
from phiforge.olive.checkpoint_files import WEIGHTS_FILE
from phiforge.quantize.spec import QuantSpec

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from phiforge.checkpoint.config import ModelConfig
    from phiforge.pipeline import ExportOptions

MODEL_FILE = "model.onnx"
DATA_FILE = "model.onnx.data"
_FLOATS = {"float32": ir.DataType.FLOAT, "float16": ir.DataType.FLOAT16}


def export_variant(
    quantized: Path, folder: Path, options: ExportOptions, *, progress: Callable[[int, int], None]
) -> None:
    """Write a complete variant of the quantized checkpoint into the empty `folder`.

    Args:
        quantized: A checkpoint in Olive's format, as `quantize_checkpoint` writes it.
        folder: Where to write; must exist.
        options: Provider and graph options.
        progress: Called with (bytes written, bytes in all).
    """
    config = load_config(quantized, quantized=True)
    specs = read_specs(quantized, config)
    plain = folder / ".checkpoint"
    plain.mkdir()
    copy_without_weights(quantized, plain, tied=config.tied_embeddings)
    model = make_graph(plain, folder, weights_of(quantized / WEIGHTS_FILE), specs, config, options)
    shutil.rmtree(plain)
    _save(model, folder, progress)


def make_graph(
    plain: Path,
    folder: Path,
    weights: QuantizedWeights,
    specs: Mapping[str, QuantSpec],
    config: ModelConfig,
    options: ExportOptions,
) -> ir.Model:
    """Return the variant's graph, and write the files that go beside it into `folder`.

    Args:
        plain: A folder with the checkpoint's configuration and tokenizer, and no word of quantization.
        folder: Receives genai_config.json and the tokenizer's files.
        weights: The quantized weights; without a file the graph can be examined and not saved.
        specs: Quantization by module name.
        config: The quantized checkpoint's configuration.
        options: Provider and graph options.
    """
    model = build_graph(
        plain,
        folder,
        provider=options.provider,
        stop_ids=config.stop_ids,
        max_length=options.max_length,
        floats=_FLOATS[options.activations],
    )
    move_tables_out(model)
    if options.logits == "last":
        prune_head(model)
    bind_weights(model, weights, specs, config, accuracy_level=options.accuracy_level, embedding=options.embedding)
    return model


def read_specs(quantized: Path, config: ModelConfig) -> dict[str, QuantSpec]:
    """The quantization of every module of an Olive-format checkpoint, from its config.json."""
    data = json.loads((quantized / "config.json").read_text(encoding="utf-8"))["quantization_config"]
    overrides = data["overrides"] or {}
    modules = ["model.embed_tokens", *([] if config.tied_embeddings else ["lm_head"])]
    for layer in range(config.layer_count):
        parts = ("self_attn.qkv_proj", "self_attn.o_proj", "mlp.gate_up_proj", "mlp.down_proj")
        modules += [f"model.layers.{layer}.{part}" for part in parts]
    return {
        module: QuantSpec(
            bits=overrides.get(module, {}).get("bits", data["bits"]),
            block_size=data["group_size"],
            symmetric=data["symmetric"],
        )
        for module in modules
    }


def copy_without_weights(quantized: Path, plain: Path, *, tied: bool) -> None:
    """Copy what the builder reads, without the quantization it would try to load itself (and cannot, see log.md)."""
    for path in quantized.iterdir():
        if path.is_file() and path.suffix != ".safetensors":
            (plain / path.name).write_bytes(path.read_bytes())
    data = json.loads((plain / "config.json").read_text(encoding="utf-8"))
    del data["quantization_config"]
    data["tie_word_embeddings"] = tied
    (plain / "config.json").write_text(json.dumps(data), encoding="utf-8")


def _save(model: ir.Model, folder: Path, progress: Callable[[int, int], None]) -> None:
    total = sum(value.const_value.nbytes for value in model.graph.initializers.values() if value.const_value)
    done = 0

    def report(tensor: ir.TensorProtocol, _: object) -> None:
        nonlocal done
        progress(done, total)
        done += tensor.nbytes

    ir.save(model, folder / MODEL_FILE, external_data=DATA_FILE, size_threshold_bytes=0, callback=report)
    progress(total, total)
