"""How a variant is run for its validation, and what the numbers are then worth: all that differs by provider."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

from phiforge.evidence import Kind
from phiforge.validation.probes import probe_placement

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from phiforge.evidence import Probe
    from phiforge.runtime.variant import Variant
    from phiforge.validation.drift import Reference


SOFTWARE_NOTE = "the provider's own kernels on a software adapter: right numbers, no timing"


def open_as_promised(folder: Path, threads: int | None, *, chunk: int | None = None) -> Variant:
    """Open a variant for the provider its own configuration names; `chunk` as `open_variant` takes it."""
    from phiforge.runtime.variant import open_variant

    return open_variant(folder, threads=threads, chunk=chunk)


def logits_at_once(variant: Variant, ids: Sequence[int]) -> NDArray[np.float32]:
    """Return the logits of a text, float32 [n, vocab], computed in one prefill."""
    from phiforge.runtime.logits import logits

    return logits(variant, ids)


def placed_as_promised(folder: Path) -> Probe:
    """Check that every node runs on the provider that the variant's own configuration names."""
    from phiforge.runtime.placement import check_placement
    from phiforge.runtime.variant import provider_of, read_config

    return probe_placement(lambda: check_placement(folder, provider_of(read_config(folder))).total)


def nothing_further(folder: Path, chunk: int | None, texts: Reference, work: Path) -> tuple[Probe, ...]:
    """Check nothing more."""
    return ()


def prefill_of_adapter(folder: Path, chunk: int | None, texts: Reference, work: Path) -> tuple[Probe, ...]:
    """Check whether an adapter computes whole prompts right."""
    from phiforge.validation.gpu import probe_adapter

    return (probe_adapter(folder, chunk, texts, work),)


@dataclass(frozen=True, kw_only=True)
class Way:
    """One way to run a variant.

    Attributes:
        kind: How the numbers are come by.
        notes: What every record must say of it.
        batch: Questions that are decoded together.
        open: Opens a variant folder: (folder, threads).
        logits: Gives the logits of every position of a text, float32 [n, vocab]: (variant, ids).
        placement: Checks where the nodes of a folder run, or would run.
        head_rounding: What a head that takes one row may differ by from one that takes all, as a fraction of the
            largest logit; None for what the graph's floats give.
        below_switch: Whether only sequences up to the longrope switch are run, because prompts are computed in chunks:
            across it, the earlier chunks would have short factors and the later ones long.
        further: Further checks of a folder that gives the logits of every position: (folder, chunk, texts, work).
    """

    kind: Kind = Kind.MEASURED
    notes: tuple[str, ...] = ()
    batch: int = 1
    open: Callable[[Path, int | None], Variant] = open_as_promised
    logits: Callable[[Variant, Sequence[int]], NDArray[np.float32]] = logits_at_once
    placement: Callable[[Path], Probe] = placed_as_promised
    head_rounding: float | None = None
    below_switch: bool = False
    further: Callable[[Path, int | None, Reference, Path], tuple[Probe, ...]] = nothing_further


# Kernels for one row and for many may multiply in int8 or not: 3.4e-3 was seen on software Vulkan.
INT8_ROUNDING_FRACTION = 1e-2
# By the provider's name in genai_config; graphs of the others may be of fixed shape and take one question at a time.
WAYS: dict[str, Way] = {
    "cpu": Way(batch=16),
    "webgpu": Way(head_rounding=INT8_ROUNDING_FRACTION, further=prefill_of_adapter),
}


def way_of(provider: str) -> Way:
    """Return the way a variant of this provider is run on the device it was built for."""
    return WAYS.get(provider, Way())


def way_here(provider: str, chunk: int | None = None) -> Way:
    """Return the way a variant of this provider is run on this machine: on a software adapter it is emulated.

    Args:
        provider: Its name in genai_config.
        chunk: Tokens of a prompt that a GPU's provider computes at once, 0 for all; None for what its adapter needs.

    Raises:
        DependencyMissingError: The provider's plugin is not here.
    """
    way = replace(way_of(provider), open=partial(open_as_promised, chunk=chunk), below_switch=bool(chunk))
    if provider != "webgpu":
        return way
    from phiforge.runtime.plugins import WEBGPU, is_software, register_plugin

    if not is_software(register_plugin(WEBGPU)[0]):
        return way
    return replace(way, kind=Kind.EMULATED, notes=(*way.notes, SOFTWARE_NOTE), below_switch=chunk != 0)
