"""Quantize the decoder's layers against calibration texts, one after the other from disk.

After each layer its codes are a file of their own and the texts' hidden states are another, so a build that was killed
goes on at the layer where it was. Only one layer is in memory; activations are mapped files.
"""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from safetensors.numpy import save_file

from phiforge.decoder.decoder import DOWN, GATE_UP, NORMS, QKV, mapped_floats
from phiforge.decoder.walk import CHUNK_ROWS, hessian, walk_layer
from phiforge.olive.stored import pack_quantized, stored_tensors
from phiforge.quantize.awq import awq_scales
from phiforge.quantize.calibrated import CALIBRATED, CalibratedOptions
from phiforge.quantize.spec import dequantize

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    from phiforge.decoder.decoder import Batch, Decoder
    from phiforge.pipeline import QuantizeOptions
    from phiforge.quantize.spec import Quantized, QuantSpec

    Floats = NDArray[np.float32]
    Tensors = dict[str, NDArray[np.generic]]

KEY_FILE = "key.json"
# Ends the names, in a layer's file, of what the inputs of a module are divided by.
SMOOTHING = ".smoothing"


@dataclass(frozen=True, kw_only=True)
class LayerWork:
    """The folder of a calibrated quantization in progress."""

    folder: Path

    def open(self, key: str) -> None:
        """Keep what an earlier run with the same key left, and nothing else."""
        file = self.folder / KEY_FILE
        try:
            same = json.loads(file.read_text(encoding="utf-8")) == key
        except (OSError, ValueError):
            same = False
        if not same:
            shutil.rmtree(self.folder, ignore_errors=True)
            self.folder.mkdir(parents=True)
            file.write_text(json.dumps(key), encoding="utf-8")
        for leftover in self.folder.glob("*.tmp"):
            leftover.unlink()

    def layer_file(self, layer: int) -> Path:
        """The finished layer's tensors."""
        return self.folder / f"layer-{layer:03}.safetensors"

    def hidden(self, layer: int, shape: tuple[int, int]) -> Floats:
        """The mapped hidden states before a layer; two files take turns, so that a layer's inputs outlive it."""
        if self._has_hidden(layer, shape):
            return np.memmap(self._hidden_file(layer), dtype=np.float32, mode="r+", shape=shape)
        return np.memmap(self._hidden_file(layer), dtype=np.float32, mode="w+", shape=shape)

    def layers_done(self, shape: tuple[int, int]) -> int:
        """How many layers from the first on are finished; none if the hidden states to go on from are not there."""
        done = 0
        while self.layer_file(done).is_file():
            done += 1
        return done if self._has_hidden(done, shape) else 0

    def _hidden_file(self, layer: int) -> Path:
        return self.folder / f"hidden-{layer % 2}.f32"

    def _has_hidden(self, layer: int, shape: tuple[int, int]) -> bool:
        file = self._hidden_file(layer)
        return file.is_file() and file.stat().st_size == 4 * shape[0] * shape[1]


def quantize_layers(
    decoder: Decoder,
    batch: Batch,
    specs: Mapping[str, QuantSpec],
    options: QuantizeOptions,
    work: LayerWork,
    progress: Callable[[int, int], None],
) -> Floats:
    """Quantize every layer into its file in `work`, and return the texts' last hidden states, [tokens, hidden].

    Args:
        decoder: The checkpoint.
        batch: The calibration texts.
        specs: Quantization by module name.
        options: Algorithm and its options.
        work: Where finished layers are and go.
        progress: Called with (layers done, layers in all).
    """
    layers = decoder.config.layer_count
    shape = (len(batch.tokens), decoder.config.hidden_size)
    done = work.layers_done(shape)
    if done == 0:
        hidden = work.hidden(0, shape)
        hidden[:] = decoder.embed(batch.tokens)
    for index in range(done, layers):
        progress(index, layers)
        before, after = work.hidden(index, shape), work.hidden(index + 1, shape)
        tensors = _quantize_layer(decoder, index, batch, specs, options, (before, after), work.folder)
        after.flush()  # type: ignore[attr-defined]
        partial = work.layer_file(index).with_suffix(".tmp")
        save_file(tensors, partial)
        os.replace(partial, work.layer_file(index))
    progress(layers, layers)
    return work.hidden(layers, shape)


def _quantize_layer(
    decoder: Decoder,
    index: int,
    batch: Batch,
    specs: Mapping[str, QuantSpec],
    options: QuantizeOptions,
    hidden: tuple[Floats, Floats],
    scratch: Path,
) -> Tensors:
    prefix = f"model.layers.{index}"
    layer = decoder.layer(index)
    if options.algorithm == "awq":
        _fold_scales(decoder, layer, batch, {part: specs[f"{prefix}.{part}"] for part in (QKV, GATE_UP, DOWN)},
                     hidden[0], scratch)  # fmt: skip
    tensors: Tensors = {}
    if options.smoothing is not None:
        scales = _smooth_down(decoder, layer, batch, hidden[0], scratch, options.smoothing)
        tensors[f"{prefix}.{DOWN}{SMOOTHING}"] = scales
    tensors |= {f"{prefix}.{norm}.weight": getattr(layer, norm).weight.numpy() for norm in NORMS}

    def visit(part: str, module: Any, inputs: Floats) -> None:
        quantized = _quantize_module(module, inputs, specs[f"{prefix}.{part}"], options)
        tensors.update(stored_tensors(f"{prefix}.{part}", pack_quantized(quantized)))

    walk_layer(decoder, layer, batch, *hidden, visit, scratch)
    return tensors


def _quantize_module(module: Any, inputs: Floats, spec: QuantSpec, options: QuantizeOptions) -> Quantized:
    """Quantize a linear module's weight, and leave in the module what the codes stand for."""
    quantize = CALIBRATED[options.algorithm](hessian(inputs), calibrated_options(options))
    quantized = quantize(module.weight.numpy(), spec)
    module.weight.copy_(torch.from_numpy(dequantize(quantized)))
    return quantized


def _fold_scales(
    decoder: Decoder, layer: Any, batch: Batch, specs: Mapping[str, QuantSpec], hidden: Floats, scratch: Path
) -> None:
    """Scale input channels by AWQ, and what comes before them by the inverse, which leaves the layer's function.

    The output projection is left alone: with grouped queries several heads share the values that feed it.
    """
    hessians: dict[str, Floats] = {}

    def collect(part: str, _module: Any, inputs: Floats) -> None:
        if part in specs:
            hessians[part] = hessian(inputs)

    with mapped_floats(scratch, *hidden.shape) as after:
        walk_layer(decoder, layer, batch, hidden, after, collect, scratch)
    with torch.inference_mode():
        gate_up, down = layer.mlp.gate_up_proj.weight, layer.mlp.down_proj.weight
        scales = torch.from_numpy(awq_scales([down.numpy()], hessians[DOWN], specs[DOWN]))
        down *= scales
        gate_up[len(gate_up) // 2 :] /= scales[:, None]
        for part, norm, module in (
            (QKV, layer.input_layernorm, layer.self_attn.qkv_proj),
            (GATE_UP, layer.post_attention_layernorm, layer.mlp.gate_up_proj),
        ):
            scales = torch.from_numpy(awq_scales([module.weight.numpy()], hessians[part], specs[part]))
            module.weight *= scales
            norm.weight /= scales


def _smooth_down(decoder: Decoder, layer: Any, batch: Batch, hidden: Floats, scratch: Path, strength: float) -> Floats:
    """Move outliers of the down projection's inputs into its weights, which leaves the layer's function.

    Returns what each input channel is divided by, float32 [intermediate size].

    Input channel j is divided by max|x_j|^a / max|w_j|^(1 - a), its column multiplied by it, and the rows of the up
    projection take the division over (Xiao et al. 2023, "SmoothQuant", equation 4, a being the `strength`).
    """
    peaks = torch.zeros(layer.mlp.down_proj.in_features)

    def collect(part: str, _module: Any, inputs: Floats) -> None:
        if part == DOWN:
            for start in range(0, len(inputs), CHUNK_ROWS):
                torch.maximum(peaks, torch.from_numpy(inputs[start : start + CHUNK_ROWS]).abs().amax(dim=0), out=peaks)

    with mapped_floats(scratch, *hidden.shape) as after:
        walk_layer(decoder, layer, batch, hidden, after, collect, scratch)
    with torch.inference_mode():
        gate_up, down = layer.mlp.gate_up_proj.weight, layer.mlp.down_proj.weight
        tiny = torch.finfo(torch.float32).tiny
        columns = down.abs().amax(dim=0).clamp_min(tiny)
        scales = peaks.clamp_min(tiny) ** strength / columns ** (1 - strength)
        scales /= scales.median()
        scales = torch.where(peaks > 0, scales, torch.ones_like(scales))
        down *= scales
        gate_up[len(gate_up) // 2 :] /= scales[:, None]
    found: Floats = scales.numpy()
    return found


def calibrated_options(options: QuantizeOptions) -> CalibratedOptions:
    """The pass's options that the algorithms take."""
    return CalibratedOptions(act_order=options.act_order, damping=options.damping, search=options.search)
