"""The tokenizer of a checkpoint, checked against the model's vocabulary."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tokenizers import Tokenizer

from phiforge.checkpoint.config import ModelConfig
from phiforge.checkpoint.fields import JsonObject, read_json_object
from phiforge.errors import TokenizerMismatchError
from phiforge.hashing import hash_file, hash_listing

TOKENIZER_FILE = "tokenizer.json"
TOKENIZER_CONFIG_FILE = "tokenizer_config.json"
CHAT_TEMPLATE_FILE = "chat_template.jinja"
_FIX = "Restore the tokenizer files that belong to this checkpoint from the model's publisher."


@dataclass(frozen=True, kw_only=True)
class TokenizerFacts:
    """What a build needs to know of a tokenizer.

    Attributes:
        vocab_size: Tokens it knows, added ones included; models often have room for a few more.
        special_ids: Text of each special token to its id, in order of the ids.
        has_chat_template: Whether there is a template, in a file of its own or in tokenizer_config.json.
        sha256: One hash over all tokenizer files.
    """

    vocab_size: int
    special_ids: dict[str, int]
    has_chat_template: bool
    sha256: str


def tokenizer_files(folder: Path) -> tuple[Path, ...]:
    """Lists the files of a folder that make up its tokenizer, sorted by name."""
    others = ("special_tokens_map.json", "added_tokens.json", CHAT_TEMPLATE_FILE, "vocab.json", "merges.txt")
    return tuple(
        path
        for path in sorted(folder.iterdir())
        if path.is_file() and (path.name in others or path.name.startswith("tokenizer"))
    )


def check_tokenizer(folder: Path, config: ModelConfig) -> TokenizerFacts:
    """Loads tokenizer.json and checks that every id fits the model and that the stop ids exist.

    Args:
        folder: The checkpoint.
        config: Its configuration; only `vocab_size` and `stop_ids` are used.

    Raises:
        TokenizerMismatchError: tokenizer.json is absent or unreadable, or does not fit the model.
    """
    path = folder / TOKENIZER_FILE
    tokenizer = _load(path)
    token, highest = max(
        tokenizer.get_vocab(with_added_tokens=True).items(), key=lambda item: item[1], default=("", -1)
    )
    if highest >= config.vocab_size:
        raise TokenizerMismatchError(
            f"{path} has the token {token!r} with id {highest}, but the model has only {config.vocab_size} ids.",
            why="The embedding table has no row for such an id, so the tokenizer is of another model.",
            fix=_FIX,
        )
    unknown = [stop for stop in config.stop_ids if tokenizer.id_to_token(stop) is None]
    if unknown:
        raise TokenizerMismatchError(
            f"{path} has no token for the stop ids {unknown}.",
            why="config.json or generation_config.json says that these ids end an answer, but no such token exists.",
            fix=_FIX,
        )
    special = sorted((i, t.content) for i, t in tokenizer.get_added_tokens_decoder().items() if t.special)
    return TokenizerFacts(
        vocab_size=tokenizer.get_vocab_size(with_added_tokens=True),
        special_ids={content: token_id for token_id, content in special},
        has_chat_template=read_chat_template(folder) is not None,
        sha256=hash_listing({path.name: hash_file(path) for path in tokenizer_files(folder)}),
    )


def read_chat_template(folder: Path) -> str | None:
    """Gives the text of the chat template, from a file of its own or from tokenizer_config.json; None without one.

    Raises:
        TokenizerMismatchError: tokenizer_config.json cannot be read.
    """
    file = folder / CHAT_TEMPLATE_FILE
    if file.is_file():
        return file.read_text(encoding="utf-8", errors="replace")
    path = folder / TOKENIZER_CONFIG_FILE
    template = _read_config(path).get("chat_template") if path.is_file() else None
    if isinstance(template, list):  # Several, by name; the one called default is meant.
        named = {item.get("name"): item.get("template") for item in template if isinstance(item, dict)}
        template = named.get("default") or next(iter(named.values()), None)
    return str(template) if template else None


def _load(path: Path) -> Tokenizer:
    if not path.is_file():
        raise TokenizerMismatchError(
            f"The tokenizer file {path} does not exist.",
            why="Every Phi-4 checkpoint comes with a tokenizer.json, and a package cannot do without one.",
            fix=_FIX,
        )
    try:
        return Tokenizer.from_file(str(path))
    except Exception as error:  # The library raises plain Exception for whatever it cannot read.
        raise TokenizerMismatchError(
            f"The tokenizer file {path} cannot be read.",
            why=f"The tokenizers library says: {error}.",
            fix=_FIX,
        ) from error


def _read_config(path: Path) -> JsonObject:
    try:
        return read_json_object(path)
    except ValueError as error:
        raise TokenizerMismatchError(
            f"{path} cannot be read as JSON.",
            why=f"The parser says: {error}.",
            fix=_FIX,
        ) from error
