"""Where a variant's drift comes from: parts of its quantization are switched back one at a time, on its own graphs.

First the kinds (weights, activations, cache), then each layer's weights and activations, then single tensors of the
layers that cost most. What switching a part back saves is what its quantization costs beside all the rest; the savings
need not add up.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from phiforge.activations import EMBEDDING, SITES, SwitchedOff, expected_names, layer_site
from phiforge.validation.staged import StagedSubject, layer_count, score_changed
from phiforge.validation.subset import cut_reference

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from phiforge.decoder.rows import Rows
    from phiforge.validation.drift import Reference

Level = Literal["kind", "layer", "tensor"]

MODULES = ("self_attn.qkv_proj", "self_attn.o_proj", "mlp.gate_up_proj", "mlp.down_proj")
# Keys and values are stored by the cache alone; they are switched with it.
STORED_SITES = tuple(site for site in SITES if site not in {"key", "value"})
# Layers whose tensors are looked at one by one.
DETAILED = 3


@dataclass(frozen=True)
class DriftSource:
    """A part of the quantization, and the mean KL from the reference without it.

    Attributes:
        level: How large the part is.
        name: As "weights", "layer 3 activations", "model.layers.3.mlp.down_proj" or "layers.3.product".
        kl_nats: Mean KL with this part switched back.
        saved_nats: What that saves of the whole drift; below zero where errors had cancelled.
        standard_error: Of `kl_nats`, over blocks of text.
    """

    level: Level
    name: str
    kl_nats: float
    saved_nats: float
    standard_error: float


@dataclass(frozen=True)
class DriftSources:
    """The sources of a variant's drift, the costliest of each level first.

    Attributes:
        positions: Positions that were scored.
        kl_nats: Mean KL of the variant as it is.
        floor_nats: Mean KL with all weights and activations of the layers switched back: embedding, head and cache.
        sources: All that was tried.
    """

    positions: int
    kl_nats: float
    floor_nats: float
    sources: tuple[DriftSource, ...]


@dataclass(frozen=True, kw_only=True)
class _Trial:
    subject: StagedSubject
    reference: Reference
    originals: Rows
    switch: int | None
    cache: Path
    threads: int

    def kl(
        self, activations: frozenset[str], modules: frozenset[str], *, wide_cache: bool = False
    ) -> tuple[float, float]:
        """Mean KL and its standard error with these parts switched back."""
        subject = self.subject
        if wide_cache:
            subject = replace(subject, options=subject.options.model_copy(update={"kv_cache_bits": 16}))
        off = SwitchedOff(activations=activations, modules=modules, originals=self.originals)
        numbers = score_changed(
            subject, self.reference, off, switch=self.switch, cache=self.cache, threads=self.threads
        )
        return numbers.kl_nats.mean, numbers.kl_nats.standard_error


def find_drift_sources(
    subject: StagedSubject,
    reference: Reference,
    originals: Rows,
    *,
    positions: int,
    switch: int | None,
    cache: Path,
    threads: int,
    progress: Callable[[str, int, int], None],
) -> DriftSources:
    """Switch parts of the quantization back, one at a time, and return what each saves.

    Args:
        subject: A built variant for an NPU.
        reference: What the original says of held-out texts.
        originals: The weights before they were rounded.
        positions: Positions to score at each trial.
        switch: The checkpoint's longrope switch.
        cache: Folder for what is made on the way.
        threads: Threads of the runtime.
        progress: Told of each trial.
    """
    some = cut_reference(reference, positions)
    trial = _Trial(
        subject=subject, reference=some, originals=originals, switch=switch, cache=cache, threads=threads
    )  # fmt: skip
    layers = range(layer_count(subject.build))
    everything = frozenset(expected_names(len(layers)))
    modules = frozenset(module for layer in layers for module in _modules(layer))
    whole = trial.kl(frozenset(), frozenset())[0]
    floor = trial.kl(everything, modules)[0]
    kinds: list[_Part] = [("kind", "weights", frozenset(), modules), ("kind", "activations", everything, frozenset())]
    each: list[_Part] = []
    for layer in layers:
        each.append(("layer", f"layer {layer} weights", frozenset(), frozenset(_modules(layer))))
        each.append(("layer", f"layer {layer} activations", frozenset(_sites(layer)), frozenset()))
    found = _try_all(trial, [*kinds, *each], whole, progress, "weights and activations")
    if subject.options.kv_cache_bits == 8:
        kl, error = trial.kl(frozenset(), frozenset(), wide_cache=True)
        found.append(DriftSource("kind", "cache", kl, whole - kl, error))
    ranked = sorted(found[len(kinds) : len(kinds) + len(each)], key=lambda item: -item.saved_nats)[:DETAILED]
    worst = [part for part in each if part[1] in {item.name for item in ranked}]
    single = [one for part in worst for one in _singles(part)]
    single.append(("tensor", EMBEDDING, frozenset({EMBEDDING}), frozenset()))
    found += _try_all(trial, single, whole, progress, "single tensors")
    order = {"kind": 0, "layer": 1, "tensor": 2}
    return DriftSources(
        positions=sum(len(text.tokens) for text in some.texts),
        kl_nats=whole,
        floor_nats=floor,
        sources=tuple(sorted(found, key=lambda item: (order[item.level], -item.saved_nats))),
    )


# Level, name, activations and modules that are switched back.
_Part = tuple[Level, str, frozenset[str], frozenset[str]]


def _try_all(
    trial: _Trial, parts: list[_Part], whole: float, progress: Callable[[str, int, int], None], name: str
) -> list[DriftSource]:
    found = []
    for done, (level, part, activations, modules) in enumerate(parts, start=1):
        kl, error = trial.kl(activations, modules)
        found.append(DriftSource(level, part, kl, whole - kl, error))
        progress(name, done, len(parts))
    return found


def _singles(part: _Part) -> list[_Part]:
    """Each tensor of a layer's weights or activations alone."""
    _, _, activations, modules = part
    return [
        *(("tensor", name, frozenset({name}), frozenset[str]()) for name in sorted(activations)),
        *(("tensor", name, frozenset[str](), frozenset({name})) for name in sorted(modules)),
    ]


def _modules(layer: int) -> list[str]:
    return [f"model.layers.{layer}.{module}" for module in MODULES]


def _sites(layer: int) -> list[str]:
    return [layer_site(layer, site) for site in STORED_SITES]
