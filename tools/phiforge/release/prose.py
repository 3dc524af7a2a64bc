"""Text from elsewhere as Markdown that shows it and does nothing else, and tables."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

# What within a line Markdown could take for markup, and the slashes and dots by which it knows addresses.
_MARKUP = re.compile(r"([\\`*_\[\]|~$#@]|(?<=:)/(?=/)|(?<=www)\.)", re.IGNORECASE)


def literal(text: str) -> str:
    """Return text as Markdown on one line that is shown letter by letter, markup and addresses included."""
    plain = " ".join("".join(letter if letter.isprintable() else " " for letter in text).split())
    escaped = _MARKUP.sub(r"\\\1", plain)
    return escaped.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table whose cells show their text letter by letter."""
    lines = [" | ".join(head), " | ".join("---" for _ in head)]
    lines += [" | ".join(literal(cell) for cell in row) for row in rows]
    return "".join(f"| {line} |\n" for line in lines)
