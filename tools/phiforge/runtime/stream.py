"""One greedy answer, piece by piece as it is generated."""

from __future__ import annotations

from typing import TYPE_CHECKING

from phiforge.runtime.variant import runtime_errors

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from phiforge.runtime.variant import Variant


def stream(variant: Variant, prompt: Sequence[int], *, max_new_tokens: int) -> Iterator[str]:
    """Yield the text of each new token; the token that ends the answer is not shown.

    Raises:
        ContextTooLongError: The prompt leaves no room.
        VariantUnusableError: The runtime fails.
    """
    length = variant.prompt_length(len(prompt))
    with runtime_errors(variant.folder, "does not generate"):
        generator = variant.generator(max_length=min(length + max_new_tokens, variant.context_length))
        variant.append(generator, prompt)
        pieces = variant.token_stream()
        while not generator.is_done():
            generator.generate_next_token()
            token = int(generator.get_next_tokens()[0])
            if token not in variant.stop_ids:
                yield pieces.decode(token)
