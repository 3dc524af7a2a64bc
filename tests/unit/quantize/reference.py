"""The quantizers once more, slowly: one block at a time in double precision, written from the formulas alone."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

Block = list[float]
Result = tuple[list[int], float, int]  # codes, scale, zero point


def rtn_block(block: Block, bits: int, *, symmetric: bool) -> Result:
    """Rounds one block to nearest."""
    top = 2**bits - 1
    if symmetric:
        zero = 2 ** (bits - 1)
        extreme = 0.0
        for value in block:
            # Of two opposite values of the same size ONNX Runtime takes the negative one.
            if abs(value) > abs(extreme) or (abs(value) == abs(extreme) and value < 0):
                extreme = value
        scale = extreme / -zero if extreme else -1 / zero
    else:
        low, high = min([*block, 0.0]), max([*block, 0.0])
        if low == high:
            low, high = -1.0, 1.0
        scale = (high - low) / top
        zero = min(max(round(-low / scale), 0), top)
    return nearest_codes(block, scale, zero, bits), scale, zero


def kquant_block(block: Block, bits: int, *, symmetric: bool) -> Result:
    """Searches the scale of one block on llama.cpp's grid, with a whole zero point for every candidate."""
    plain = rtn_block(block, bits, symmetric=symmetric)
    if not any(block):
        return plain
    weights = importance(block)
    best_gain, scale, zero = 0.0, plain[1], plain[2]
    for candidate_scale, candidate_zero in _candidates(block, bits, symmetric=symmetric):
        codes = nearest_codes(block, candidate_scale, candidate_zero, bits)
        fitted, gain = _fit(block, weights, codes, candidate_zero)
        if gain > best_gain:
            best_gain, scale, zero = gain, fitted, candidate_zero
    scale, _ = _fit(block, weights, nearest_codes(block, scale, zero, bits), zero)
    found = nearest_codes(block, scale, zero, bits), scale, zero
    return found if weighted_error(block, found) < weighted_error(block, plain) else plain


def nearest_codes(block: Block, scale: float, zero: int, bits: int) -> list[int]:
    """Gives the code nearest to each weight; Python's round goes to the even code from the middle."""
    return [min(max(round(value / scale + zero), 0), 2**bits - 1) for value in block]


def importance(block: Block) -> Block:
    """Gives k-quant's importance of each weight: the block's root mean square plus the weight's magnitude."""
    mean_square = sum(value * value for value in block) / len(block)
    return [math.sqrt(mean_square) + abs(value) for value in block]


def weighted_error(block: Block, result: Result) -> float:
    """Gives the squared error of a block, weighted by importance."""
    codes, scale, zero = result
    pairs = zip(importance(block), block, codes, strict=True)
    return sum(weight * (value - (code - zero) * scale) ** 2 for weight, value, code in pairs)


def blocks_of(weight: NDArray[np.float32], block_size: int) -> list[Block]:
    """Cuts a weight [N, K] into its blocks, row by row."""
    return [[float(value) for value in block] for block in weight.reshape(-1, block_size)]


def _candidates(block: Block, bits: int, *, symmetric: bool) -> list[tuple[float, int]]:
    if symmetric:
        half = 2 ** (bits - 1)
        extreme = max(sorted(block), key=abs)
        return [(extreme / -(half + 0.1 * step), half) for step in range(-9, 10)]
    low, high, top = min([*block, 0.0]), max([*block, 0.0]), 2**bits - 1
    scales = [(high - low) / (top - 1 + 0.1 * step) for step in range(20)]
    return [(scale, min(max(round(-low / scale), 0), top)) for scale in scales]


def _fit(block: Block, weights: Block, codes: list[int], zero: int) -> tuple[float, float]:
    triples = [(w, x, code - zero) for w, x, code in zip(weights, block, codes, strict=True)]
    product = sum(w * x * q for w, x, q in triples)
    square = sum(w * q * q for w, _, q in triples)
    return (product / square, product * product / square) if square else (0.0, 0.0)
