"""Scale and zero point of given blocks, for algorithms that choose the codes themselves."""

from __future__ import annotations

from typing import Literal

import numpy as np

from phiforge.quantize.blocks import Floats, contiguous, make_positive, require_numba
from phiforge.quantize.kquant import kquant_parameters
from phiforge.quantize.rtn import rtn_parameters
from phiforge.quantize.spec import QuantSpec

Search = Literal["rtn", "k-quant"]


def block_parameters(
    columns: Floats, spec: QuantSpec, search: Search, importance: Floats | None = None
) -> tuple[Floats, Floats]:
    """Gives the scale and the zero point of each block.

    Args:
        columns: float32 [g, n]: the g weights of a block below each other, n blocks. g need not be the
            specification's block size: per channel it is the length of a row. It must be a multiple of 4.
        spec: Bits, symmetry and sign of the scales; nothing else is read.
        search: "rtn" takes the range of the block, "k-quant" searches the least weighted squared error.
        importance: float32 [g, n], not negative: what an error of each weight counts, in place of k-quant's own
            rms(block) + |w|. Only "k-quant" reads it.

    Returns:
        Scales float32 [n], not finite where a weight is not, and zero points float32 [n], whole numbers from 0 to
        spec.max_code.

    Raises:
        DependencyMissingError: numba is not installed.
        ValueError: The blocks have another dtype or height, or the importance has another shape.
    """
    if columns.dtype != np.float32 or columns.ndim != 2 or len(columns) % 4:
        raise ValueError(f"blocks are {columns.dtype} {columns.shape}; float32 [g, n], g a multiple of 4, is needed")
    if importance is not None and importance.shape != columns.shape:
        raise ValueError(f"importance has shape {importance.shape}; the blocks have {columns.shape}")
    require_numba()
    blocks = contiguous(columns.T)
    if search == "rtn":
        scales, zeros = rtn_parameters(blocks, spec)
    else:
        scales, zeros = kquant_parameters(blocks, spec, None if importance is None else contiguous(importance.T))
    make_positive(scales, spec)
    return scales, zeros
