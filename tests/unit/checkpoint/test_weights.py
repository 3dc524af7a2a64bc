"""Weights: rows come out as they were stored, from one file or several, and in any number of threads."""

from __future__ import annotations

import json
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

from broken.checkpoints import make_checkpoint
from phiforge import errors
from phiforge.checkpoint.weights import open_weights

EMBEDDING = "model.embed_tokens.weight"


@pytest.mark.parametrize("dtype", [ml_dtypes.bfloat16, np.float16, np.float32])
def test_rows_are_exact(dtype: type[np.generic], tmp_path: Path) -> None:
    stored = np.random.default_rng(0).standard_normal((40, 16)).astype(dtype)
    save_file({"matrix": stored, "vector": stored[0].copy()}, tmp_path / "model.safetensors")
    weights = open_weights(tmp_path)

    assert weights.info("matrix").dtype == np.dtype(dtype).name
    for start, stop in ((0, 40), (3, 4), (39, 40), (7, 7)):
        rows = weights.read_rows("matrix", start, stop)
        assert rows.dtype == np.float32
        np.testing.assert_array_equal(rows, stored[start:stop].astype(np.float32))
    np.testing.assert_array_equal(weights.read("matrix"), stored.astype(np.float32))
    np.testing.assert_array_equal(weights.read_rows("vector", 2, 5), stored[0, 2:5].astype(np.float32))


def test_shards_are_one_checkpoint(tmp_path: Path) -> None:
    one = open_weights(make_checkpoint(tmp_path / "one"))
    many = open_weights(make_checkpoint(tmp_path / "many", shards=3))

    assert set(one.names) == set(many.names)
    assert len({many.info(name).file for name in many.names}) == 3
    for name in one.names:
        np.testing.assert_array_equal(one.read(name), many.read(name))


def test_threads_read_at_the_same_time(tmp_path: Path) -> None:
    weights = open_weights(make_checkpoint(tmp_path, shards=2))
    whole = weights.read(EMBEDDING)
    with ThreadPoolExecutor(4) as pool:
        rows = list(pool.map(lambda row: weights.read_rows(EMBEDDING, row, row + 1), range(320)))

    np.testing.assert_array_equal(np.concatenate(rows), whole)


def test_memory_stays_near_the_rows(tmp_path: Path) -> None:
    save_file({"matrix": np.ones((8000, 256), ml_dtypes.bfloat16)}, tmp_path / "model.safetensors")
    weights = open_weights(tmp_path)
    tracemalloc.start()
    rows = weights.read_rows("matrix", 4000, 4100)
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert peak_bytes < 2 * rows.nbytes + 100_000


@pytest.mark.parametrize(("start", "stop"), [(-1, 2), (0, 321), (5, 4)])
def test_rows_that_are_not_there(start: int, stop: int, tmp_path: Path) -> None:
    weights = open_weights(make_checkpoint(tmp_path))

    with pytest.raises(ValueError, match="it has no rows"):
        weights.read_rows(EMBEDDING, start, stop)


def test_names_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(errors.TensorMissingError, match=r"no\.such\.tensor"):
        open_weights(make_checkpoint(tmp_path)).info("no.such.tensor")


def test_integers_are_listed_but_not_read(tmp_path: Path) -> None:
    save_file({"ids": np.arange(4)}, tmp_path / "model.safetensors")
    weights = open_weights(tmp_path)

    assert weights.info("ids").dtype == "I64"
    with pytest.raises(ValueError, match="I64"):
        weights.read("ids")


@pytest.mark.parametrize(
    "name", ["../x.safetensors", "/etc/passwd", "..", "", "a/b.safetensors", "C:x", "..\\x", "a\0b"]
)
def test_an_index_cannot_leave_the_folder(name: str, tmp_path: Path) -> None:
    content = {"weight_map": {"model.norm.weight": name}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(content), encoding="utf-8")

    with pytest.raises(errors.UnsafePathError, match=r"model\.norm\.weight"):
        open_weights(tmp_path)


@pytest.mark.parametrize("content", ["{}", '{"weight_map": {}}', '{"weight_map": {"a": 1}}', "[1]", "{"])
def test_an_index_that_cannot_be_read(content: str, tmp_path: Path) -> None:
    (tmp_path / "model.safetensors.index.json").write_text(content, encoding="utf-8")

    with pytest.raises(errors.WeightsHeaderError, match=r"index\.json"):
        open_weights(tmp_path)


def test_an_index_that_promises_too_much(tmp_path: Path) -> None:
    make_checkpoint(tmp_path, shards=2)
    path = tmp_path / "model.safetensors.index.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    content["weight_map"]["model.extra.weight"] = "model-00001-of-00002.safetensors"
    path.write_text(json.dumps(content), encoding="utf-8")

    with pytest.raises(errors.TensorMissingError, match=r"model\.extra\.weight"):
        open_weights(tmp_path)


def test_a_tensor_in_two_files(tmp_path: Path) -> None:
    for file in ("a.safetensors", "b.safetensors"):
        save_file({"twice": np.ones(2, np.float32), file: np.ones(2, np.float32)}, tmp_path / file)
    weight_map = {"twice": "a.safetensors", "b.safetensors": "b.safetensors"}
    index = json.dumps({"weight_map": weight_map})
    (tmp_path / "model.safetensors.index.json").write_text(index, encoding="utf-8")

    with pytest.raises(errors.WeightsDuplicateError, match=r"twice in a\.safetensors and again in b\.safetensors"):
        open_weights(tmp_path)


@pytest.mark.parametrize("size", [0, 3, 7, 8, 60, 400])
def test_every_cut_is_called_truncated(size: int, tmp_path: Path) -> None:
    path = make_checkpoint(tmp_path) / "model.safetensors"
    path.write_bytes(path.read_bytes()[:size])

    with pytest.raises(errors.WeightsTruncatedError, match=f"has {size} bytes"):
        open_weights(tmp_path)


def test_bytes_too_many_are_no_truncation(tmp_path: Path) -> None:
    path = make_checkpoint(tmp_path) / "model.safetensors"
    path.write_bytes(path.read_bytes() + b"more")

    with pytest.raises(errors.WeightsHeaderError, match=r"model\.safetensors"):
        open_weights(tmp_path)
