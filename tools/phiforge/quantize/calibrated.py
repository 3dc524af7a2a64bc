"""The registry of algorithms that need calibration: what a layer's inputs were decides how its weights are rounded."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from phiforge.quantize.blocks import Floats
from phiforge.quantize.parameters import Search
from phiforge.quantize.spec import Quantized, QuantSpec

# Quantizes rows [n, K] of a weight whose inputs have been prepared for.
RowQuantizer = Callable[[Floats, QuantSpec], Quantized]


@dataclass(frozen=True, kw_only=True)
class CalibratedOptions:
    """Options of the calibrated algorithms; all three are GPTQ's.

    Attributes:
        act_order: Whether the channels with the largest inputs are rounded first.
        damping: What is added to the Hessian's diagonal, as a share of its mean.
        search: How the scale of a group is found.
    """

    act_order: bool = False
    damping: float = 0.01
    search: Search = "rtn"


def _prepare_gptq(hessian: Floats, options: CalibratedOptions) -> RowQuantizer:
    from phiforge.quantize.gptq import factorize, quantize_with

    factor = factorize(hessian, damping=options.damping, act_order=options.act_order)
    return lambda rows, spec: quantize_with(factor, rows, spec, search=options.search)


def _prepare_awq(hessian: Floats, _options: CalibratedOptions) -> RowQuantizer:
    from phiforge.quantize.awq import quantize_clipped

    return lambda rows, spec: quantize_clipped(rows, hessian, spec)


CALIBRATED: dict[str, Callable[[Floats, CalibratedOptions], RowQuantizer]] = {
    "gptq": _prepare_gptq,
    "awq": _prepare_awq,
}
