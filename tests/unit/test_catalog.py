from __future__ import annotations

from pathlib import Path

import pytest

from phiforge import catalog, errors


@pytest.fixture
def project(tmp_path: Path) -> Path:
    for folder, names in (("pipelines", ("cpu-int4.yaml", "README.md")), ("targets", ("cpu-x64.toml",))):
        (tmp_path / folder).mkdir()
        for name in names:
            (tmp_path / folder / name).write_text("")
    return tmp_path


def test_project_is_found_from_below(project: Path) -> None:
    below = project / "a" / "b"
    below.mkdir(parents=True)
    assert catalog.find_project(below) == project.resolve()


def test_names_are_those_of_data_files(project: Path) -> None:
    assert catalog.pipeline_names(project) == ("cpu-int4",)
    assert catalog.profile_names(project) == ("cpu-x64",)


def test_unknown_profile_names_the_nearest(project: Path) -> None:
    with pytest.raises(errors.ProfileUnknownError, match="Did you mean 'cpu-x64'"):
        catalog.profile_path(project, "cpu-x46")


def test_unknown_pipeline_names_the_nearest(project: Path) -> None:
    with pytest.raises(errors.PipelineUnknownError, match="Did you mean 'cpu-int4'"):
        catalog.pipeline_path(project, "cpu-int8")


def test_a_file_is_taken_as_it_is(project: Path, tmp_path: Path) -> None:
    own = tmp_path / "mine.toml"
    own.write_text("")
    assert catalog.profile_path(project, str(own)) == own
