from __future__ import annotations

import errno
from pathlib import Path

import pytest
from filelock import FileLock

from phiforge import errors
from phiforge.hashing import content_key, hash_files, hash_listing
from phiforge.store import Store, copy_folder, disk_full_guard


def test_stage_appears_only_when_complete(tmp_path: Path) -> None:
    store = Store(tmp_path)
    with store.stage("variant", "abc") as folder:
        (folder / "x").write_text("1")
        assert store.find("variant", "abc") is None
    found = store.find("variant", "abc")
    assert found is not None
    assert (found / "x").read_text() == "1"


@pytest.mark.parametrize("failure", [ValueError, KeyboardInterrupt])
def test_failed_stage_leaves_nothing(tmp_path: Path, failure: type[BaseException]) -> None:
    store = Store(tmp_path)
    with pytest.raises(failure), store.stage("variant", "abc") as folder:
        (folder / "x").write_text("1")
        raise failure
    assert list((tmp_path / "variant").iterdir()) == []


def test_killed_stage_is_cleaned(tmp_path: Path) -> None:
    partial = tmp_path / "variant" / ".abc.partial"
    partial.mkdir(parents=True)
    (partial / "x").write_text("half")
    store = Store(tmp_path)
    store.clean()
    assert not partial.exists()


def test_full_disk_is_an_expected_failure(tmp_path: Path) -> None:
    store = Store(tmp_path)
    with pytest.raises(errors.DiskFullError, match="disk filled up"), store.stage("variant", "abc"):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert store.find("variant", "abc") is None


def test_other_os_errors_stay_themselves(tmp_path: Path) -> None:
    with pytest.raises(PermissionError), Store(tmp_path).stage("variant", "abc"):
        raise PermissionError(errno.EACCES, "no")


def test_lock_keeps_a_second_build_out(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    with store.lock(), pytest.raises(errors.OutputLockedError), Store(tmp_path / "store").lock():
        pass
    with FileLock(tmp_path / "store" / ".lock", timeout=0):
        pass


def test_notes_are_remembered_by_signature(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.remember("checkpoint", ["a", 1], "digest")
    assert store.recall("checkpoint", ["a", 1]) == "digest"
    assert store.recall("checkpoint", ["a", 2]) is None


def test_content_key_ignores_the_order_of_keys() -> None:
    assert content_key({"a": 1, "b": 2}) == content_key({"b": 2, "a": 1})
    assert content_key({"a": 1}) != content_key({"a": 2})


def test_hashes_cover_names_and_contents(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "x").write_text("1")
    first = hash_files(tmp_path)
    assert list(first) == ["sub/x"]
    (tmp_path / "sub" / "x").rename(tmp_path / "sub" / "y")
    assert hash_listing(hash_files(tmp_path)) != hash_listing(first)


def test_a_disk_that_fills_up_while_a_folder_is_copied_is_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a/b").mkdir(parents=True)
    (tmp_path / "a/b/c").write_text("1")
    copy_folder(tmp_path / "a", tmp_path / "new")
    assert hash_files(tmp_path / "new") == hash_files(tmp_path / "a")

    def full(source: Path, target: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("shutil.copy2", full)
    with pytest.raises(errors.DiskFullError), disk_full_guard(tmp_path):
        copy_folder(tmp_path / "a", tmp_path / "other")
