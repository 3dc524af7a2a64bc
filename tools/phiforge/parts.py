"""How a decoder's layers are divided among the binaries of an NPU, which each hold so many bytes at most."""

from __future__ import annotations

import re
from collections import Counter
from itertools import pairwise
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from phiforge.needs import Weight

_LAYER = re.compile(r"model\.layers\.(\d+)\.")


def split_layers(layer_count: int, parts: int) -> tuple[tuple[int, int], ...]:
    """Divide the layers into runs (start, stop) whose lengths differ by one at most, the longer ones first.

    Raises:
        ValueError: There are no parts, or more than layers.
    """
    if not 1 <= parts <= layer_count:
        raise ValueError(f"{layer_count} layers cannot be divided into {parts} parts")
    length, longer = divmod(layer_count, parts)
    starts = [part * length + min(part, longer) for part in range(parts + 1)]
    return tuple(pairwise(starts))


def layer_bytes(weights: Iterable[Weight]) -> tuple[int, ...]:
    """Return the stored bytes of each layer's weights, in the order of the layers."""
    sizes: Counter[int] = Counter()
    for weight in weights:
        if found := _LAYER.match(weight.module):
            sizes[int(found[1])] += weight.stored_bytes
    return tuple(sizes[layer] for layer in sorted(sizes))


def part_bytes(sizes: Sequence[int], parts: Sequence[tuple[int, int]]) -> tuple[int, ...]:
    """Return the bytes of each part, from those of the layers."""
    return tuple(sum(sizes[start:stop]) for start, stop in parts)


def fitting_parts(sizes: Sequence[int], parts: int, limit: int) -> tuple[tuple[int, int], ...]:
    """Divide the layers into `parts`, or as many more as keep each within the limit.

    Args:
        sizes: Bytes of each layer.
        parts: How many parts to make at least; more than layers are as many as layers.
        limit: Most bytes of a part.

    Raises:
        ValueError: A single layer is over the limit.
    """
    if max(sizes) > limit:
        raise ValueError(f"a layer has {max(sizes)} bytes, and a part at most {limit}")
    counts = range(min(parts, len(sizes)), len(sizes) + 1)
    divisions = (split_layers(len(sizes), count) for count in counts)
    return next(division for division in divisions if max(part_bytes(sizes, division)) <= limit)
