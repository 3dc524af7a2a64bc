"""A chat template said in pieces, as Foundry Local's inference_model.json wants it: text around each role's message.

The template is rendered with marks for the messages and cut at them. It can be said in pieces only if every
conversation is the pieces of its messages one after the other; that is tried on several, and a template that does more
is refused.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, NoReturn

from jinja2 import TemplateError
from jinja2.sandbox import ImmutableSandboxedEnvironment

from phiforge import errors

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

CONTENT = "{Content}"
TEMPLATE_FILE, TOKENIZER_CONFIG = "chat_template.jinja", "tokenizer_config.json"
# What the code of a template may raise.
_OF_A_TEMPLATE = (TemplateError, ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError)
_TRIED = (
    ("user",),
    ("system", "user"),
    ("user", "assistant", "user"),
    ("system", "user", "assistant", "user", "assistant", "user"),
)


@dataclass(frozen=True, kw_only=True)
class ChatPieces:
    """The text of each role's message around `{Content}`, and what an answer begins after."""

    system: str
    user: str
    assistant: str
    prompt: str


def chat_pieces(variant: Path) -> ChatPieces:
    """Say the chat template of a variant's folder in pieces.

    Raises:
        DestinationError: There is no template, it cannot be rendered, or it cannot be said that way.
    """
    template, tokens = _read(variant)
    render = _renderer(template, tokens, variant)
    # What ends a text that no answer follows, such as the token <|endoftext|>, belongs to no message.
    bare = _renderer(template, dict.fromkeys(tokens, ""), variant)
    user = bare([("user", CONTENT)], False)
    pieces = {
        "user": user,
        "system": bare([("system", CONTENT), ("user", CONTENT)], False).removesuffix(user),
        "assistant": bare([("user", CONTENT), ("assistant", CONTENT)], False).removeprefix(user),
    }
    prompt = render([("user", CONTENT)], True)
    begin = prompt.removeprefix(user)
    if any(piece.count(CONTENT) != 1 for piece in (*pieces.values(), prompt)):
        raise _unsayable(variant, "a message is left out, repeated or changed")
    for roles in _TRIED:
        messages = [(role, f"mark {number} of {role}") for number, role in enumerate(roles)]
        said = "".join(pieces[role].replace(CONTENT, content) for role, content in messages) + begin
        if render(messages, True) != said:
            raise _unsayable(variant, f"the conversation {', '.join(roles)} is more than its messages one by one")
    return ChatPieces(prompt=prompt, **pieces)


def _read(variant: Path) -> tuple[str, dict[str, str]]:
    """Read the template and the tokens that it may name."""
    try:
        config = json.loads((variant / TOKENIZER_CONFIG).read_text(encoding="utf-8"))
        file = variant / TEMPLATE_FILE
        template = file.read_text(encoding="utf-8") if file.is_file() else config["chat_template"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise _unsayable(variant, f"it has no readable {TEMPLATE_FILE}") from error
    tokens = {}
    for key in ("bos_token", "eos_token", "pad_token", "unk_token"):
        token = config.get(key)
        tokens[key] = str(token.get("content", "") if isinstance(token, dict) else token or "")
    return str(template), tokens


def _renderer(template: str, tokens: dict[str, str], variant: Path) -> Callable[[Sequence[tuple[str, str]], bool], str]:
    """Render as transformers does: a sandbox, blocks trimmed."""
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, autoescape=False)
    environment.globals["raise_exception"] = _refuse

    def render(messages: Sequence[tuple[str, str]], begin_answer: bool) -> str:
        try:
            return environment.from_string(template).render(
                messages=[{"role": role, "content": content} for role, content in messages],
                add_generation_prompt=begin_answer,
                **tokens,
            )
        except _OF_A_TEMPLATE as error:
            raise _unsayable(variant, f"it cannot be rendered: {error}") from error

    return render


def _refuse(message: str) -> NoReturn:
    raise TemplateError(message)


def _unsayable(variant: Path, why: str) -> errors.DestinationError:
    return errors.DestinationError(
        f"The chat template of the variant {variant.name} cannot be said as Foundry Local's PromptTemplate.",
        why=f"That has one piece of text for each role, and here {why}.",
        fix="Release to a folder, a Hugging Face repository or an OCI layout instead.",
    )
