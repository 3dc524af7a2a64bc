"""The ranges of a decoder's activations, as calibration saw them, and the integers that stand for them.

A range has the name of what it is the range of: `embedding`, `layers.3.qkv`, `final_norm`, `logits`. An activation is
stored as an unsigned integer q of 16 bits with x = (q - zero point) * scale, zero itself being exact, as ONNX's
QuantizeLinear has it (https://onnx.ai/onnx/operators/onnx__QuantizeLinear.html).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict, ValidationError

from phiforge import errors

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from phiforge.decoder.rows import Rows

# What is recorded of every layer, in the order in which it is computed. Keys are taken after their rotation, as the
# cache holds them.
SITES = (
    "input_norm",
    "qkv",
    "key",
    "value",
    "attention",
    "attention_output",
    "attention_residual",
    "post_attention_norm",
    "gate",
    "up",
    "sigmoid",
    "silu",
    "product",
    "mlp_output",
    "residual",
)
EMBEDDING, FINAL_NORM, LOGITS = "embedding", "final_norm", "logits"
ACTIVATIONS_FILE = "activations.json"
CODES = 65535


@dataclass(frozen=True)
class Range:
    """The least and the greatest value of an activation."""

    minimum: float
    maximum: float

    def quantizer(self, headroom: float = 1.0) -> tuple[float, int]:
        """Return (scale, zero point) of 16 bits for `headroom` times this range, widened to take in zero."""
        low, high = min(self.minimum, 0.0) * headroom, max(self.maximum, 0.0) * headroom
        scale = (high - low) / CODES
        return scale, round(-low / scale)

    @property
    def magnitude(self) -> float:
        """The greatest absolute value."""
        return max(abs(self.minimum), abs(self.maximum))


@dataclass(frozen=True)
class SwitchedOff:
    """What stays float in graphs that are to show what a part of the quantization costs.

    Attributes:
        activations: Names of activations.
        modules: Modules whose weights are those of `originals`.
        originals: The weights before quantization.
    """

    activations: frozenset[str] = frozenset()
    modules: frozenset[str] = frozenset()
    originals: Rows | None = None


def layer_site(layer: int, site: str) -> str:
    """The name of one of a layer's `SITES`."""
    return f"layers.{layer}.{site}"


def expected_names(layer_count: int) -> list[str]:
    """Every name that a complete calibration has a range for."""
    layers = [layer_site(layer, site) for layer in range(layer_count) for site in SITES]
    return [EMBEDDING, *layers, FINAL_NORM, LOGITS]


def check_ranges(ranges: Mapping[str, Range], layer_count: int) -> None:
    """Refuse ranges from which no quantizer can be made.

    Raises:
        ActivationRangeError: An activation was never seen, never changed, or was not finite; the message names it.
    """
    faults = []
    for name in expected_names(layer_count):
        found = ranges.get(name)
        if found is None or found.minimum > found.maximum:
            faults.append(f"{name} is empty: no calibration text reached it")
        elif not (math.isfinite(found.minimum) and math.isfinite(found.maximum)):
            faults.append(f"{name} is infinite or no number: from {found.minimum} to {found.maximum}")
        elif found.minimum == found.maximum:
            faults.append(f"{name} is constant: {found.minimum} everywhere")
    if faults:
        more = f", and {len(faults) - 3} more" if len(faults) > 3 else ""
        raise errors.ActivationRangeError(
            f"{len(faults)} activation range{'s' * (len(faults) > 1)} cannot be quantized.",
            why="; ".join(faults[:3]) + more + ".",
            fix="Look for zero or overflowing weights with `phiforge inspect`, or calibrate with more text.",
        )


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, ser_json_inf_nan="constants")

    tokens: int
    ranges: dict[str, tuple[float, float]]


def save_ranges(ranges: Mapping[str, Range], tokens: int, path: Path) -> None:
    """Write ranges, and how many tokens they are from, as JSON."""
    content = _File(tokens=tokens, ranges={name: (item.minimum, item.maximum) for name, item in ranges.items()})
    path.write_text(content.model_dump_json(indent=1) + "\n", encoding="utf-8", newline="\n")


def load_ranges(path: Path) -> dict[str, Range]:
    """Read ranges as `save_ranges` writes them.

    Raises:
        ActivationRangeError: The file is absent or breaks its schema.
    """
    try:
        content = _File.model_validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        raise errors.ActivationRangeError(
            "The ranges of the activations cannot be read.",
            why=" ".join(str(error).split())[:300],
            fix="Run the calibration again: `phiforge build` does it before the graphs are made.",
        ) from error
    return {name: Range(*bounds) for name, bounds in content.ranges.items()}
