"""Conform: say before a build whether a device's provider has a kernel for every node of the graph."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from phiforge import catalog
from phiforge.pipeline import EXPORT_PASS, ExportOptions
from phiforge.plan import resolve
from phiforge.verbs.checkpoint import locate
from phiforge.verbs.resolving import resolve_names
from phiforge.verbs.validate_gpu import GPU_TABLES, conform_to
from phiforge.verbs.watch import Stages, Unwatched

if TYPE_CHECKING:
    from collections.abc import Sequence

    import onnx_ir as ir

    from phiforge.checkpoint.config import ModelConfig
    from phiforge.graph.conformance import Conformance
    from phiforge.plan import VariantPlan
    from phiforge.verbs.watch import Watcher


@dataclass(frozen=True, kw_only=True)
class Conformed:
    """What was found of one variant's graph."""

    variant: str
    provider: str
    found: Conformance


def conform(
    checkpoint: Path,
    *,
    targets: Sequence[str],
    pipeline: str | None = None,
    revision: str | None = None,
    project: Path | None = None,
    watcher: Watcher | None = None,
) -> list[Conformed]:
    """Check the graphs that a build would make against what each target's provider has kernels for.

    The graphs are made without weights, which takes seconds for a model of any size.

    Args:
        checkpoint: A Hugging Face folder, or the id of a model of the Hub.
        targets: Names of device profiles of GPUs, or paths of such files.
        pipeline: A pipeline to use instead of the one each profile names.
        revision: The commit of a Hub id; by default the pinned one.
        project: The project whose pipelines and profiles are meant; found from the working folder by default.
        watcher: Told of a download's progress.

    Returns:
        What was found, for each variant for a GPU.

    Raises:
        ConformanceError: A provider would leave nodes to the CPU; the message names them.
    """
    from phiforge.checkpoint.inspect import inspect_checkpoint

    root = project or catalog.find_project()
    folder = locate(checkpoint, revision, Stages(watcher or Unwatched()))
    facts = inspect_checkpoint(folder)
    profiles, pipelines = resolve_names(root, targets, pipeline)
    plan = resolve(facts, "", profiles, pipelines, {})
    found = []
    for variant in plan.variants:
        if variant.provider in GPU_TABLES:
            told = conform_to(planned_graph(variant, folder, facts.config), variant.provider, root)
            found.append(Conformed(variant=variant.name, provider=variant.provider, found=told))
    return found


def check_planned(variants: Sequence[VariantPlan], checkpoint: Path, config: ModelConfig, project: Path) -> None:
    """Refuse variants for a GPU whose provider would leave nodes to the CPU, before anything is built.

    Raises:
        ConformanceError: The provider has no kernel for a node; the message names them.
    """
    for variant in variants:
        if variant.provider in GPU_TABLES:
            conform_to(planned_graph(variant, checkpoint, config), variant.provider, project)


def planned_graph(variant: VariantPlan, checkpoint: Path, config: ModelConfig) -> ir.Model:
    """The graph of a planned variant for a GPU, without weights."""
    # Imported here: the builder takes seconds to load.
    from phiforge.olive.weightless import weightless_graph

    (options,) = (item for item in variant.workflow["passes"].values() if item["type"] == EXPORT_PASS)
    specs = {weight.module: weight.spec for weight in variant.weights}
    exported = replace(config, tied_embeddings=variant.tied)
    return weightless_graph(checkpoint, exported, specs, ExportOptions.model_validate(options))
