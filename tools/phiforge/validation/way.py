"""How a variant is run for its validation, and what the numbers are then worth: all that differs by provider."""

from __future__ import annotations

from dataclasses import dataclass, replace
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


SOFTWARE_NOTE = "the provider's own kernels on a software adapter: right numbers, no timing"


def open_as_promised(folder: Path, threads: int | None) -> Variant:
    """Open a variant for the provider its own configuration names."""
    from phiforge.runtime.variant import open_variant

    return open_variant(folder, threads=threads)


def logits_at_once(variant: Variant, ids: Sequence[int]) -> NDArray[np.float32]:
    """Return the logits of a text, float32 [n, vocab], computed in one prefill."""
    from phiforge.runtime.logits import logits

    return logits(variant, ids)


def placed_as_promised(folder: Path) -> Probe:
    """Check that every node runs on the provider that the variant's own configuration names."""
    from phiforge.runtime.placement import check_placement
    from phiforge.runtime.variant import provider_of, read_config

    return probe_placement(lambda: check_placement(folder, provider_of(read_config(folder))).total)


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
    """

    kind: Kind = Kind.MEASURED
    notes: tuple[str, ...] = ()
    batch: int = 1
    open: Callable[[Path, int | None], Variant] = open_as_promised
    logits: Callable[[Variant, Sequence[int]], NDArray[np.float32]] = logits_at_once
    placement: Callable[[Path], Probe] = placed_as_promised


# By the provider's name in genai_config; graphs of the others may be of fixed shape and take one question at a time.
WAYS: dict[str, Way] = {"cpu": Way(batch=16)}


def way_of(provider: str) -> Way:
    """Return the way a variant of this provider is run on the device it was built for."""
    return WAYS.get(provider, Way())


def way_here(provider: str) -> Way:
    """Return the way a variant of this provider is run on this machine: on a software adapter it is emulated.

    Raises:
        DependencyMissingError: The provider's plugin is not here.
    """
    way = way_of(provider)
    if provider != "webgpu":
        return way
    from phiforge.runtime.plugins import WEBGPU, is_software, register_plugin

    if not is_software(register_plugin(WEBGPU)[0]):
        return way
    return replace(way, kind=Kind.EMULATED, notes=(*way.notes, SOFTWARE_NOTE))
