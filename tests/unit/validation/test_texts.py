"""Held-out files: what is read, and how a fault is named."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from held_out import declare
from phiforge import errors
from phiforge.validation.texts import data_set, load_tasks, load_texts

QUESTION = {"id": "q", "messages": [{"role": "user", "content": "1 + 1?"}], "answer": "2"}


def write(path: Path, *lines: object) -> Path:
    texts = [line if isinstance(line, str) else json.dumps(line, ensure_ascii=False) for line in lines]
    path.write_text("\n".join(texts) + "\n", encoding="utf-8")
    return path


def test_texts_keep_their_order_and_odd_characters(tmp_path: Path) -> None:
    path = write(tmp_path / "text.jsonl", {"id": "b", "text": "x\u2028y"}, "", {"id": "a", "text": "\u65e5"})
    assert [(text.id, text.text) for text in load_texts(path)] == [("b", "x\u2028y"), ("a", "\u65e5")]


def test_tasks_have_the_names_of_their_files(tmp_path: Path) -> None:
    write(tmp_path / "sums.jsonl", QUESTION)
    write(tmp_path / "facts.jsonl", {**QUESTION, "id": "f"})
    facts, sums = load_tasks(declare(tmp_path))
    assert (facts.name, sums.name) == ("facts", "sums")
    assert sums.questions[0].answer == "2"
    assert sums.questions[0].conversation() == [{"role": "user", "content": "1 + 1?"}]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "line 2"),
        ({"id": "x"}, "line 2"),
        ({"id": "x", "text": ""}, "line 2"),
        ({"id": 1, "text": "a"}, "line 2"),
        ({"id": "x", "text": "a", "more": 1}, "line 2"),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, line: object, message: str) -> None:
    path = write(tmp_path / "text.jsonl", {"id": "a", "text": "good"}, line)
    with pytest.raises(errors.EvidenceInvalidError, match=message) as caught:
        load_texts(path)
    assert "text.jsonl" in caught.value.what


def test_ids_come_once(tmp_path: Path) -> None:
    path = write(tmp_path / "text.jsonl", {"id": "a", "text": "x"}, {"id": "a", "text": "y"})
    with pytest.raises(errors.EvidenceInvalidError) as caught:
        load_texts(path)
    assert "twice" in caught.value.why


def test_no_data_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "empty.jsonl").write_text("\n", encoding="utf-8")
    with pytest.raises(errors.EvidenceInvalidError):
        load_texts(tmp_path / "none.jsonl")
    with pytest.raises(errors.TasksInvalidError):
        load_tasks(tmp_path / "none")
    with pytest.raises(errors.EvidenceInvalidError):
        load_texts(tmp_path / "empty.jsonl")


def test_the_hash_tells_content_and_names(tmp_path: Path) -> None:
    first = write(tmp_path / "a.jsonl", QUESTION)
    before = data_set([first]).sha256
    second = write(tmp_path / "b.jsonl", QUESTION)
    assert before != data_set([second]).sha256
    write(first, {**QUESTION, "answer": "3"})
    assert data_set([first]).sha256 != before
