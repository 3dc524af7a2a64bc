"""What a variant gave: a generation token by token, or the logits after a prompt."""

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


@dataclass(frozen=True)
class LastRows:
    """The logits after a prompt, float32 [vocab]: of its last token, and of one more token decoded after it."""

    prefill: NDArray[np.float32]
    step: NDArray[np.float32]
