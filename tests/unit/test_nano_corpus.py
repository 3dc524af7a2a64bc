"""phi-4-nano's generated text: deterministic, and its held-out part never in training or calibration text."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from phiforge.checkpoint.nano import CHECKPOINT_DIR, EVAL_DIR, corpus, files, world

STREAM_DOCUMENTS = 20_000


def _texts(split: str, seed: int, count: int) -> list[str]:
    return [document.text for document in itertools.islice(corpus.stream(split, seed), count)]


def _shipped_tasks() -> list[dict[str, object]]:
    return [row for kind in files.TASK_COUNTS for row in files.read_jsonl(EVAL_DIR / "tasks" / f"{kind}.jsonl")]


def _question(row: dict[str, object]) -> str:
    messages = row["messages"]
    assert isinstance(messages, list)
    return str(messages[0]["content"])


def _keys(row: dict[str, object]) -> list[str]:
    return str(row["id"]).split(":", 1)[1].split(files.KEY_SEPARATOR)


def _pairs(rows: list[dict[str, object]]) -> list[str]:
    return [key for row in rows if not str(row["id"]).startswith("facts") for key in _keys(row)]


def _leaks(seen: list[str]) -> list[str]:
    tasks = _shipped_tasks()
    texts = [str(row["text"]) for row in files.read_jsonl(EVAL_DIR / "text.jsonl")]
    return corpus.find_leaks(seen, [_question(row) for row in tasks], _pairs(tasks), texts)


def test_stream_is_deterministic_and_seeded() -> None:
    assert _texts("train", 3, 200) == _texts("train", 3, 200)
    assert _texts("train", 3, 200) != _texts("train", 4, 200)


def test_shipped_files_are_what_the_generator_makes(tmp_path: Path) -> None:
    files.write_eval(tmp_path)
    made = {path.relative_to(tmp_path): path.read_bytes() for path in tmp_path.rglob("*.jsonl")}
    assert len(made) == 7
    assert made == {name: (EVAL_DIR / name).read_bytes() for name in made}


def test_counts() -> None:
    for kind, count in (("arithmetic", 250), ("word_problems", 150), ("facts", 200)):
        rows = files.read_jsonl(EVAL_DIR / "tasks" / f"{kind}.jsonl")
        assert len(rows) == count
        assert len({_question(row) for row in rows}) == count
        assert all(row["answer"] for row in rows)
    assert len({row["id"] for row in _shipped_tasks()}) == 600
    assert len(files.read_jsonl(EVAL_DIR / "text.jsonl")) == 60


def test_checksums_match() -> None:
    assert (EVAL_DIR / files.CHECKSUMS).read_text(encoding="utf-8") == files.checksums(EVAL_DIR, CHECKPOINT_DIR)


@pytest.mark.parametrize("seed", [4, 5, 11])
def test_training_stream_holds_nothing_held_out(seed: int) -> None:
    far = [document.text for document in itertools.islice(corpus.long_stream("train", seed), 50)]
    assert _leaks(_texts("train", seed, STREAM_DOCUMENTS) + far) == []


def test_shipped_calibration_text_holds_nothing_held_out() -> None:
    calibration = [str(row["text"]) for row in files.read_jsonl(EVAL_DIR / "calibration.jsonl")]
    assert len(calibration) == 96
    assert _leaks(calibration + _texts("calibration", 8, 2_000)) == []


def test_split_rule_puts_every_shipped_item_on_the_held_out_side() -> None:
    for row in _shipped_tasks():
        for key in _keys(row):
            if str(row["id"]).startswith("facts"):
                _, frame, clause = key.split("/")
                assert world.wording_split(int(frame), int(clause)) == "held_out"
            else:
                op = next(symbol for symbol in "+-*" if symbol in key)
                a, b = map(int, key.split(op))
                assert corpus.pair_split(a, op, b) == corpus.pair_split(*((a, op, b) if op == "-" else (b, op, a)))
                assert corpus.pair_split(a, op, b) == "held_out"
    for row in files.read_jsonl(EVAL_DIR / "text.jsonl"):
        if str(row["id"]).endswith("prose"):
            assert corpus.text_split(str(row["text"])) == "held_out"


def test_every_wording_belongs_to_one_split() -> None:
    pairs = [world.wordings(split) for split in world.SPLITS]
    assert sum(map(len, pairs)) == len(set(itertools.chain(*pairs))) == 40
    held_out = set(world.wordings("held_out"))
    trained = set(world.wordings("train"))
    assert {frame for frame, _ in held_out} <= {frame for frame, _ in trained}
    assert {clause for _, clause in held_out} <= {clause for _, clause in trained}
    forms = [
        world.question(world.Fact("N", name, "v"), *pair) for name in world.CLAUSES for pair in itertools.chain(*pairs)
    ]
    assert len(set(forms)) == len(forms)


def test_planted_leaks_are_found() -> None:
    rows = _shipped_tasks()
    arithmetic = next(row for row in rows if str(row["id"]).startswith("arithmetic") and "+" in str(row["id"]))
    fact = next(row for row in rows if str(row["id"]).startswith("facts"))
    a, b = _keys(arithmetic)[0].split("+")
    text = str(files.read_jsonl(EVAL_DIR / "text.jsonl")[-1]["text"])
    clean = _texts("train", 0, 50)
    assert _leaks(clean) == []
    assert _leaks([*clean, corpus.render_prompt(_question(arithmetic))])
    assert _leaks([*clean, f"so {b} + {a} gives"])
    assert _leaks([*clean, corpus.render_prompt(_question(fact))])
    assert _leaks([*clean, text])
    other = next(name for name in world.world().people if name not in _question(fact))
    name = next(entity for entity in (*world.world().people, *world.world().cities) if entity in _question(fact))
    assert _leaks([*clean, corpus.render_prompt(_question(fact).replace(name, other))])


@pytest.mark.parametrize(("a", "op", "b", "result"), [(999, "+", 1, 1000), (1000, "-", 1, 999), (47, "*", 6, 282)])
def test_solutions(a: int, op: str, b: int, result: int) -> None:
    thought, value = corpus.solve(a, op, b)
    assert value == result
    assert thought.startswith(f"{a}{op}{b}: ")


def test_solution_steps_are_written_from_the_ones_upward() -> None:
    assert corpus.add_steps(57, 65) == "7+5=12, 5+6+1=12"
    assert corpus.subtract_steps(372, 68) == "12-8=4, 7-6-1=0, 3-0=3"


def test_answers_of_shipped_tasks_are_right() -> None:
    by_name = {**world.world().people, **world.world().cities}
    for row in _shipped_tasks():
        keys = _keys(row)
        if str(row["id"]).startswith("facts"):
            attribute = keys[0].split("/")[0]
            assert any(name in _question(row) and facts[attribute].value == row["answer"]
                       for name, facts in by_name.items() if attribute in facts)  # fmt: skip
        elif len(keys) == 1:
            op = next(symbol for symbol in "+-*" if symbol in keys[0])
            a, b = map(int, keys[0].split(op))
            assert str({"+": a + b, "-": a - b, "*": a * b}[op]) == row["answer"]
