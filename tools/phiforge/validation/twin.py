"""Where the logits of every position come from: the variant itself, or the twin of one with a pruned head."""

from __future__ import annotations

import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from phiforge.graph.twin import has_pruned_head, make_twin

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

TWIN_NOTE = (
    "the variant gives the logits of the last position alone; logits of every position come from a twin whose graph "
    "was proved to differ in that and nothing else"
)
# Tokens of the prompts whose last rows are compared. Kernels take the rows of a prompt in groups of 2, 4 or more, so
# the lengths leave different remainders.
HEAD_LENGTHS = (1, 2, 15, 64, 127, 256)


@contextmanager
def scored_folder(variant: Path, work: Path) -> Iterator[Path]:
    """Yield a folder that gives the logits of every position: the variant's own, or its twin's while the block lasts.

    Args:
        variant: A complete variant folder.
        work: A folder on the variant's disk, where the twin is made. What a killed run leaves there ends in .partial.

    Raises:
        GraphMismatchError: The twin would differ in more than it should.
    """
    if not has_pruned_head(variant):
        yield variant
        return
    work.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".twin-", suffix=".partial", dir=work) as name:
        twin = Path(name)
        make_twin(variant, twin)
        yield twin


def head_prompts(texts: Sequence[Sequence[int]], context: int) -> list[list[int]]:
    """Return prompts of different lengths, each with one token after it, cut from the texts one after the other."""
    line = [int(token) for text in texts for token in text]
    return [line[: length + 1] for length in HEAD_LENGTHS if length < min(context, len(line))]
