"""Destinations: how they are written, what may be there, and that what is there survives every refusal."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from phiforge import errors
from phiforge.hashing import hash_files
from phiforge.release.destinations import Destination, check_destination, disk, open_release, parse_destination, publish
from phiforge.release.destinations.hf_layout import git_attributes
from unit.release.destinations.releases import MODEL, faults, make_release, seal, unchecked

FORMS = ("folder", "hf", "oci", "foundry")


@pytest.fixture
def prepared(tmp_path: Path) -> Path:
    return make_release(tmp_path / "prepared", "2.0")


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Waiting for the disk takes most of the time and shows nothing here."""
    monkeypatch.setattr("os.fsync", lambda descriptor: None)


def published(prepared: Path, form: str, path: Path) -> Path:
    destination = parse_destination(f"{form}:{path}")
    check_destination(destination, MODEL)
    publish(prepared, destination, check=lambda: check_destination(destination, MODEL), seal=seal)
    return path


@pytest.mark.parametrize(
    ("text", "form", "path", "repository", "tag"),
    [
        ("out/release", "folder", "out/release", None, None),
        ("folder:out:1", "folder", "out:1", None, None),
        ("C:\\out", "folder", "C:\\out", None, None),
        ("hf:out", "hf", "out", None, None),
        ("hf:/out", "hf", "/out", None, None),
        ("hf://me/phi-4", "hub", None, "me/phi-4", None),
        ("hf://me/phi-4@next/1", "hub", None, "me/phi-4", "next/1"),
        ("oci:out", "oci", "out", None, None),
        ("oci:out:v1.0", "oci", "out", None, "v1.0"),
        ("oci:C:\\out", "oci", "C:\\out", None, None),
        ("oci:/a:b/c", "oci", "/a:b/c", None, None),
        ("foundry:out", "foundry", "out", None, None),
    ],
)
def test_how_destinations_are_written(
    text: str, form: str, path: str | None, repository: str | None, tag: str | None
) -> None:
    found = parse_destination(text)

    assert (found.form, found.repository, found.tag) == (form, repository, tag)
    assert found.path == (Path(path) if path is not None else None)


@pytest.mark.parametrize(
    "text", ["", "s3://bucket/x", "hf://one", "hf://a/b/c", "hf://a/b@", "oci:", "folder:", "ftp:x"]
)
def test_what_is_no_destination(text: str) -> None:
    with pytest.raises(errors.DestinationError) as caught:
        parse_destination(text)

    assert all(part.endswith(".") for part in (caught.value.what, caught.value.why, caught.value.fix))


@given(
    st.sampled_from(FORMS), st.text("abc/._-", min_size=1), st.none() | st.from_regex(r"[a-z0-9_]{1,8}", fullmatch=True)
)
def test_a_destination_is_read_as_it_is_written(form: str, path: str, tag: str | None) -> None:
    destination = Destination(form=form, path=Path(path), tag=tag if form == "oci" else None)  # type: ignore[arg-type]
    if not str(destination).startswith("hf://"):
        assert parse_destination(str(destination)) == destination


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("start", ["absent", "empty", "a release"])
def test_a_release_goes_where_nothing_or_its_own_is(form: str, start: str, prepared: Path, tmp_path: Path) -> None:
    path = tmp_path / "deep" / "out"
    if start == "empty":
        path.mkdir(parents=True)
    if start == "a release":
        published(make_release(tmp_path / "older", "1.0"), form, path)
    published(prepared, form, path)

    assert [entry.name for entry in path.parent.iterdir()] == ["out"]
    with open_release(path) as folder:
        assert faults(folder) == []
        assert '"version": "2.0"' in (folder / "release.json").read_text(encoding="utf-8")


@pytest.mark.parametrize("form", FORMS)
def test_a_dry_run_says_what_then_happens_and_does_nothing(form: str, prepared: Path, tmp_path: Path) -> None:
    destination = parse_destination(f"{form}:{tmp_path / 'out'}")
    before = hash_files(tmp_path)
    for version in ("1.0", "2.0"):
        check_destination(destination, MODEL, dry_run=True)
        told = publish(prepared, destination, check=unchecked, seal=seal, dry_run=True)
        assert hash_files(tmp_path) == before
        done = publish(prepared, destination, check=unchecked, seal=seal)
        assert told == done
        prepared = make_release(tmp_path / "other", "3.0") if version == "1.0" else prepared
        before = hash_files(tmp_path)
    assert {file.action for file in done.files} >= {"replace", "keep"} if form != "oci" else {"add", "keep"}
    files = hash_files(tmp_path / "out")
    assert {file.name: file.sha256 for file in done.files if file.action != "remove"} == files
    assert all(file.bytes == (tmp_path / "out" / file.name).stat().st_size for file in done.files if file.bytes)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("there", ["a file", "files", "another model", "another form", "a stranger"])
def test_what_is_there_is_never_overwritten(form: str, there: str, prepared: Path, tmp_path: Path) -> None:
    path = tmp_path / "out"
    if there == "a file":
        path.write_text("mine", encoding="utf-8")
    elif there == "files":
        (path / "sub").mkdir(parents=True)
        (path / "sub" / "thesis.txt").write_text("mine", encoding="utf-8")
    elif there == "another model":
        other = make_release(tmp_path / "p", model="phi-4-mini")
        publish(other, parse_destination(f"{form}:{path}"), check=unchecked, seal=seal)
    elif there == "another form":
        published(prepared, "hf" if form == "folder" else "folder", path)
    else:
        published(prepared, form, path)
        (path / "notes.txt").write_text("mine", encoding="utf-8")
    before = hash_files(tmp_path)

    with pytest.raises(errors.DestinationError) as caught:
        check_destination(parse_destination(f"{form}:{path}"), MODEL)
    assert hash_files(tmp_path) == before
    if there == "a stranger":
        assert "notes.txt" in caught.value.why


@pytest.mark.parametrize("form", FORMS)
def test_what_comes_there_while_files_are_written_stays(form: str, prepared: Path, tmp_path: Path) -> None:
    destination, notes = parse_destination(f"{form}:{tmp_path / 'out'}"), tmp_path / "out" / "notes.txt"

    def come(name: str, size: int) -> None:
        notes.parent.mkdir(exist_ok=True)
        notes.write_text("mine", encoding="utf-8")

    with pytest.raises(errors.DestinationError, match="cannot go"):
        publish(prepared, destination, check=lambda: check_destination(destination, MODEL), seal=seal, on_file=come)
    assert hash_files(tmp_path / "out").keys() == {"notes.txt"}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "prepared"]


@pytest.mark.parametrize("dry_run", [False, True])
@pytest.mark.parametrize("form", FORMS)
def test_a_destination_that_cannot_be_written(form: str, dry_run: bool, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine", encoding="utf-8")
    with pytest.raises(errors.OutputUnwritableError) as caught:
        check_destination(parse_destination(f"{form}:{tmp_path / 'file' / 'out'}"), MODEL, dry_run=dry_run)

    assert "what was there is as it was" in caught.value.fix


@pytest.mark.parametrize("dry_run", [False, True])
@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("/", "nothing can stand in the place of the root"),
        ("x" * 256, "File name too long"),
        ("x" * 250, "File name too long"),  # with what the work folder's name has more
        ("nowhere/" + "x" * 250 + "/out", None),
        ("nowhere/" + "x" * 250, "File name too long"),
        ("nowhere/" + "x" * 256 + "/out", "File name too long"),
        ("x/" * 1900 + "out", "File name too long"),  # as soon as the release's own paths are added
        ("a\0b", "null character"),
        ("a\udcffb", "not UTF-8"),
    ],
)
def test_a_name_that_the_file_system_refuses_is_no_destination(
    name: str, said: str | None, dry_run: bool, tmp_path: Path
) -> None:
    def check() -> None:
        check_destination(parse_destination(f"oci:{tmp_path / name}"), MODEL, dry_run=dry_run)

    if said is None:
        check()
        return
    with pytest.raises(errors.DestinationError) as caught:
        check()
    assert said in caught.value.why
    assert not list(tmp_path.iterdir())


def test_a_user_that_there_is_not_is_no_destination() -> None:
    with pytest.raises(errors.DestinationError, match="is no destination"):
        parse_destination("~no-such-user/out")


@pytest.mark.skipif(os.name == "nt", reason="other names are refused there")
def test_a_name_that_can_be_looked_for_and_not_made_is_told_before_any_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path, *arguments: object, **more: object) -> None:
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL), str(path))

    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(errors.OutputUnwritableError) as caught:
        check_destination(parse_destination(f"oci:{tmp_path / 'a:b'}"), MODEL)
    assert caught.value.why == "Invalid argument."


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    ("number", "error"), [(errno.ENOSPC, errors.DiskFullError), (errno.EROFS, errors.OutputUnwritableError)]
)
def test_a_failure_half_way_leaves_what_was_there(
    form: str,
    number: int,
    error: type[errors.PhiforgeError],
    prepared: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = published(make_release(tmp_path / "older", "1.0"), form, tmp_path / "at" / "out")
    before = hash_files(path)
    calls = []

    def failing(descriptor: int) -> None:
        calls.append(descriptor)
        if len(calls) == 3:
            raise OSError(number, "made up")

    with monkeypatch.context() as context:
        context.setattr("os.fsync", failing)
        with pytest.raises(error):
            publish(prepared, parse_destination(f"{form}:{path}"), check=unchecked, seal=seal)
    with open_release(path) as folder:
        assert '"version": "1.0"' in (folder / "release.json").read_text(encoding="utf-8")
    assert before.items() <= hash_files(path).items()
    published(prepared, form, path)
    assert [entry.name for entry in path.parent.iterdir()] == ["out"]


def test_without_an_exchange_the_folders_take_turns(
    prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(disk, "exchange", lambda first, second: False)
    path = published(make_release(tmp_path / "older", "1.0"), "folder", tmp_path / "at" / "out")
    published(prepared, "folder", path)

    assert hash_files(path) == hash_files(prepared)
    assert [entry.name for entry in path.parent.iterdir()] == ["out"]


def test_a_replacement_that_stopped_between_its_two_steps_is_finished(prepared: Path, tmp_path: Path) -> None:
    path = tmp_path / "out"
    work = disk.work_folder(path)
    shutil.copytree(prepared, work / disk.NEW)
    shutil.copytree(make_release(tmp_path / "older", "1.0"), work / disk.OLD)
    (work / disk.JOURNAL).touch()

    with open_release(path) as folder:
        assert hash_files(folder) == hash_files(prepared)
    assert not work.exists()


def test_two_at_once(prepared: Path, tmp_path: Path) -> None:
    path = tmp_path / "out"
    with disk.publishing(path), pytest.raises(errors.OutputLockedError, match="Another process publishes"):
        publish(prepared, parse_destination(str(path)), check=unchecked, seal=seal)

    assert not path.exists()
    assert hash_files(published(prepared, "folder", path)) == hash_files(prepared)


def test_a_link_is_followed_and_stays(prepared: Path, tmp_path: Path) -> None:
    published(make_release(tmp_path / "older", "1.0"), "folder", tmp_path / "real")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    published(prepared, "folder", tmp_path / "link")

    assert (tmp_path / "link").is_symlink()
    assert hash_files(tmp_path / "real") == hash_files(prepared)


@pytest.mark.parametrize("path", ["absent", "prepared/README.md", "prepared/evidence", "hf:absent"])
def test_what_is_no_release(path: str, prepared: Path, tmp_path: Path) -> None:
    with pytest.raises(errors.PreviousReleaseError), open_release(tmp_path / path):
        pass


def test_large_files_of_a_repository(tmp_path: Path) -> None:
    (tmp_path / "a b").mkdir()
    with (tmp_path / "a b" / "tokenizer.json").open("wb") as file:
        file.truncate(11 * 1024 * 1024)
    (tmp_path / "small.json").write_text("{}", encoding="utf-8")

    lines = git_attributes(tmp_path).splitlines()
    assert "*.onnx filter=lfs diff=lfs merge=lfs -text" in lines
    assert "/a[[:space:]]b/tokenizer.json filter=lfs diff=lfs merge=lfs -text" in lines
    assert not any("small" in line for line in lines)
