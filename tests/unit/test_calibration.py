"""Calibration texts: what is refused, and every way to smuggle evaluation data into them that a careless hand has."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from held_out import declare
from phiforge import errors
from phiforge.calibration import (
    MINIMUM_CHARACTERS,
    MINIMUM_TEXTS,
    SHARED_PIECES,
    SHARED_WORDS,
    SHORTEST_PIECES,
    SHORTEST_WORDS,
    check_files,
    check_leakage,
    evaluation_texts,
    load_calibration,
    normal_words,
)
from phiforge.checkpoint.nano import EVAL_DIR
from phiforge.texts import Text
from phiforge.validation.texts import load_tasks, load_texts
from phiforge.verbs.defaults import default_calibration

LONG = "All work and no play makes a dull model. " * (MINIMUM_CHARACTERS // (40 * MINIMUM_TEXTS) + 1)
LATIN = st.lists(st.text("abcdefgh", min_size=1, max_size=5), min_size=SHORTEST_WORDS, max_size=60)


def write(path: Path, texts: list[str]) -> Path:
    lines = [json.dumps({"id": f"c{number}", "text": text}) for number, text in enumerate(texts)]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def embedded() -> tuple[tuple[Text, ...], tuple[Text, ...]]:
    evaluation = evaluation_texts(load_texts(EVAL_DIR / "text.jsonl"), load_tasks(EVAL_DIR / "tasks"))
    return load_calibration(default_calibration()), evaluation


def test_texts_keep_their_order(tmp_path: Path) -> None:
    texts = [f"{number} {LONG}" for number in range(MINIMUM_TEXTS)]

    assert [text.text for text in load_calibration(write(tmp_path / "c.jsonl", texts))] == texts


@pytest.mark.parametrize(
    ("texts", "why"),
    [
        ([LONG] * (MINIMUM_TEXTS - 1), "7 texts of"),
        (["short"] * MINIMUM_TEXTS, "It is too short: 8 texts of 40 characters in all; 8 texts and 10,000 characters"),
        ([" \n\t"] * MINIMUM_TEXTS, "blank"),
        (["\u0000\u0001"] + [LONG] * MINIMUM_TEXTS, "control character U\\+0000"),
        ([LONG + "\x1b[0m"] * MINIMUM_TEXTS, "control character U\\+001B"),
    ],
)
def test_what_cannot_calibrate_is_refused(texts: list[str], why: str, tmp_path: Path) -> None:
    with pytest.raises(errors.CalibrationInvalidError, match=why):
        load_calibration(write(tmp_path / "c.jsonl", texts))


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "it is empty"),
        (b"\n\n", "it is empty"),
        (b"\x1f\x8b\x08\x00compressed", "no UTF-8 text: byte 1 is 0x8b"),
        (b'{"id": "a", "text": "x"}\n\x00\x00', "binary"),
        (b'\xff\xfe{\x00"\x00', "no UTF-8 text"),
        (b"plain text, no JSON", "line 1"),
        (b'{"id": "a", "text": "x"}\n{"id": "b"}', "line 2"),
        (b'{"id": "a", "text": "x"}\n{"id": "a", "text": "y"}', "comes twice"),
        (b'["a", "b"]', "line 1"),
    ],
)
def test_what_is_no_text_is_refused(content: bytes, why: str, tmp_path: Path) -> None:
    path = tmp_path / "c.jsonl"
    path.write_bytes(content)

    with pytest.raises(errors.CalibrationInvalidError) as caught:
        load_calibration(path)
    assert why.casefold() in str(caught.value).casefold()


@pytest.mark.parametrize("path", [Path("none.jsonl"), Path()])
def test_what_is_no_file_is_refused(path: Path, tmp_path: Path) -> None:
    with pytest.raises(errors.CalibrationInvalidError, match="It cannot be read"):
        load_calibration(tmp_path / path)


def test_the_embedded_calibration_texts_hold_nothing_of_the_embedded_evaluation() -> None:
    calibration, evaluation = embedded()

    assert len(calibration) == 96
    assert len(evaluation) == 60 + 2 * 660 + 60
    check_leakage(calibration, evaluation)


def disguised(text: str, seed: int) -> str:
    """The same words in other case and spacing, with other punctuation, in the middle of something else."""
    chooser = random.Random(seed)
    words = [chooser.choice((str.upper, str.lower, str.title))(word) for word in text.split()]
    spaces = [chooser.choice((" ", "  ", "\n", "\t", "\u00a0")) for _ in words]
    return "Before it, “" + "".join(word + space for word, space in zip(words, spaces, strict=True)) + "” and after."


@pytest.mark.parametrize("kind", ["held_out-000-facts", "held_out-059", "arithmetic/", "facts/", "word_problems/"])
def test_a_leak_is_found_wherever_it_stands(kind: str) -> None:
    calibration, evaluation = embedded()
    leaking = next(text for text in evaluation if text.id.startswith(kind))
    middle = len(calibration) // 2
    planted = Text(id="planted", text=disguised(leaking.text, seed=len(leaking.text)))

    with pytest.raises(errors.LeakageError) as caught:
        check_leakage([*calibration[:middle], planted, *calibration[middle:]], evaluation)
    assert leaking.id in caught.value.what
    assert "planted" in caught.value.what


def test_a_calibration_text_that_is_an_answer_is_found() -> None:
    with pytest.raises(errors.LeakageError, match="evaluation text 1 is calibration text 2"):
        check_leakage(["something else", "Forty-two!"], ["forty - two"])


def test_a_run_of_a_long_text_is_found_from_twenty_words_on() -> None:
    words = [f"word{number}" for number in range(100)]
    evaluation = " ".join(words)
    check_leakage([" ".join(words[40 : 40 + SHARED_WORDS - 1])], [evaluation])

    with pytest.raises(errors.LeakageError, match="shares 20 words with calibration text 1"):
        check_leakage([" ".join(words[40 : 40 + SHARED_WORDS])], [evaluation])


def test_what_is_shared_is_shown() -> None:
    words = [f"word{number}" for number in range(30)]
    with pytest.raises(errors.LeakageError, match=r"\(“word0 word1 .* word11 …”\)"):
        check_leakage([" ".join(words)], [" ".join(words[:25])])


# Scripts without spaces: a sentence is one word, and ten of them are no run of twenty.

CHINESE = "".join(chr(0x4E00 + 7 * number) for number in range(400))
SCRIPTS = {"chinese": 0x4E00, "japanese": 0x3041, "khmer": 0x1780}


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_block_of_a_text_without_spaces_is_found_wherever_it_begins(script: str) -> None:
    chooser = random.Random(script)
    letters = [chr(SCRIPTS[script] + number) for number in range(28)]
    text, other = ("".join(chooser.choices(letters, k=500)) for _ in range(2))
    check_leakage([other[:150] + text[101 : 101 + SHARED_PIECES - 1] + other[150:]], [text])

    with pytest.raises(errors.LeakageError, match="shares 64 characters with calibration text 1"):
        check_leakage([other[:150] + text[101 : 101 + SHARED_PIECES] + other[150:]], [text])


def test_a_short_question_without_spaces_is_found_in_a_chat() -> None:
    question = "小明有三个苹果,又买了两个,一共有几个?"
    assert len(question) - 3 >= SHORTEST_PIECES
    with pytest.raises(errors.LeakageError, match="stands in calibration text 1"):
        check_leakage([f"<|user|>{question}<|end|><|assistant|>五个。<|end|>"], [question])
    check_leakage(["<|user|>小明有三个苹果,又买了四个,一共有几个?<|end|>"], [question])


def test_a_short_answer_without_spaces_stands_everywhere() -> None:
    check_leakage([CHINESE], [CHINESE[40 : 40 + SHORTEST_PIECES - 1]])


@given(words=LATIN, at=st.integers(0, 300))
def test_a_block_is_found_among_other_words(words: list[str], at: int) -> None:
    within = f"{' '.join(words)} {CHINESE[at : at + SHARED_PIECES]} {' '.join(words)}"
    with pytest.raises(errors.LeakageError):
        check_leakage([within], [CHINESE])


def test_the_calibration_file_under_another_name_is_found(tmp_path: Path) -> None:
    own, other, fine = tmp_path / "calibration.jsonl", tmp_path / "held_out.jsonl", tmp_path / "fine.jsonl"
    own.write_bytes(b"the same bytes, no JSON at all")
    other.write_bytes(own.read_bytes())
    fine.write_bytes(b"the same bytes, no JSON at all.")
    check_files(own, [fine])
    with pytest.raises(errors.LeakageError) as caught:
        check_files(own, [fine, other])
    assert str(own) in caught.value.what
    assert str(other) in caught.value.what
    assert "SHA-256" in caught.value.what


def test_another_sum_is_another_question() -> None:
    check_leakage(["<|user|>What is 75 - 38?<|end|>", "What is 75 + 381?"], ["What is 75 + 38?"])


def test_many_leaks_are_counted_and_some_named() -> None:
    texts = [f"the question with the number {number}" for number in range(9)]

    with pytest.raises(errors.LeakageError, match=r"hold 9 of 9 evaluation texts: .* and 4 more"):
        check_leakage(texts, texts)


def test_system_messages_may_be_the_same(tmp_path: Path) -> None:
    told = {"role": "system", "content": "You are a helpful assistant that thinks step by step."}
    asked = {"role": "user", "content": "How long is the river?"}
    question = {"id": "q", "messages": [told, asked], "answer": "12 km"}
    (tmp_path / "rivers.jsonl").write_text(json.dumps(question), encoding="utf-8")
    evaluation = evaluation_texts((), load_tasks(declare(tmp_path)))

    assert [text.text for text in evaluation] == ["How long is the river?", "12 km"]
    check_leakage([f"<|system|>{told['content']}<|end|><|user|>How wide is it?<|end|>"], evaluation)


@given(words=LATIN, before=LATIN, after=LATIN, seed=st.integers(0, 99))
def test_any_text_inside_another_is_found(words: list[str], before: list[str], after: list[str], seed: int) -> None:
    within = disguised(" ".join(words), seed)

    with pytest.raises(errors.LeakageError):
        check_leakage(["other", " ".join(before) + " " + within + " ".join(after)], ["fine", " ".join(words)])


@given(evaluation=LATIN, calibration=LATIN)
def test_texts_without_a_common_word_never_leak(evaluation: list[str], calibration: list[str]) -> None:
    check_leakage([" ".join(word + "z" for word in calibration)], [" ".join(evaluation)])


@given(text=st.text())
def test_the_normal_form_is_a_normal_form(text: str) -> None:
    words = normal_words(text)

    assert normal_words(" ".join(words)) == words
    assert normal_words(f"  {text}\n") == words
