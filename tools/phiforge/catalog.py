"""Where the project's data files lie: pipelines and device profiles by name, with did-you-mean.

A project is a folder with `pipelines/` and `targets/` in it; `phiforge` looks for it from the working folder upwards,
then beside its own source.
"""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import TYPE_CHECKING

from phiforge import errors

if TYPE_CHECKING:
    from collections.abc import Iterable

PIPELINE_SUFFIXES = (".yaml", ".json")
PROFILE_SUFFIXES = (".toml",)


def find_project(start: Path | None = None) -> Path:
    """Return the project root at or above `start` (default: the working folder).

    Raises:
        ProjectNotFoundError: No folder on the way up holds `pipelines/` and `targets/`.
    """
    here = (start or Path.cwd()).resolve()
    source_root = Path(__file__).resolve().parents[2]
    for folder in (here, *here.parents, source_root):
        if (folder / "pipelines").is_dir() and (folder / "targets").is_dir():
            return folder
    raise errors.ProjectNotFoundError(
        f"No phiforge project was found at or above {here}.",
        why="A project is a folder that holds pipelines/ and targets/.",
        fix="Change into a clone of phiforge, or name one with --project.",
    )


def pipeline_path(project: Path, name: str) -> Path:
    """Return the file of the pipeline called `name`, or `name` itself if it is the path of a file.

    Raises:
        PipelineUnknownError: There is no such pipeline; the message names the nearest.
    """
    path = _find(project / "pipelines", name, PIPELINE_SUFFIXES)
    if path is None:
        raise errors.PipelineUnknownError(
            f"There is no pipeline {name!r}.{_did_you_mean(name, pipeline_names(project))}",
            why=f"pipelines/ has {_listed(pipeline_names(project))}.",
            fix="Run `phiforge pipelines` for the list, or give the path of a pipeline file.",
        )
    return path


def provider_path(project: Path, name: str) -> Path:
    """Return the file that says what a provider has kernels for."""
    return project / "targets" / "providers" / f"{name}.toml"


def profile_path(project: Path, name: str) -> Path:
    """Return the file of the device profile called `name`, or `name` itself if it is the path of a file.

    Raises:
        ProfileUnknownError: There is no such profile; the message names the nearest.
    """
    path = _find(project / "targets", name, PROFILE_SUFFIXES)
    if path is None:
        raise errors.ProfileUnknownError(
            f"There is no device profile {name!r}.{_did_you_mean(name, profile_names(project))}",
            why=f"targets/ has {_listed(profile_names(project))}.",
            fix="Run `phiforge targets` for the list, or give the path of a profile file.",
        )
    return path


def pipeline_names(project: Path) -> tuple[str, ...]:
    """Names of all pipelines of the project, sorted."""
    return _names(project / "pipelines", PIPELINE_SUFFIXES)


def profile_names(project: Path) -> tuple[str, ...]:
    """Names of all device profiles of the project, sorted."""
    return _names(project / "targets", PROFILE_SUFFIXES)


def _names(folder: Path, suffixes: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(sorted(path.stem for path in folder.iterdir() if path.suffix in suffixes))


def _find(folder: Path, name: str, suffixes: tuple[str, ...]) -> Path | None:
    given = Path(name)
    if given.suffix in suffixes and given.is_file():
        return given
    if name not in _names(folder, suffixes):
        return None
    return next(path for suffix in suffixes if (path := folder / f"{name}{suffix}").is_file())


def _did_you_mean(name: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, list(known), n=1, cutoff=0.4)
    return f" Did you mean {near[0]!r}?" if near else ""


def _listed(names: tuple[str, ...]) -> str:
    return ", ".join(names) or "nothing"
