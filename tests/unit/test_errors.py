from __future__ import annotations

import re
from pathlib import Path

from phiforge import errors

DOCS = Path(__file__).parents[2] / "docs" / "errors.md"


def _classes() -> list[type[errors.PhiforgeError]]:
    return sorted(errors.PhiforgeError.__subclasses__(), key=lambda cls: cls.exit_code)


def test_every_class_has_its_own_exit_code() -> None:
    codes = [cls.exit_code for cls in _classes()]
    assert len(set(codes)) == len(codes)
    assert min(codes) >= 10
    assert max(codes) < 126


def test_every_class_is_documented_under_its_code() -> None:
    headings = dict(re.findall(r"^## (\d+)\n\n`(\w+)`", DOCS.read_text(encoding="utf-8"), flags=re.MULTILINE))
    assert headings == {str(cls.exit_code): cls.__name__ for cls in _classes()}


def test_a_message_has_four_parts() -> None:
    error = errors.DiskFullError("It is full.", why="Too much.", fix="Free some.")
    assert (error.what, error.why, error.fix) == ("It is full.", "Too much.", "Free some.")
    assert error.read == "docs/errors.md#26"
