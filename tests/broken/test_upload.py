"""Sending a release to the Hub: one commit or nothing, and what is told when it does not work."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from broken.fake_upload_hub import TOKEN, UploadHub, serving_uploads
from phiforge import errors
from phiforge.hashing import hash_files
from phiforge.release.destinations import Published, check_destination, open_release, parse_destination, publish
from unit.release.destinations.releases import MODEL, make_release, seal, unchecked

REPOSITORY = "someone/phi-4-nano"
DESTINATION = parse_destination(f"hf://{REPOSITORY}")
LARGE = 4  # files of a made-up release that the Hub keeps in Git LFS


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty home of the Hub's files, a token, no proxy in the way, not offline, no pause, Git LFS without Xet."""
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "home" / "token"))
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda seconds: None)
    monkeypatch.setattr("huggingface_hub._commit_api.is_xet_available", lambda: False)
    monkeypatch.setattr("os.fsync", lambda descriptor: None)


@pytest.fixture
def prepared(tmp_path: Path) -> Path:
    return make_release(tmp_path / "prepared", "1.0")


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[UploadHub]:
    with serving_uploads(REPOSITORY) as found:
        monkeypatch.setenv("HF_ENDPOINT", found.address)
        yield found


def send(prepared: Path) -> tuple[Published, list[str]]:
    told: list[str] = []

    def check() -> None:
        check_destination(DESTINATION, MODEL)

    check()
    return publish(prepared, DESTINATION, check=check, seal=seal, on_file=lambda name, size: told.append(name)), told


def write(hub: UploadHub, folder: Path) -> Path:
    for name, content in hub.files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def test_a_release_is_one_commit(hub: UploadHub, prepared: Path, tmp_path: Path) -> None:
    published, told = send(prepared)

    assert len(hub.commits) == 2
    publish(prepared, parse_destination(f"hf:{tmp_path / 'disk'}"), check=unchecked, seal=seal)
    assert hash_files(write(hub, tmp_path / "clone")) == hash_files(tmp_path / "disk")
    with open_release(tmp_path / "clone") as folder:
        assert folder == tmp_path / "clone"
    (there,) = check_destination(DESTINATION, MODEL)
    assert (there.model, there.version) == (MODEL, "1.0")
    assert {file.name for file in published.files if file.lfs} == {n for n in hub.files if ".onnx" in n}
    assert sorted(told) == sorted(hub.files)
    assert {file.action for file in published.files} == {"add"}
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".phiforge")] == []
    assert published.location == f"hf://{REPOSITORY} at {hub.head()}"


def test_the_next_release_replaces_it_whole(hub: UploadHub, prepared: Path, tmp_path: Path) -> None:
    (prepared / "evidence" / "gone.json").write_text("{}", encoding="utf-8")
    seal(prepared)
    send(prepared)
    hub.sent.clear()
    published, _ = send(make_release(tmp_path / "next", "2.0"))

    actions = {file.name: file.action for file in published.files}
    assert (actions["evidence/gone.json"], actions["README.md"], actions["report.html"]) == (
        "remove",
        "replace",
        "keep",
    )
    assert "evidence/gone.json" not in hub.files
    assert len(hub.sent) == LARGE


def test_a_dry_run_needs_neither_network_nor_token(
    prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr(socket.socket, "connect", lambda *args: pytest.fail("a dry run opens a connection"))
    check_destination(DESTINATION, MODEL, dry_run=True)
    told = publish(prepared, DESTINATION, check=unchecked, seal=seal, dry_run=True)

    publish(prepared, parse_destination(f"hf:{tmp_path / 'disk'}"), check=unchecked, seal=seal)
    assert {file.name: file.sha256 for file in told.files} == hash_files(tmp_path / "disk")
    assert {file.name: file.bytes for file in told.files} == {
        path.relative_to(tmp_path / "disk").as_posix(): path.stat().st_size
        for path in (tmp_path / "disk").rglob("*")
        if path.is_file()
    }
    assert sum(file.lfs for file in told.files) == LARGE


@pytest.mark.parametrize("number", range(LARGE))
def test_a_cut_half_way_publishes_nothing_and_the_next_run_goes_on(
    number: int, hub: UploadHub, prepared: Path, tmp_path: Path
) -> None:
    send(make_release(tmp_path / "older", "0.9"))
    before = dict(hub.files)
    hub.sent.clear()
    hub.cut_at = number
    with pytest.raises(errors.NetworkError, match="The connection to the Hub failed") as caught:
        send(prepared)
    assert "not sent twice" in caught.value.fix
    assert (hub.files, len(hub.sent)) == (before, number)

    hub.dead, hub.cut_at = False, None
    send(prepared)
    assert len(hub.sent) == len(set(hub.sent)) == LARGE
    assert len(hub.commits) == 3


def test_xet_that_fails_is_told_as_well(hub: UploadHub, prepared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """hf_xet, which sends large files where it is installed, raises the system's ConnectionError."""
    monkeypatch.setattr("huggingface_hub._commit_api.is_xet_available", lambda: True)
    with pytest.raises(errors.NetworkError, match="The connection to the Hub failed"):
        send(prepared)
    assert hub.files == {}


@pytest.mark.parametrize("commits_first", [False, True])
def test_a_cut_at_the_commit(commits_first: bool, hub: UploadHub, prepared: Path, tmp_path: Path) -> None:
    hub.cut_commit, hub.commits_first = True, commits_first
    with pytest.raises(errors.NetworkError):
        send(prepared)
    assert len(hub.commits) == (2 if commits_first else 1)

    hub.dead, hub.cut_commit = False, False
    send(prepared)
    assert (len(hub.sent), len(hub.commits)) == (LARGE, 2)


def test_somebody_else_publishes_meanwhile(hub: UploadHub, prepared: Path) -> None:
    hub.other_commit = True
    with pytest.raises(errors.DestinationError) as caught:
        send(prepared)

    assert "Somebody else" in caught.value.why
    assert set(hub.files) == {"other.txt"}


def test_what_came_there_since_it_was_checked_is_not_replaced(hub: UploadHub, prepared: Path) -> None:
    check_destination(DESTINATION, MODEL)
    hub.commits.append({"thesis.txt": b"mine"})
    with pytest.raises(errors.DestinationError, match="cannot go") as caught:
        publish(prepared, DESTINATION, check=lambda: check_destination(DESTINATION, MODEL), seal=seal)

    assert "no release" in caught.value.why
    assert (hub.files, hub.sent) == ({"thesis.txt": b"mine"}, [])


def test_what_comes_with_the_check_is_not_replaced(hub: UploadHub, prepared: Path) -> None:
    """The commit that is replaced is known before the check, so that one between them is noticed."""
    with pytest.raises(errors.DestinationError) as caught:
        publish(prepared, DESTINATION, check=lambda: hub.commits.append({"thesis.txt": b"mine"}), seal=seal)

    assert "Somebody else" in caught.value.why
    assert hub.files == {"thesis.txt": b"mine"}


@pytest.mark.parametrize(
    ("there", "why"),
    [
        ({"thesis.txt": b"mine"}, "no release"),
        ({"release.json": b'{"name": "phi-4-mini"}'}, "phi-4-mini"),
        ({"release.json": b"[]"}, "something else"),
        ({".gitignore": b"*.onnx"}, ".gitignore"),
    ],
)
def test_a_repository_with_something_else(there: dict[str, bytes], why: str, hub: UploadHub, prepared: Path) -> None:
    hub.commits.append(there)
    with pytest.raises(errors.DestinationError) as caught:
        send(prepared)

    assert why in caught.value.why
    assert hub.files == there
    assert not any(request.startswith(("POST", "PUT")) for request in hub.requests)


def test_a_new_repository_of_the_hub(hub: UploadHub, prepared: Path) -> None:
    hub.commits.append({".gitattributes": b"*.bin filter=lfs", "README.md": b"---\nlicense: mit\n---\n"})
    send(prepared)

    assert b"*.onnx filter=lfs" in hub.files[".gitattributes"]


def test_without_a_token(hub: UploadHub, prepared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(errors.DestinationError, match="without a token") as caught:
        send(prepared)

    assert "HF_TOKEN" in caught.value.fix
    assert hub.requests == []


@pytest.mark.parametrize("token", ["hf_other", "hf_other\n"])
def test_a_token_that_may_not_write_is_told_and_not_shown(
    token: str, hub: UploadHub, prepared: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", token)
    with pytest.raises(errors.DestinationError) as caught:
        send(prepared)

    said = caught.value.what + caught.value.why + caught.value.fix
    assert "may not write" in said
    assert "hf_other" not in said


@pytest.mark.parametrize(("status", "error"), [(403, errors.DestinationError), (500, errors.NetworkError)])
def test_a_hub_that_refuses(status: int, error: type[errors.PhiforgeError], hub: UploadHub, prepared: Path) -> None:
    hub.status = status
    with pytest.raises(error, match="hf://someone") as caught:
        send(prepared)

    assert str(status) in caught.value.why
    assert hub.files == {}


@pytest.mark.parametrize("text", ["hf://someone/other", f"hf://{REPOSITORY}@absent"])
def test_a_repository_or_branch_that_is_not_there(text: str, hub: UploadHub, prepared: Path) -> None:
    with pytest.raises(errors.DestinationError, match="no repository or branch") as caught:
        check_destination(parse_destination(text), MODEL)
    assert "hf repo create someone" in caught.value.fix


def test_a_card_that_the_hub_does_not_take(hub: UploadHub, prepared: Path) -> None:
    hub.yaml_error = "license is unknown"
    with pytest.raises(errors.DestinationError, match="does not take") as caught:
        send(prepared)

    assert "license is unknown" in caught.value.why
    assert "\n" not in caught.value.why


def test_a_file_that_the_hub_leaves_out_is_noticed(hub: UploadHub, prepared: Path) -> None:
    hub.ignored = ("report.html",)
    with pytest.raises(errors.DestinationError, match="is not the release") as caught:
        send(prepared)
    assert "report.html" in caught.value.why


def test_no_network(prepared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(errors.NetworkError) as caught:
        send(prepared)

    for part in (caught.value.what, caught.value.why, caught.value.fix):
        assert part.endswith(".")
        assert "\n" not in part
