"""Conform: say before a build whether a device's provider has a kernel for every node of the graph."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from phiforge import catalog
from phiforge.olive.planned import PlannedGraph
from phiforge.pipeline import EXPORT_PASS, ExportOptions
from phiforge.plan import resolve
from phiforge.verbs.checkpoint import locate
from phiforge.verbs.resolving import resolve_names
from phiforge.verbs.validate_gpu import GPU_TABLES, table_of
from phiforge.verbs.watch import Stages, Unwatched

if TYPE_CHECKING:
    from collections.abc import Sequence

    from phiforge.graph.conformance import Conformance
    from phiforge.olive.driver import OliveWorker
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
    # Imported here: the builder takes seconds to load.
    from phiforge.olive.weightless import check_planned_graph

    found = []
    for variant in plan.variants:
        if variant.provider in GPU_TABLES:
            told = check_planned_graph(_planned(variant, folder, table_of(variant.provider, root)))
            found.append(Conformed(variant=variant.name, provider=variant.provider, found=told))
    return found


def check_planned(
    variants: Sequence[VariantPlan], checkpoint: Path, project: Path, worker: OliveWorker, work: Path
) -> None:
    """Refuse variants for a GPU whose provider would leave nodes to the CPU, before anything is built.

    Args:
        variants: Those that are to be built.
        checkpoint: The original.
        project: Where the providers' tables are.
        worker: The process that builds them afterwards, so that torch and the builder are imported once.
        work: A folder for its log.

    Raises:
        ConformanceError: The provider has no kernel for a node; the message names them.
    """
    for variant in variants:
        if variant.provider in GPU_TABLES:
            worker.conform(_planned(variant, checkpoint, table_of(variant.provider, project)), work)


def _planned(variant: VariantPlan, checkpoint: Path, table: Path) -> PlannedGraph:
    """What the graph of a planned variant for a GPU follows from."""
    (options,) = (item for item in variant.workflow["passes"].values() if item["type"] == EXPORT_PASS)
    return PlannedGraph(
        checkpoint=checkpoint.resolve(),
        tied=variant.tied,
        specs={weight.module: weight.spec for weight in variant.weights},
        options=ExportOptions.model_validate(options),
        table=table.resolve(),
    )
