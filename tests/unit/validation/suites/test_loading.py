"""Folders of tasks: what is declared, what is refused, and what an error says."""

from __future__ import annotations

import gzip
import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from phiforge import errors
from phiforge.validation.suites import FORMATS, load_suites
from phiforge.validation.suites.declaration import LICENCES

SUM = {"id": "q", "messages": [{"role": "user", "content": "1 + 1?"}], "answer": "2"}
CODE = {
    "task_id": "h/0",
    "prompt": "def one():\n",
    "test": "def check(f):\n    assert f() == 1\n",
    "entry_point": "one",
}


def write(folder: Path, *lines: object, name: str = "sums.jsonl", text: str | None = None) -> bytes:
    texts = [line if isinstance(line, str) else json.dumps(line) for line in lines]
    content = ("\n".join(texts) + "\n" if text is None else text).encode()
    content = gzip.compress(content) if name.endswith(".gz") else content
    (folder / name).write_bytes(content)
    return content


def declare(folder: Path, content: bytes, name: str = "sums", **changes: Any) -> None:
    said: dict[str, object] = {
        "file": f"{name}.jsonl",
        "format": "exact-match",
        "split": "held-out",
        "licence": "MIT",
        "sha256": hashlib.sha256(content).hexdigest(),
    }
    lines = [f"{key} = {json.dumps(value)}" for key, value in {**said, **changes}.items() if value is not None]
    with (folder / "tasks.toml").open("a", encoding="utf-8") as file:
        file.write("\n".join([f"[{name}]", *lines, ""]))


def refused(folder: Path) -> errors.TasksInvalidError:
    with pytest.raises(errors.TasksInvalidError) as caught:
        load_suites(folder, run_code=True)
    assert caught.value.exit_code == 53
    return caught.value


def test_a_declared_file_becomes_a_suite(tmp_path: Path) -> None:
    declare(tmp_path, write(tmp_path, SUM, "", {**SUM, "id": "r", "answer": "3"}), limit_tokens=7)
    (suite,) = load_suites(tmp_path)
    assert (suite.name, suite.format, suite.metric, suite.choices) == ("sums", "exact-match", "exact-match", ())
    assert [item.id for item in suite.exercises] == ["q", "r"]
    assert suite.exercises[0].messages[0].content == "1 + 1?"
    assert json.loads(suite.exercises[1].check) == {"answer": "3"}
    assert suite.exercises[0].limit_tokens == 7
    assert suite.source.model_dump() == {
        "file": "sums.jsonl",
        "format": "exact-match",
        "split": "held-out",
        "licence": "MIT",
        "sha256": hashlib.sha256((tmp_path / "sums.jsonl").read_bytes()).hexdigest(),
    }


def test_suites_are_sorted_and_may_be_compressed(tmp_path: Path) -> None:
    declare(tmp_path, write(tmp_path, SUM, name="b.jsonl"), "b")
    declare(tmp_path, write(tmp_path, SUM, name="a.jsonl.gz"), "a", file="a.jsonl.gz")
    assert [suite.name for suite in load_suites(tmp_path)] == ["a", "b"]


def test_suites_that_run_code_are_left_out_unless_wanted(tmp_path: Path) -> None:
    declare(tmp_path, write(tmp_path, SUM))
    declare(tmp_path, write(tmp_path, CODE, name="code.jsonl"), "code", format="humaneval")
    assert [suite.name for suite in load_suites(tmp_path)] == ["sums"]
    assert [suite.name for suite in load_suites(tmp_path, run_code=True)] == ["code", "sums"]


@pytest.mark.parametrize("run_code", [False, True])
def test_a_suite_that_is_left_out_is_checked_all_the_same(tmp_path: Path, run_code: bool) -> None:
    declare(tmp_path, write(tmp_path, {**CODE, "test": ""}, name="code.jsonl"), "code", format="humaneval")
    with pytest.raises(errors.TasksInvalidError, match="check"):
        load_suites(tmp_path, run_code=run_code)


def test_no_files_are_no_tasks(tmp_path: Path) -> None:
    assert "no .jsonl" in refused(tmp_path).why.lower()
    assert "no .jsonl" in refused(tmp_path / "absent").why.lower()


def test_without_a_declaration_the_error_has_the_one_to_add(tmp_path: Path) -> None:
    content = write(tmp_path, SUM)
    error = refused(tmp_path)
    assert "sums.jsonl" in error.why
    assert hashlib.sha256(content).hexdigest() in error.fix
    snippet = error.fix.split("\n\n", maxsplit=1)[1]
    filled = snippet.replace('split = ""', 'split = "test"').replace('licence = ""', 'licence = "MIT"')
    (tmp_path / "tasks.toml").write_text(filled, encoding="utf-8")
    assert load_suites(tmp_path)[0].exercises[0].id == "q"


def test_every_file_is_declared(tmp_path: Path) -> None:
    declare(tmp_path, write(tmp_path, SUM))
    write(tmp_path, SUM, name="more.jsonl")
    error = refused(tmp_path)
    assert "more.jsonl" in error.why
    assert "[more]" in error.fix
    assert "[sums]" not in error.fix


@pytest.mark.parametrize(
    ("line", "guessed"),
    [
        (SUM, "exact-match"),
        (CODE, "humaneval"),
        ({"question": "q", "answer": "#### 1"}, "gsm8k"),
        ({"problem": "p", "solution": "s"}, "math"),
        ({"question": "q", "choices": ["a", "b"], "answer": 0}, "mmlu"),
        ({"query": "q", "choices": ["a", "b"], "gold": 0}, "arc"),
        ({"id": "x", "question": "q", "choices": {}, "answerKey": "A"}, "arc"),
        ({"key": 1, "prompt": "p", "instruction_id_list": [], "kwargs": []}, "ifeval"),
        ({"x": 1}, ""),
    ],
)
def test_the_proposed_declaration_guesses_the_format(tmp_path: Path, line: object, guessed: str) -> None:
    write(tmp_path, line)
    assert f'format = "{guessed}"' in refused(tmp_path).fix


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"sha256": "0" * 64}, "SHA-256"),
        ({"sha256": "short"}, "sha256"),
        ({"licence": "Proprietary"}, "'Proprietary' is unknown"),
        ({"licence": ""}, "licence"),
        ({"licence": None}, "licence"),
        ({"licence": "MIT OR Secret"}, "'Secret'"),
        ({"licence": "apache 2.0"}, "did you mean 'Apache-2.0'"),
        ({"split": "train"}, "trained on"),
        ({"split": "tset"}, "'tset' is unknown"),
        ({"split": None}, "split"),
        ({"format": "hellaswag"}, "'hellaswag' is unknown"),
        ({"file": "../sums.jsonl"}, "no name"),
        ({"file": "/etc/passwd"}, "no name"),
        ({"more": 1}, "more"),
        ({"limit_tokens": 0}, "limit_tokens"),
        ({"limit_tokens": "9"}, "limit_tokens"),
        ({"choices": "words"}, "choices"),
    ],
)
def test_a_declaration_that_is_not_allowed_is_refused(tmp_path: Path, changes: dict[str, Any], why: str) -> None:
    declare(tmp_path, write(tmp_path, SUM), **changes)
    assert why in refused(tmp_path).why


def test_licences_may_be_joined(tmp_path: Path) -> None:
    declare(tmp_path, write(tmp_path, SUM), licence="MIT AND CC-BY-SA-4.0")
    assert load_suites(tmp_path)[0].source.licence == "MIT AND CC-BY-SA-4.0"


def test_all_faults_of_a_declaration_are_told_at_once(tmp_path: Path) -> None:
    content = write(tmp_path, SUM)
    declare(tmp_path, content, licence="none", split="train")
    declare(tmp_path, content, "other", file="sums.jsonl", format="odd")
    why = refused(tmp_path).why
    assert all(part in why for part in ("'none'", "trained on", "'odd'", "declared twice"))


def test_a_declared_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    declare(tmp_path, write(tmp_path, SUM))
    declare(tmp_path, b"", "gone")
    assert "gone.jsonl" in refused(tmp_path).what


@pytest.mark.parametrize("text", ["[sums", "\xff", 'sums = "x"'])
def test_a_declaration_that_is_no_toml_is_refused(tmp_path: Path, text: str) -> None:
    write(tmp_path, SUM)
    (tmp_path / "tasks.toml").write_bytes(text.encode("latin-1"))
    assert "tasks.toml" in refused(tmp_path).what


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "empty"),
        ("\n \n", "empty"),
        ("{", "no JSON"),
        ("[1]", "no JSON object"),
        ('{"id": "\\ud800"}', "no JSON"),
        ('{"x": NaN}', "no JSON"),
        ("\0", "binary"),
        (json.dumps({"id": "q"}), "messages"),
        (json.dumps({**SUM, "more": 1}), "more"),
        (json.dumps({**SUM, "answer": " "}), "answer is empty"),
        (json.dumps({**SUM, "messages": []}), "messages"),
        (json.dumps(SUM) + "\n" + json.dumps(SUM), "'q' comes twice"),
    ],
)
def test_a_bad_file_is_refused(tmp_path: Path, text: str, why: str) -> None:
    declare(tmp_path, write(tmp_path, text=text))
    error = refused(tmp_path)
    assert why in error.why
    assert "sums.jsonl" in error.what


def test_the_line_of_a_fault_is_named(tmp_path: Path) -> None:
    declare(tmp_path, write(tmp_path, SUM, "", "{"))
    assert refused(tmp_path).what.endswith("sums.jsonl, line 3 cannot be used.")


def test_text_that_is_no_utf8_is_refused(tmp_path: Path) -> None:
    (tmp_path / "sums.jsonl").write_bytes(b"\xff\xfe")
    declare(tmp_path, b"\xff\xfe")
    assert "UTF-8" in refused(tmp_path).why


def test_a_broken_archive_is_refused(tmp_path: Path) -> None:
    content = write(tmp_path, *[{**SUM, "id": str(i)} for i in range(99)], name="sums.jsonl.gz")[:60]
    (tmp_path / "sums.jsonl.gz").write_bytes(content)
    declare(tmp_path, content, file="sums.jsonl.gz")
    assert "gzip" in refused(tmp_path).why


def test_an_archive_that_fills_the_memory_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("phiforge.validation.suites.rows.MAX_BYTES", 10_000)
    content = write(tmp_path, text=" " * 20_000, name="sums.jsonl.gz")
    declare(tmp_path, content, file="sums.jsonl.gz")
    assert "larger" in refused(tmp_path).why


def test_a_file_of_absurd_size_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("phiforge.validation.suites.rows.MAX_BYTES", 3)
    declare(tmp_path, write(tmp_path, SUM))
    assert "larger" in refused(tmp_path).why


def test_ids_may_come_again_in_another_suite(tmp_path: Path) -> None:
    declare(tmp_path, write(tmp_path, SUM))
    declare(tmp_path, write(tmp_path, SUM, name="more.jsonl"), "more")
    assert len(load_suites(tmp_path)) == 2


def test_known_names_are_what_they_should_be() -> None:
    assert sorted(FORMATS) == ["arc", "exact-match", "gsm8k", "humaneval", "ifeval", "math", "mmlu"]
    assert [name for name, known in FORMATS.items() if known.runs_code] == ["humaneval"]
    assert {known.metric for known in FORMATS.values()} == {"exact-match", "log-likelihood", "instructions", "code"}
    assert len(set(LICENCES)) == len(LICENCES)
