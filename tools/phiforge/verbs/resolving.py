"""From the names of targets to profiles and pipelines."""

from __future__ import annotations

from typing import TYPE_CHECKING

from phiforge import catalog
from phiforge.pipeline import load_pipeline
from phiforge.target import load_profile

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from phiforge.pipeline import Pipeline
    from phiforge.target import Profile


def resolve_names(
    project: Path, targets: Sequence[str], pipeline: str | None
) -> tuple[list[Profile], dict[str, Pipeline]]:
    """Load the profiles and their pipelines; afterwards a profile names its pipeline without any path.

    Args:
        project: The project they are looked for in.
        targets: Names of profiles, or paths of such files.
        pipeline: A pipeline to use instead of the one each profile names.

    Raises:
        ProfileUnknownError: There is no such profile.
        ProfileInvalidError: It breaks the schema.
        PipelineUnknownError: There is no such pipeline.
        PipelineInvalidError: It breaks the schema.
    """
    profiles, pipelines = [], {}
    for target in targets:
        profile = load_profile(catalog.profile_path(project, target))
        loaded = load_pipeline(catalog.pipeline_path(project, pipeline or profile.build.pipeline))
        pipelines[loaded.name] = loaded
        build = profile.build.model_copy(update={"pipeline": loaded.name})
        profiles.append(profile.model_copy(update={"build": build}))
    return profiles, pipelines
