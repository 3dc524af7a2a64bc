"""A first release takes no other's place, and an unsigned one never that of a signed one; a repeat always may."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from phiforge import errors
from phiforge.hashing import hash_files
from phiforge.release.signing import Signer
from phiforge.verbs import release as release_verb
from phiforge.verbs.release import ReleaseOptions, ReleasePlan, release
from unit.release.conftest import KeyPair
from unit.release.packages import Made, make_package

FORMS = ("folder", "hf", "oci", "foundry")


@pytest.fixture(autouse=True)
def willing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(release_verb, "_refusing", lambda checked, profile: [])
    monkeypatch.setattr("phiforge.release.destinations.foundry.chat_pieces", lambda folder: make_pieces())


def make_pieces() -> Any:
    from phiforge.release.destinations.chat_pieces import ChatPieces

    return ChatPieces(system="s", user="u", assistant="a", prompt="p")


def released(
    package: Path,
    place: str,
    keys: KeyPair | None,
    meanwhile: Callable[[ReleasePlan], None] = lambda plan: None,
    **options: Any,
) -> None:
    signer = Signer(form="key", key=keys.private) if keys else Signer(form="none")
    given = {"first": "against" not in options, **options}
    release(package, ReleaseOptions(destinations=(place,), signer=signer, **given), on_plan=meanwhile)


@pytest.mark.parametrize("dry_run", [False, True])
@pytest.mark.parametrize("form", FORMS)
def test_a_first_release_is_no_second_one(tmp_path: Path, keys: KeyPair, form: str, dry_run: bool) -> None:
    old, new = make_package(tmp_path / "old"), make_package(tmp_path / "new", Made(weights=b"other"))
    place = f"{form}:{tmp_path / 'out'}"
    released(old, place, keys, version="1.0")
    before = hash_files(tmp_path / "out")
    with pytest.raises(errors.PreviousReleaseError) as caught:
        released(new, place, keys, version="1.0", dry_run=dry_run)
    assert caught.value.why == "There is nano 1.0, and it has other files, other evidence or another version."
    assert "--against" in caught.value.fix
    assert hash_files(tmp_path / "out") == before
    released(old, place, keys, version="1.0", dry_run=dry_run)
    with pytest.raises(errors.PreviousReleaseError):
        released(old, place, keys, version="1.1", dry_run=dry_run)
    released(new, place, keys, against=old, dry_run=dry_run)


def test_evidence_that_failed_does_not_vanish_by_a_first_release(tmp_path: Path, keys: KeyPair) -> None:
    package = make_package(tmp_path / "old")
    drift = json.loads((package / "evidence/cpu-int4/drift.json").read_text(encoding="utf-8"))
    brought = tmp_path / "drift-second.json"
    brought.write_text(json.dumps(drift | {"top_k": drift["top_k"] + 1}), encoding="utf-8")
    place = str(tmp_path / "out")
    released(package, place, keys, evidence=(brought,))
    released(package, place, keys, evidence=(brought,))
    with pytest.raises(errors.PreviousReleaseError, match="is not the first one"):
        released(package, place, keys)


def test_other_tags_of_a_layout_count_too(tmp_path: Path, keys: KeyPair) -> None:
    old, new = make_package(tmp_path / "old"), make_package(tmp_path / "new", Made(weights=b"other"))
    place = f"oci:{tmp_path / 'out'}"
    released(old, f"{place}:1.0", keys)
    with pytest.raises(errors.PreviousReleaseError, match="is not the first one"):
        released(new, f"{place}:2.0", keys)
    released(new, f"{place}:2.0", keys, against=old)
    with pytest.raises(errors.PreviousReleaseError, match="is not the first one"):
        released(new, f"{place}:2.0", keys)
    with pytest.raises(errors.DestinationError, match="An unsigned release cannot go"):
        released(new, f"{place}:3.0", None, against=old)
    released(old, f"oci:{tmp_path / 'two'}:1.0", keys)
    released(old, f"oci:{tmp_path / 'two'}:stable", keys)


@pytest.mark.parametrize("dry_run", [False, True])
@pytest.mark.parametrize("form", FORMS)
def test_an_unsigned_release_takes_no_signed_one_s_place(
    tmp_path: Path, keys: KeyPair, form: str, dry_run: bool
) -> None:
    package, place = make_package(tmp_path / "p"), f"{form}:{tmp_path / 'out'}"
    released(package, place, keys)
    for options in ({"first": True}, {"against": package}):
        with pytest.raises(errors.DestinationError) as caught:
            released(package, place, None, dry_run=dry_run, **options)
        assert "which is signed" in caught.value.why
        assert "--key" in caught.value.fix
    assert (tmp_path / "out").is_dir()


def test_a_signed_release_takes_an_unsigned_one_s_place(tmp_path: Path, keys: KeyPair) -> None:
    package, place = make_package(tmp_path / "p"), str(tmp_path / "out")
    released(package, place, None)
    released(package, place, None)
    released(package, place, keys)
    assert (tmp_path / "out" / "signature.json").is_file()


@pytest.mark.parametrize("dry_run", [False, True])
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    ("what", "why"),
    [
        ("a signed release", "it has other files, other evidence or another version"),
        ("a note", "what is there is no release"),
        ("a signed release and a note", "notes.txt"),
    ],
)
def test_what_came_there_while_the_release_was_made_is_not_replaced(
    tmp_path: Path, keys: KeyPair, what: str, why: str, form: str, dry_run: bool
) -> None:
    old, new = make_package(tmp_path / "old"), make_package(tmp_path / "new", Made(weights=b"other"))
    place, out = f"{form}:{tmp_path / 'out'}", tmp_path / "out"
    there: dict[str, str] = {}

    def come(plan: ReleasePlan) -> None:
        if "release" in what:
            released(old, place, keys, version="1.0")
        if "note" in what:
            out.mkdir(exist_ok=True)
            (out / "notes.txt").write_text("mine", encoding="utf-8")
        there.update(hash_files(out))

    with pytest.raises((errors.DestinationError, errors.PreviousReleaseError)) as caught:
        released(new, place, None, come, version="2.0", dry_run=dry_run)
    assert why in caught.value.why
    assert there
    assert hash_files(out) == there
    assert not [path.name for path in tmp_path.iterdir() if path.name.startswith(".")]


@pytest.mark.parametrize("form", FORMS)
def test_what_a_release_replaced_is_listed_as_it_was_then(tmp_path: Path, form: str) -> None:
    package, place = make_package(tmp_path / "p"), f"{form}:{tmp_path / 'out'}"
    options = ReleaseOptions(destinations=(place,), first=True)
    found = release(package, options, on_plan=lambda plan: released(package, place, None))
    assert {file.action for file in found.published[0].files} == {"keep"}


def test_a_destination_inside_a_previous_layout_is_refused_however_that_is_written(
    tmp_path: Path, keys: KeyPair
) -> None:
    package, layout = make_package(tmp_path / "p"), tmp_path / "layout"
    released(package, f"oci:{layout}:1.0", keys)
    before = hash_files(layout)
    for against in (layout, Path(f"oci:{layout}"), Path(f"oci:{layout}:1.0")):
        with pytest.raises(errors.DestinationError) as caught:
            released(package, str(layout / "inside"), keys, against=against)
        assert caught.value.why == f"It is inside of {layout}, which the release is made from."
    assert hash_files(layout) == before
    released(package, f"oci:{layout}:2.0", keys, against=Path(f"oci:{layout}:1.0"))
