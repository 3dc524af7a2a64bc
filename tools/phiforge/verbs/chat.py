"""Chat: talk to a package, on the runtime it ships for."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from phiforge import errors
from phiforge.verbs.tuned import tuned_subjects

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from phiforge.runtime.variant import Variant


@dataclass
class Conversation:
    """An open conversation with one variant."""

    variant: Variant
    max_new_tokens: int
    messages: list[dict[str, str]] = field(default_factory=list)

    def say(self, text: str) -> Iterator[str]:
        """Say something, and yield the answer piece by piece as it is generated.

        Raises:
            ContextTooLongError: The conversation no longer fits the variant's context.
        """
        from phiforge.runtime.stream import stream

        self.messages.append({"role": "user", "content": text})
        prompt = self.variant.encode(self.variant.apply_chat_template(self.messages))
        try:
            room = self.variant.context_length - self.variant.prompt_length(len(prompt))
        except errors.ContextTooLongError:
            self.messages.pop()
            raise
        answer = ""
        for piece in stream(self.variant, prompt, max_new_tokens=min(self.max_new_tokens, room)):
            answer += piece
            yield piece
        self.messages.append({"role": "assistant", "content": answer})


def chat(
    package: Path, *, max_new_tokens: int = 512, threads: int | None = None, tuning: Path | None = None
) -> Conversation:
    """Open a conversation with the first variant of a package that this machine can run.

    Args:
        package: A package, a built variant's folder, or a model folder of ONNX Runtime GenAI.
        max_new_tokens: Longest answer, in tokens.
        threads: Threads of the runtime; by default the tuning's, else the cores this process may use.
        tuning: What `phiforge tune` wrote on this machine; the variant it chose is opened with its settings.

    Raises:
        VariantUnusableError: There is no variant, or it does not load.
        EvidenceInvalidError: The tuning cannot be used for this package on this machine.
    """
    from phiforge.runtime.variant import open_variant

    subject, settings = tuned_subjects(package, tuning)[0]
    variant = open_variant(
        subject.folder,
        threads=threads or (settings.threads if settings else None),
        session_options=settings.session_options if settings else None,
    )
    return Conversation(variant=variant, max_new_tokens=max_new_tokens)
