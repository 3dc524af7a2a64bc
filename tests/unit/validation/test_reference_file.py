"""The reference of a package: what is written is read again, and what is not as it should be is refused in words."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given, settings
from hypothesis import strategies as st

from phiforge import errors
from phiforge.validation.drift import Reference
from phiforge.validation.reference_file import (
    DISTRIBUTIONS_FILE,
    MOST_BYTES,
    REFERENCE_FILE,
    read_reference,
    write_reference,
)
from phiforge.validation.reference_outputs import ReferenceOutputs
from phiforge.validation.subset import packaged_part
from unit.validation.reference_outputs import CHECKPOINT, outputs


def _part(*lengths: int, switch: int | None = None, questions: int = 10) -> ReferenceOutputs:
    whole = outputs(*lengths, switch=switch, questions=questions)
    return packaged_part(whole, lambda ids: Reference(1, ()))


def _write(folder: Path, part: ReferenceOutputs) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in write_reference(part, CHECKPOINT).items():
        (folder / name).write_bytes(content)
    return folder


def _same(one: ReferenceOutputs, other: ReferenceOutputs) -> None:
    for name in (
        "fingerprint", "vocab_size", "stop_ids", "switch", "text_set", "task_set", "prompt_set", "suites", "questions",
        "choices", "continued", "prompted", "notes",
    ):  # fmt: skip
        assert getattr(one, name) == getattr(other, name), name
    assert (one.tokenized, one.chats) == (other.tokenized, other.chats)
    for left, right in ((one.texts, other.texts), (one.around_switch, other.around_switch)):
        assert (left is None) is (right is None)
        if left is not None and right is not None:
            assert left.top_k == right.top_k
            for text, again in zip(left.texts, right.texts, strict=True):
                for name, value in vars(text).items():
                    np.testing.assert_array_equal(value, getattr(again, name), err_msg=name)


@pytest.mark.parametrize(
    "part", [_part(30, 40), _part(30, 40, switch=25), _part(90, switch=80), _part(20, questions=0)]
)
def test_what_is_written_is_read_again(part: ReferenceOutputs, tmp_path: Path) -> None:
    _same(read_reference(_write(tmp_path / "a b ü", part)), part)


def test_the_same_is_written_as_the_same_bytes() -> None:
    assert write_reference(_part(30, 40, switch=25), CHECKPOINT) == write_reference(
        _part(30, 40, switch=25), CHECKPOINT
    )


def test_no_text_at_all_is_no_crash(tmp_path: Path) -> None:
    found = read_reference(_write(tmp_path / "r", _part()))
    assert found.texts.texts == ()
    assert len(found.questions) == 10


def _entry(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], object]:
    def apply(folder: Path) -> None:
        path = folder / REFERENCE_FILE
        content = json.loads(path.read_text(encoding="utf-8"))
        change(content)
        path.write_text(json.dumps(content), encoding="utf-8")

    return apply


def _rows(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], object]:
    def apply(folder: Path) -> None:
        path = folder / DISTRIBUTIONS_FILE
        arrays: dict[str, Any] = {name: array.copy() for name, array in safetensors.numpy.load_file(path).items()}
        change(arrays)
        path.write_bytes(safetensors.numpy.save(arrays))

    return apply


def _make_folder(folder: Path) -> None:
    (folder / REFERENCE_FILE).unlink()
    (folder / REFERENCE_FILE).mkdir()


def _truncate(folder: Path) -> None:
    path = folder / DISTRIBUTIONS_FILE
    path.write_bytes(path.read_bytes()[:-1000])


def _put(name: str, index: Any, value: Any) -> Callable[[Path], object]:
    def change(arrays: dict[str, Any]) -> None:
        arrays[name][index] = value

    return _rows(change)


def _twice(arrays: dict[str, Any]) -> None:
    arrays["texts.top_ids"][0, 1] = arrays["texts.top_ids"][0, 0]


FAULTS: dict[str, tuple[Callable[[Path], object], str]] = {
    "no JSON file": (lambda folder: (folder / REFERENCE_FILE).unlink(), "cannot be read"),
    "no rows": (lambda folder: (folder / DISTRIBUTIONS_FILE).unlink(), "cannot be read"),
    "a folder for a file": (_make_folder, "cannot be read"),
    "truncated": (_truncate, "is damaged"),
    "empty": (lambda folder: (folder / DISTRIBUTIONS_FILE).write_bytes(b""), "is damaged"),
    "a pickle": (lambda folder: (folder / DISTRIBUTIONS_FILE).write_bytes(b"\x80\x04N." * 50), "is damaged"),
    "no JSON": (lambda folder: (folder / REFERENCE_FILE).write_text("{"), "reference.json"),
    "no text": (lambda folder: (folder / REFERENCE_FILE).write_bytes(b"\xff\xfe{}"), "reference.json"),
    "newer": (_entry(lambda entry: entry.update(schema_version="2.0")), "a newer phiforge made it"),
    "unknown key": (_entry(lambda entry: entry.update(surprise=1)), "surprise"),
    "text for a number": (_entry(lambda entry: entry.update(vocab_size="300")), "vocab_size"),
    "a negative token": (_entry(lambda entry: entry["texts"][0].append(-1)), "texts.0"),
    "a token too high": (_entry(lambda entry: entry["questions"][0]["ids"].append(300)), "token 300 is in no vocab"),
    "a continuation's token too high": (
        _entry(lambda entry: entry["choices"][0]["continuations"][0].append(300)),
        "token 300 is in no vocab",
    ),
    "a made token too high": (_entry(lambda entry: entry["continued"][0]["made"].__setitem__(0, 300)), "token 300 is"),
    "no such continuation": (_entry(lambda entry: entry["choices"][0].update(chosen=3)), "only 3 continuations"),
    "no choice": (_entry(lambda entry: entry["choices"][0].update(continuations=[[1]])), "choices.0.continuations"),
    "nothing to choose": (_entry(lambda entry: entry["choices"][0]["continuations"][1].clear()), "continuations.1"),
    "a generation that ends nowhere": (_entry(lambda entry: entry["continued"][1]["made"].pop()), "at the limit of 8"),
    "a generation beyond its limit": (_entry(lambda entry: entry["continued"][1]["made"].append(1)), "at the limit of"),
    "a stop after its limit": (_entry(lambda entry: entry["continued"][0]["made"].extend([1, 1])), "at the limit of"),
    "an empty prompt": (_entry(lambda entry: entry["prompted"][0]["ids"].clear()), "prompted.0.ids"),
    "no category": (_entry(lambda entry: entry["prompted"][0].update(category="")), "prompted.0.category"),
    "a suite that is not there": (_entry(lambda entry: entry["suites"].pop(0)), "no suite 'task-0'"),
    "a suite twice": (_entry(lambda entry: entry["suites"].append(entry["suites"][0])), "two suites have one name"),
    "an unknown format": (_entry(lambda entry: entry["suites"][0].update(format="quiz")), "format 'quiz' is unknown"),
    "code to run": (_entry(lambda entry: entry["suites"][0].update(format="humaneval")), "runs code"),
    "questions without answers": (_entry(lambda entry: entry["suites"][0].update(format="mmlu")), "are chosen"),
    "a check that is none": (_entry(lambda entry: entry["questions"][0].update(check="{")), "questions.0"),
    "a check of another format": (_entry(lambda entry: entry["questions"][0].update(check="[]")), "questions.0"),
    "a stop id too high": (_entry(lambda entry: entry["stop_ids"].append(10**6)), "token 1000000 is in no vocabulary"),
    "a text too short": (_entry(lambda entry: entry["texts"][0].pop()), "instead of int32"),
    "a text too many": (_entry(lambda entry: entry["texts"].append([1, 2])), "instead of int32"),
    "another k": (_entry(lambda entry: entry.update(top_k=65)), "instead of int32"),
    "no switch": (_entry(lambda entry: entry.update(original_max_positions=None)), "but no switch"),
    "prompts end early": (_entry(lambda entry: entry.update(original_max_positions=99)), "end before it"),
    "prompts of other lengths": (_entry(lambda entry: entry["around_switch"]["ids"].pop()), "the lengths told"),
    "no rows of the switch": (_rows(lambda arrays: arrays.pop("switch.top")), "instead of"),
    "other rows": (_rows(lambda arrays: arrays.update(more=np.zeros(3))), "instead of"),
    "double precision": (
        _rows(lambda arrays: arrays.update({"texts.top": arrays["texts.top"].astype(np.float64)})),
        "float64",
    ),
    "a token twice": (_rows(_twice), "twice"),
    "a row's token too high": (_put("texts.top_ids", (3, 5), 300), "in no vocabulary"),
    "a row's token below zero": (_put("switch.top_ids", (3, 5), -1), "in no vocabulary"),
    "not a number": (_put("texts.top", (2, 2), np.nan), "no finite numbers"),
    "tail is not a number": (_put("texts.tail", 2, np.nan), "no finite numbers"),
    "infinite": (_put("texts.true", 2, -np.inf), "no finite numbers"),
    "above zero": (_put("texts.true", 2, 0.5), "above 0"),
    "tail above zero": (_put("switch.tail", 2, np.inf), "above 0"),
    "rising": (_rows(lambda arrays: arrays["texts.top"][4].sort()), "not in falling order"),
    "too much": (_put("texts.tail", 7, -0.1), "do not add up to 1"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_what_is_not_as_it_should_be_is_refused(fault: str, tmp_path: Path) -> None:
    folder = _write(tmp_path / "reference", _part(30, 40, switch=25))
    damage, told = FAULTS[fault]
    damage(folder)
    with pytest.raises(errors.PackageInvalidError) as caught:
        read_reference(folder)
    assert told in caught.value.why


def test_a_package_without_a_reference_says_so(tmp_path: Path) -> None:
    with pytest.raises(errors.PackageInvalidError, match="carries no reference") as caught:
        read_reference(tmp_path / "reference")
    assert "older phiforge" in caught.value.why
    assert "--checkpoint" in caught.value.fix


def test_a_file_that_is_far_too_large_is_not_read(tmp_path: Path) -> None:
    folder = _write(tmp_path / "reference", _part(30))
    with (folder / DISTRIBUTIONS_FILE).open("r+b") as file:
        file.truncate(MOST_BYTES + 1)
    with pytest.raises(errors.PackageInvalidError) as caught:
        read_reference(folder)
    assert "far more" in caught.value.why


@settings(max_examples=60)
@given(data=st.data())
def test_any_damage_is_refused_or_harmless_but_never_a_crash(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = _write(tmp_path_factory.mktemp("r"), _part(10, 12, questions=2))
    name = data.draw(st.sampled_from([REFERENCE_FILE, DISTRIBUTIONS_FILE]))
    content = bytearray((folder / name).read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, min(len(content) - 1, 4000)))
        content[place] = data.draw(st.integers(0, 255))
    (folder / name).write_bytes(bytes(content))
    try:
        found = read_reference(folder)
    except errors.PackageInvalidError:
        return
    for text in found.texts.texts:
        assert np.isfinite(text.top_log_probabilities).all()
