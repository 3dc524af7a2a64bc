"""Weight quantization on plain arrays: float32 in, integer codes and scales out.

Nothing here reads files, knows a graph or needs a runtime, so every algorithm can be checked against a slow reference.
"""

from __future__ import annotations

from phiforge.quantize.algorithms import ALGORITHMS, Quantizer, quantize_rows
from phiforge.quantize.mixed import MIXED_RULES, MixedRule, bits_for
from phiforge.quantize.packing import pack, unpack
from phiforge.quantize.spec import Quantized, QuantSpec, bits_per_weight, dequantize

__all__ = [
    "ALGORITHMS",
    "MIXED_RULES",
    "MixedRule",
    "QuantSpec",
    "Quantized",
    "Quantizer",
    "bits_for",
    "bits_per_weight",
    "dequantize",
    "pack",
    "quantize_rows",
    "unpack",
]
