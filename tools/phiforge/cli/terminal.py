"""The one place that makes consoles. What is printed is shown letter by letter: it has no markup and is not obeyed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.segment import Segment
from rich.text import Text

from phiforge.visible import visible

if TYPE_CHECKING:
    from collections.abc import Iterable

    from rich.console import ConsoleOptions, RenderableType


class Terminal(Console):
    """A console that reads no markup and no emoji codes, and sends no control character of a text but the line feed.

    Its own styles and movements are no text, and pass.
    """

    def render_str(self, text: str, **options: Any) -> Text:
        """Take a text, as a cell of a table, with what is not seen written out: before its width is counted."""
        return super().render_str(visible(text), **options)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Render as rich does, with what a terminal would obey made visible."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else Segment(visible(segment.text, keep="\n"), segment.style)


def console(*, stderr: bool = False, quiet: bool = False) -> Terminal:
    """A console on standard output or error as it is now; long lines are not broken."""
    return Terminal(stderr=stderr, quiet=quiet, markup=False, emoji=False, highlight=False, soft_wrap=True)


def say(out: Console, *parts: str | tuple[str, str]) -> None:
    """Print one line.

    Args:
        out: A console.
        parts: Texts, joined without a space; a pair is a text and its style. A line break in them is shown, not made.
    """
    pairs = [(part, "") if isinstance(part, str) else part for part in parts]
    out.print(Text.assemble(*((visible(text), style) for text, style in pairs)), soft_wrap=True)
