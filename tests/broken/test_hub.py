"""Downloads from the Hub: complete, cut, tampered with, unknown, offline; the Hub is a server on this machine."""

from __future__ import annotations

import shutil
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from broken.checkpoints import make_checkpoint
from broken.fake_hub import COMMIT, FakeHub, serving
from phiforge import cli, errors
from phiforge.checkpoint import hub
from phiforge.checkpoint.family import MODELS
from phiforge.checkpoint.inspect import fingerprint, inspect_checkpoint
from phiforge.verbs.checkpoint import locate
from phiforge.verbs.watch import Stages, Unwatched

ROOT = Path(__file__).parents[2]
MODEL = "someone/small-phi"
SHARD = "model-00001-of-00002.safetensors"


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty home of the Hub's files, no proxy in the way, not offline, no colours, no pause between tries."""
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    for name in ("HF_HUB_CACHE", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(hub, "PAUSE_S", 0.01)
    return tmp_path / "home"


@pytest.fixture
def original(tmp_path: Path) -> Path:
    folder = make_checkpoint(tmp_path / "original", shards=2, hidden_size=128)
    for name in ("modeling_phi3.py", "pytorch_model.bin", "README.md", "training_args.pt"):
        (folder / name).write_text("not to be downloaded", encoding="utf-8")
    return folder


@pytest.fixture
def server(original: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    with serving(MODEL, original) as found:
        monkeypatch.setenv("HF_ENDPOINT", found.address)
        yield found


def fetch(revision: str | None = COMMIT, model: str = MODEL) -> tuple[Path, Stages]:
    stages = Stages(Unwatched())
    return locate(Path(model), revision, stages), stages


def left(home: Path) -> set[str]:
    return {path.name for path in home.rglob("*") if path.is_file() and path.name != ".lock"}


def test_a_checkpoint_is_downloaded_as_it_is(server: FakeHub, original: Path, home: Path) -> None:
    folder, stages = fetch()
    facts = inspect_checkpoint(folder)

    assert (facts.name, folder.is_relative_to(home)) == ("small-phi", True)
    assert fingerprint(folder) == fingerprint(original)
    assert {path.name for path in folder.iterdir()} == {
        "LICENSE",
        "config.json",
        "generation_config.json",
        SHARD,
        "model-00002-of-00002.safetensors",
        "model.safetensors.index.json",
        "tokenizer.json",
        "tokenizer_config.json",
    }
    assert left(home) == {path.name for path in folder.iterdir()} | {hub.RECORD_FILE}
    assert [(record.stage, record.reused) for record in stages.records] == [("download", False)]
    assert not any(request.path.endswith((".py", ".bin", ".pt", ".md")) for request in server.requests)


def test_what_is_complete_needs_no_network(server: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, _ = fetch()
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    again, stages = fetch()

    assert again == folder
    assert [record.reused for record in stages.records] == [True]


def test_what_was_lost_is_downloaded_alone(server: FakeHub) -> None:
    folder, _ = fetch()
    (folder / "config.json").unlink()
    server.requests.clear()

    assert fetch()[0] == folder
    assert len(server.requests) == 3
    assert server.asked_for("config.json") == [None, None]  # the address, and the content it leads to


@pytest.mark.parametrize("times", [1, 5])
def test_a_broken_connection_goes_on_where_it_was(times: int, server: FakeHub, original: Path) -> None:
    server.cut_after, server.cut_times = {SHARD: 1000}, times
    folder, _ = fetch()

    assert fingerprint(folder) == fingerprint(original)
    assert server.asked_for(SHARD)[::2] == [None, *(f"bytes={1000 * time}-" for time in range(1, times + 1))]


def test_a_download_cut_half_way_goes_on_in_the_next_run(server: FakeHub, original: Path, home: Path) -> None:
    server.cut_after, server.cut_times, server.dies = {SHARD: 4321}, 1, True
    with pytest.raises(errors.NetworkError, match=rf"was cut in {SHARD}, after 4,321 of") as caught:
        fetch()
    assert "goes on where it was" in caught.value.fix
    assert SHARD not in {path.name for path in hub.checkpoint_folder(MODEL, COMMIT).iterdir()}
    assert (hub.checkpoint_folder(MODEL, COMMIT).parent / "parts" / SHARD).stat().st_size == 4321

    server.dead = False
    server.requests.clear()
    folder, _ = fetch()
    assert server.asked_for(SHARD) == ["bytes=4321-", "bytes=4321-"]  # its address, and the content it leads to
    assert server.asked_for("config.json") == []
    assert fingerprint(folder) == fingerprint(original)


def test_a_server_without_ranges_sends_all_of_it_again(server: FakeHub, original: Path) -> None:
    server.ranges, server.cut_after, server.cut_times = False, {SHARD: 1000}, 1

    assert fingerprint(fetch()[0]) == fingerprint(original)


def test_a_cut_that_looks_like_the_end_is_none(server: FakeHub, original: Path) -> None:
    server.sized, server.cut_after, server.cut_times = False, {SHARD: 1000}, 2

    assert fingerprint(fetch()[0]) == fingerprint(original)


def test_a_server_that_never_sends_the_rest_is_given_up(server: FakeHub) -> None:
    server.sized, server.ranges, server.cut_after, server.cut_times = False, False, {SHARD: 1000}, 1_000_000

    with pytest.raises(errors.NetworkError, match="after 1,000 of") as caught:
        fetch()
    assert caught.value.why == "The connection ends there each time."


@pytest.mark.parametrize("name", [SHARD, "config.json"])
def test_a_wrong_hash_is_refused_and_the_file_removed(name: str, server: FakeHub, home: Path) -> None:
    wrong = bytearray(server.files[name])
    wrong[-20] ^= 1
    server.stated = {name: bytes(wrong)}

    with pytest.raises(errors.DownloadCorruptError, match=rf"{name} of {MODEL}.* was removed"):
        fetch()
    assert name not in left(home)

    server.stated = {}
    assert inspect_checkpoint(fetch()[0]).tensors


def test_no_more_is_taken_than_the_hub_states(server: FakeHub) -> None:
    server.stated = {"LICENSE": server.files["LICENSE"][:-8]}

    assert (fetch()[0] / "LICENSE").read_bytes() == server.files["LICENSE"][:-8]


def test_without_network_it_says_so_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{closed.getsockname()[1]}")
        monkeypatch.setattr(time, "sleep", lambda seconds: pytest.fail(f"it waits for {seconds} s"))
        with pytest.raises(errors.NetworkError) as caught:
            fetch(revision=None, model="microsoft/phi-4")

    for part in (caught.value.what, caught.value.why, caught.value.fix):
        assert part.endswith(".")
        assert "\n" not in part
    assert "microsoft/phi-4" in caught.value.what


@pytest.mark.parametrize("status", [500, 503, 429])
def test_a_hub_that_is_ill_is_no_network(status: int, server: FakeHub) -> None:
    server.status = status

    with pytest.raises(errors.NetworkError, match=f"status {status}"):
        fetch()


@pytest.mark.parametrize("answer", [b"<html>Please log in to the network of this hotel.", b"[]", b"7"])
def test_what_is_not_the_hub_is_no_network(answer: bytes, server: FakeHub) -> None:
    server.answer = answer

    with pytest.raises(errors.NetworkError, match="what answers there is not the Hub"):
        fetch()


@pytest.mark.parametrize("model", ["someone/other", "microsoft/phi-5"])
def test_an_unknown_model(model: str, server: FakeHub) -> None:
    with pytest.raises(errors.HubModelUnknownError, match=f"no folder {model}, and the Hub"):
        fetch(model=model)


@pytest.mark.parametrize("status", [401, 403])
def test_a_model_that_is_not_for_everybody(status: int, server: FakeHub) -> None:
    server.status = status

    with pytest.raises(errors.HubModelUnknownError, match=MODEL):
        fetch()


def test_a_commit_that_does_not_exist(server: FakeHub) -> None:
    with pytest.raises(errors.RevisionInvalidError, match=r"small-phi has no commit f{40}"):
        fetch(revision="f" * 40)


def test_a_model_of_which_no_commit_is_pinned(server: FakeHub) -> None:
    with pytest.raises(errors.RevisionInvalidError, match=f"No commit of {MODEL} is pinned") as caught:
        fetch(revision=None)
    assert COMMIT in caught.value.fix


@pytest.mark.parametrize("revision", ["main", COMMIT[:12], COMMIT.upper()])
def test_what_is_no_commit_is_refused_also_without_network(revision: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")

    with pytest.raises(errors.RevisionInvalidError, match=f"'{revision}' is no commit") as caught:
        fetch(revision=revision, model="microsoft/phi-4")
    assert "Files and versions" in caught.value.fix


def test_known_models_are_asked_for_by_their_pinned_commit(server: FakeHub) -> None:
    with pytest.raises(errors.HubModelUnknownError):
        fetch(revision=None, model="Microsoft/PHI-4")

    assert server.requests[0].path == f"/api/models/microsoft/phi-4/revision/{MODELS['phi-4'].revision}"


def test_pickles_are_not_downloaded(server: FakeHub) -> None:
    server.files = {name: content for name, content in server.files.items() if not name.endswith(".safetensors")}

    with pytest.raises(errors.PickleWeightsError, match="has no safetensors"):
        fetch()
    assert len(server.requests) == 1


def test_names_that_lead_elsewhere_are_not_downloaded(server: FakeHub, home: Path) -> None:
    server.files |= dict.fromkeys(("../up.json", "onnx/model.json", ".hidden.json", "a\\b.json", "/etc/x.json"), b"{}")
    folder, _ = fetch()

    assert {path.name for path in folder.iterdir()} <= {
        name for name in server.files if "/" not in name and "\\" not in name and not name.startswith(".")
    }
    assert not any("up.json" in name or "hidden" in name for name in left(home))


def test_a_full_disk_is_told_before_the_download(server: FakeHub, monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
    real = shutil.disk_usage(home.parent)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: real._replace(free=1000))

    with pytest.raises(errors.DiskFullError, match=f"The download of {MODEL} needs"):
        fetch()
    assert len(server.requests) == 1


def test_what_the_hubs_own_cache_has_is_linked(server: FakeHub, home: Path) -> None:
    cache = home / "hub" / "models--someone--small-phi"
    snapshot = cache / "snapshots" / COMMIT
    snapshot.mkdir(parents=True)
    (cache / "blobs").mkdir()
    (cache / "blobs" / "b").write_bytes(server.files[SHARD])
    (snapshot / SHARD).symlink_to("../../blobs/b")
    (snapshot / "config.json").write_text("{} changed", encoding="utf-8")
    folder, _ = fetch()

    assert server.asked_for(SHARD) == []
    assert (folder / SHARD).samefile(cache / "blobs" / "b")
    assert server.asked_for("config.json")
    assert inspect_checkpoint(folder).tensors


def test_two_downloads_at_once(server: FakeHub) -> None:
    folder = hub.checkpoint_folder(MODEL, COMMIT)
    folder.mkdir(parents=True)
    with hub._locked(folder.parent), pytest.raises(errors.OutputLockedError, match="Another process downloads"):
        fetch()


def test_a_revision_of_a_folder_is_refused(original: Path) -> None:
    with pytest.raises(errors.RevisionInvalidError, match="is a folder"):
        locate(original, COMMIT, Stages(Unwatched()))


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("microsoft/Phi-4-mini-instruct", "microsoft/Phi-4-mini-instruct"),
        ("microsoft/phi-4-MINI-instruct", "microsoft/Phi-4-mini-instruct"),
        ("someone/other", "someone/other"),
        ("here/other", None),
        ("here/microsoft/phi-4", None),
        ("phi-4", None),
        ("/someone/other", None),
        ("../someone", None),
        ("someone/ü", None),
    ],
)
def test_what_is_a_hub_id(text: str, meant: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here").mkdir()
    (tmp_path / "microsoft").mkdir()

    assert hub.hub_id_of(Path(text)) == meant
    (tmp_path / "microsoft" / "Phi-4-mini-instruct").mkdir()
    assert hub.hub_id_of(Path("microsoft/Phi-4-mini-instruct")) is None


def typed(monkeypatch: pytest.MonkeyPatch, *words: object) -> int:
    """Type a command; returns its exit code."""
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(sys, "argv", ["phiforge", *map(str, words)])
    with pytest.raises(SystemExit) as caught:
        cli.main()
    assert isinstance(caught.value.code, int)
    return caught.value.code


def test_the_commands_take_a_hub_id(
    server: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    named = (MODEL, "--revision", COMMIT)
    assert typed(monkeypatch, "build", *named, "--target", "cpu-x64", "--dry-run", "-o", tmp_path / "out") == 0
    said = capfd.readouterr()
    assert "small-phi (phi3," in said.err
    assert "download" in said.err

    assert typed(monkeypatch, "inspect", *named) == 0
    assert "checkpoint small-phi: sound" in capfd.readouterr().out


def test_without_network_a_command_says_it_in_one_line(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    code = typed(monkeypatch, "build", "microsoft/Phi-4-mini-instruct", "--target", "cpu-x64", "-o", tmp_path / "out")
    lines = [line for line in capfd.readouterr().err.splitlines() if line.strip()]

    assert code == errors.NetworkError.exit_code
    assert [line.split(":")[0].strip() for line in lines] == [f"Error {code}", "Why", "Do", "Read"]
    assert "cannot be reached" in lines[0]
