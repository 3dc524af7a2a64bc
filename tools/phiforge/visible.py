"""Text from elsewhere as what can be seen of it: nothing in it that is obeyed, hides or turns what stands beside it."""

from __future__ import annotations

import unicodedata

# Control (C0, C1 and delete), format (directions, invisible marks), half a surrogate pair, and the breaks of lines and
# paragraphs; The Unicode Standard, 4.5. A terminal obeys the first; the others deceive who reads.
_UNSEEN = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})


def visible(text: str, keep: str = "") -> str:
    r"""Return text with every character that cannot be seen written as its escape, as "\x1b" or "\u202e".

    Args:
        text: Any text, such as the name of a file or a reason in a piece of evidence.
        keep: Characters that stay as they are all the same, such as the line feed.
    """
    return "".join(
        ascii(letter)[1:-1] if unicodedata.category(letter) in _UNSEEN and letter not in keep else letter
        for letter in text
    )
