"""Calibration texts: read and checked, and held apart from what a variant is judged by. Pure.

A model that was calibrated on its own examination looks better than it is, so an evaluation text leaks when it

- is a calibration text, whole, or its file is the calibration file under another name,
- has `SHORTEST_WORDS` words or `SHORTEST_PIECES` pieces or more and stands whole within a calibration text, as a
  question does in a chat,
- shares a run of `SHARED_WORDS` words with a calibration text, or
- shares a block of `SHARED_PIECES` pieces with one, wherever in the two texts it begins.

Words are compared without regard to case, spaces and punctuation; signs of arithmetic are words. A piece is a word or,
of a script that does not part words by spaces, a character: there 20 words may be a whole page. All of it is done on
hashes, except for short texts, which are looked for as they are.

Why 20 words: runs of 13, which Brown et al. 2020 (arxiv.org/abs/2005.14165, appendix C) use for text from the web, are
shared by chance where text is made from templates. In phi-4-nano's embedded data, whose separation is proven by its
generator, the longest run that calibration and held-out texts share has 16 words (9 of 60 texts share 13). WikiText-2's
valid and test share one of 15, a table's headings, and none longer. Of GSM8K's 1,319 test questions one shares 20 words
with the training questions, and it is one of them in another setting. A block of 64 pieces is as long as
the blocks of 64 tokens that the errors of drift come from.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from phiforge import errors
from phiforge.hashing import hash_file
from phiforge.texts import Task, Text, read_lines

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

# With less, a layer of Phi-4-mini, 3,072 wide, sees fewer tokens than it has inputs: English has about four characters
# to a token. One text alone would calibrate for one subject.
MINIMUM_CHARACTERS = 10_000
MINIMUM_TEXTS = 8

SHARED_WORDS = 20
# The shortest questions of the embedded tasks; what is shorter, such as an answer of one word, stands everywhere.
SHORTEST_WORDS = 4
SHARED_PIECES = 64
SHORTEST_PIECES = 16
SYSTEM_ROLE = "system"

_WORD = re.compile(r"\w+|[-+*/%=^−×÷]")
# Thai, Lao, Tibetan, Burmese, Khmer, and the scripts of Chinese and Japanese (Unicode 16, Blocks.txt).
_UNSPACED = (
    "\u0e00-\u0fff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
)
_PIECE = re.compile(f"[{_UNSPACED}]|[^{_UNSPACED}]+")
_SHOWN_WORDS = 12
_LINE_BREAKS = "\t\n\r\f\v"
_NAMED_AT_MOST = 5


def load_calibration(path: Path) -> tuple[Text, ...]:
    """Return the calibration texts of a JSONL file of {"id", "text"}.

    Raises:
        CalibrationInvalidError: The file cannot be read, is binary or empty, a line breaks the schema, an id comes
            twice, a text is blank or holds control characters, or there are fewer than `MINIMUM_TEXTS` texts or
            `MINIMUM_CHARACTERS` characters.
    """
    texts = tuple(read_lines(path, Text, _invalid))
    for text in texts:
        if not text.text.strip():
            raise _invalid(f"{path}, {text.id}", "the text is blank")
        control = next((letter for letter in text.text if _is_control(letter)), None)
        if control is not None:
            raise _invalid(f"{path}, {text.id}", f"it is no text: it holds the control character U+{ord(control):04X}")
    characters = sum(len(text.text) for text in texts)
    if len(texts) < MINIMUM_TEXTS or characters < MINIMUM_CHARACTERS:
        raise _invalid(
            str(path),
            f"it is too short: {len(texts)} texts of {characters:,} characters in all; {MINIMUM_TEXTS} texts and "
            f"{MINIMUM_CHARACTERS:,} characters are the least",
        )
    return texts


def evaluation_texts(texts: Sequence[Text], tasks: Sequence[Task]) -> tuple[Text, ...]:
    """Return everything that evaluation uses: held-out texts, and of each question its turns and its answer.

    System messages are left out, since a model is told the same in calibration and in use.
    """
    found = list(texts)
    for task in tasks:
        for question in task.questions:
            said = [message.content for message in question.messages if message.role != SYSTEM_ROLE]
            found += [Text(id=f"{task.name}/{question.id}", text=part) for part in (*said, question.answer) if part]
    return tuple(found)


def check_files(calibration: Path, evaluation: Sequence[Path]) -> None:
    """Check that no file of evaluation data is the calibration file, byte by byte.

    Raises:
        LeakageError: One is; both are named, and their hash.
    """
    own = hash_file(calibration)
    for path in evaluation:
        if hash_file(path) == own:
            raise _leak(f"The calibration file {calibration} is the evaluation file {path}: both have SHA-256 {own}.")


def check_leakage(calibration: Sequence[Text | str], evaluation: Sequence[Text | str]) -> None:
    """Check that no evaluation text leaks into the calibration texts, by the rule of this module.

    Args:
        calibration: The calibration texts.
        evaluation: As `evaluation_texts` gives them.

    Raises:
        LeakageError: Some do; the first of them are named, where they stand, and what they share.
    """
    index = _Index(_named(calibration, "calibration text"))
    leaks = [(name, place) for name, text in _named(evaluation, "evaluation text") if (place := index.place_of(text))]
    if not leaks:
        return
    named = ", ".join(f"{name} {place}" for name, place in leaks[:_NAMED_AT_MOST])
    more = f" and {len(leaks) - _NAMED_AT_MOST} more" if len(leaks) > _NAMED_AT_MOST else ""
    raise _leak(f"Calibration texts hold {len(leaks)} of {len(evaluation)} evaluation texts: {named}{more}.")


def _leak(what: str) -> errors.LeakageError:
    return errors.LeakageError(
        what,
        why="What was calibrated on its own examination looks better than it is.",
        fix="Take these calibration texts out, or evaluate with other --texts and --tasks.",
    )


def normal_words(text: str) -> list[str]:
    """Return a text's words in the form in which they are compared."""
    folded = unicodedata.normalize("NFKC", text).casefold()
    return _WORD.findall(unicodedata.normalize("NFKC", folded))


def _pieces(words: Sequence[str]) -> list[str]:
    """The words, those of scripts without spaces in single characters."""
    return [piece for word in words for piece in _PIECE.findall(word)]


class _Index:
    """The calibration texts, prepared for questions of where an evaluation text stands in them."""

    def __init__(self, texts: Iterable[tuple[str, str]]) -> None:
        self._whole: dict[bytes, str] = {}
        self._runs: dict[bytes, str] = {}
        self._blocks: dict[bytes, str] = {}
        self._lines: list[tuple[str, str]] = []
        for name, text in texts:
            words = normal_words(text)
            self._whole.setdefault(_digest(words), name)
            for run in _runs(words, SHARED_WORDS):
                self._runs.setdefault(_digest(run), name)
            pieces = _pieces(words)
            if len(pieces) > len(words):  # Else a block would hold a run of words.
                for block in _runs(pieces, SHARED_PIECES):
                    self._blocks.setdefault(_digest(block), name)
            self._lines.append((name, _line(pieces)))

    def place_of(self, text: str) -> str | None:
        """Say where a text stands and what is shared, None where it does not."""
        words = normal_words(text)
        if not words:
            return None
        if (name := self._whole.get(_digest(words))) is not None:
            return f"is {name}"
        pieces = _pieces(words)
        shared = self._shared(words, self._runs, SHARED_WORDS) or self._shared(pieces, self._blocks, SHARED_PIECES)
        if shared or len(words) >= SHARED_WORDS or (len(words) < SHORTEST_WORDS and len(pieces) < SHORTEST_PIECES):
            return shared
        line = _line(pieces)
        name = next((name for name, whole in self._lines if line in whole), None)
        return name and f"stands in {name}"

    def _shared(self, words: Sequence[str], known: dict[bytes, str], length: int) -> str | None:
        """Say with what text so many words or pieces in a row are shared, and how they begin."""
        for run in _runs(words, length) if known else ():
            name = known.get(_digest(run))
            if name is not None:
                noun = "words" if length == SHARED_WORDS else "characters"
                return f"shares {length} {noun} with {name} (“{' '.join(run[:_SHOWN_WORDS])} …”)"
        return None


def _named(texts: Iterable[Text | str], kind: str) -> Iterator[tuple[str, str]]:
    for number, text in enumerate(texts, start=1):
        yield (f"{kind} {number}", text) if isinstance(text, str) else (text.id, text.text)


def _runs(words: Sequence[str], length: int) -> Iterator[Sequence[str]]:
    return (words[start : start + length] for start in range(len(words) - length + 1))


def _line(words: Sequence[str]) -> str:
    return f" {' '.join(words)} "


def _digest(words: Sequence[str]) -> bytes:
    return hashlib.blake2b(" ".join(words).encode(), digest_size=16).digest()


def _is_control(letter: str) -> bool:
    return unicodedata.category(letter) == "Cc" and letter not in _LINE_BREAKS


def _invalid(where: str, why: str) -> errors.CalibrationInvalidError:
    return errors.CalibrationInvalidError(
        f"The calibration texts in {where} cannot be used.",
        why=f"{why[:1].upper()}{why[1:]}.",
        fix='Calibration texts are JSON lines of "id" and "text", such as the model will be used with.',
    )
