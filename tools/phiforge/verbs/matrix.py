"""Matrix: the jobs of a release for any CI: build each model, measure it on each device, release it."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Literal

from pydantic import BaseModel, ConfigDict

from phiforge import catalog, errors
from phiforge.checkpoint import hub
from phiforge.providers import measuring_verb
from phiforge.selection import EXTRAS
from phiforge.target import load_profile

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from phiforge.target import Profile

# Names of artifacts and of runners' labels may hold these everywhere.
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}")
# Stands for the model's name in the places of its releases; anything else in braces is a mistake.
MODEL_PLACEHOLDER = "{model}"
_PLACEHOLDER = re.compile(r"\{[^{}]*\}")
SELF_HOSTED, LABEL_PREFIX = "self-hosted", "phiforge-"


class _Job(BaseModel):
    """Base of the jobs: frozen, unknown keys forbidden."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class BuildJob(_Job):
    """Build one package: `phiforge build CHECKPOINT --target ...`, kept under the name `artifact`."""

    model: str
    checkpoint: str
    revision: str
    targets: tuple[str, ...]
    artifact: str


class MeasureJob(_Job):
    """Measure a package on one device: `phiforge VERB PACKAGE --target PROFILE`, on a runner with these labels.

    For an NPU it is `bench`, since its drift cannot be measured there; otherwise `measure`.
    """

    model: str
    profile: str
    verb: Literal["measure", "bench"]
    extra: str
    labels: tuple[str, ...]
    package: str
    artifact: str


class ReleaseJob(_Job):
    """Release a package with the evidence of its devices: the artifacts whose names begin with `evidence`.

    `destination` is where it goes and `previous` where the release before it is, each empty where none was given.
    """

    model: str
    package: str
    evidence: str
    destination: str
    previous: str


class Jobs(_Job):
    """All jobs, by the stage they belong to; each stage needs the one before it."""

    build: tuple[BuildJob, ...]
    measure: tuple[MeasureJob, ...]
    release: tuple[ReleaseJob, ...]


def matrix(
    checkpoints: Sequence[Path],
    *,
    targets: Sequence[str],
    measured: Sequence[str] | None = None,
    destination: str = "",
    previous: str = "",
    project: Path | None = None,
) -> Jobs:
    """Lay out the jobs of a release: models times devices.

    Args:
        checkpoints: Folders or Hub ids; `ID@COMMIT` for a commit that is not pinned.
        targets: Names of device profiles.
        measured: Those of the targets that a runner is there for; by default all.
        destination: Where a model's release goes, with `{model}` for its name.
        previous: Where the release before it is, with `{model}` too.
        project: The project with pipelines/ and targets/.

    Raises:
        ProfileUnknownError: There is no such profile.
        ProfileInvalidError: One breaks its schema.
        CheckpointNotFoundError: A checkpoint is neither a folder nor a Hub id.
        RevisionInvalidError: No commit of a Hub id is known, or a folder is given one.
        ValueError: Two checkpoints have one name, a name cannot be an artifact's, what is to be measured is not built,
            or several models would be released to one place or held against one release.
    """
    root = project or catalog.find_project()
    profiles = {name: load_profile(catalog.profile_path(root, name)) for name in dict.fromkeys(targets)}
    kept = list(profiles) if measured is None else list(dict.fromkeys(measured))
    unknown = [name for name in kept if name not in profiles]
    if unknown:
        raise ValueError(f"{', '.join(unknown)} cannot be measured: it is none of the targets {', '.join(profiles)}.")
    builds = [_build_job(checkpoint, profiles) for checkpoint in checkpoints]
    models = [job.model for job in builds]
    twice = sorted({model for model in models if models.count(model) > 1})
    if twice:
        raise ValueError(f"Two checkpoints are called {', '.join(twice)}; their packages would have one name.")
    places = zip(
        _places("destination", destination, models), _places("previous release", previous, models), strict=True
    )
    return Jobs(
        build=tuple(builds),
        measure=tuple(_measure_job(build, profiles[name]) for build in builds for name in kept),
        release=tuple(_release_job(build, to, against) for build, (to, against) in zip(builds, places, strict=True)),
    )


def _build_job(checkpoint: Path, profiles: dict[str, Profile]) -> BuildJob:
    name, _, revision = checkpoint.as_posix().partition("@")
    given = checkpoint.with_name(checkpoint.name.partition("@")[0]) if revision else checkpoint
    hub_id = hub.hub_id_of(given)
    if hub_id is not None:
        model, source, commit = hub_id.partition("/")[2], hub_id, hub.choose_commit(hub_id, revision or None)
    elif revision:
        raise errors.RevisionInvalidError(
            f"The checkpoint {name} is no model of the Hub, of which {revision} could be a commit.",
            why="ID@COMMIT chooses a commit of a model of the Hub, such as microsoft/Phi-4-mini-instruct.",
            fix="Leave the commit out, or give the id of a model of the Hub.",
        )
    elif not checkpoint.is_dir():
        raise errors.CheckpointNotFoundError(
            f"There is no checkpoint {checkpoint}.",
            why="It is neither a folder here nor the id of a model of the Hub.",
            fix="Give a folder that the CI's checkout has, or an id such as microsoft/Phi-4-mini-instruct.",
        )
    else:
        model, source, commit = checkpoint.resolve().name, checkpoint.as_posix(), ""
    if not _NAME.fullmatch(model):
        raise ValueError(f"{model!r} cannot be the name of an artifact.")
    return BuildJob(
        model=model, checkpoint=source, revision=commit, targets=tuple(profiles), artifact=f"package-{model}"
    )


def _measure_job(build: BuildJob, profile: Profile) -> MeasureJob:
    provider = profile.runtime.provider
    return MeasureJob(
        model=build.model,
        profile=profile.name,
        verb=measuring_verb(provider),
        extra=EXTRAS[provider],
        labels=(SELF_HOSTED, f"{LABEL_PREFIX}{profile.name}"),
        package=build.artifact,
        artifact=f"{_evidence(build.model)}{profile.name}",
    )


def _release_job(build: BuildJob, destination: str, previous: str) -> ReleaseJob:
    return ReleaseJob(
        model=build.model,
        package=build.artifact,
        evidence=_evidence(build.model),
        destination=destination,
        previous=previous,
    )


def _places(what: str, text: str, models: Sequence[str]) -> list[str]:
    """Return the place of each model: the text with the model's name in it."""
    unknown = sorted(set(_PLACEHOLDER.findall(text)) - {MODEL_PLACEHOLDER})
    if unknown:
        raise ValueError(f"The {what} {text} has {', '.join(unknown)}; only {MODEL_PLACEHOLDER} stands for something.")
    if text and len(models) > 1 and MODEL_PLACEHOLDER not in text:
        raise ValueError(
            f"The {what} {text} is one place for {len(models)} models ({', '.join(models)}), and a place holds one: "
            f"write {MODEL_PLACEHOLDER} where the model's name belongs."
        )
    return [text.replace(MODEL_PLACEHOLDER, model) for model in models]


def _evidence(model: str) -> str:
    """What the names of a model's evidence artifacts begin with; two dashes, so that no model's begins another's."""
    return f"evidence-{model}--"
