"""What a generation was, token by token."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@dataclass(frozen=True)
class Trace:
    """A greedy continuation with the logits each token was chosen by.

    `tokens` holds prompt and continuation; row j of `logits` (float32, [steps, vocab]) chose
    `tokens[prompt_tokens + j]`.
    """

    tokens: tuple[int, ...]
    prompt_tokens: int
    logits: NDArray[np.float32]
