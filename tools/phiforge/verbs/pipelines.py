"""Pipelines: the Olive workflows of the project."""

from __future__ import annotations

from typing import TYPE_CHECKING

from phiforge import catalog
from phiforge.pipeline import load_pipeline

if TYPE_CHECKING:
    from pathlib import Path

    from phiforge.pipeline import Pipeline


def pipelines(project: Path | None = None) -> tuple[Pipeline, ...]:
    """Return every pipeline of the project, sorted by name.

    Raises:
        PipelineInvalidError: One of them breaks its schema.
    """
    root = project or catalog.find_project()
    return tuple(load_pipeline(catalog.pipeline_path(root, name)) for name in catalog.pipeline_names(root))
