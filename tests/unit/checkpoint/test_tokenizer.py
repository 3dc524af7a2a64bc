"""Tokenizers: facts, and the ways in which one does not fit."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from broken.checkpoints import CHAT_TEMPLATE, SPECIAL_TOKENS, make_checkpoint
from phiforge.checkpoint.config import load_config
from phiforge.checkpoint.tokenizer import check_tokenizer
from phiforge.errors import TokenizerMismatchError


def test_facts(tmp_path: Path) -> None:
    facts = check_tokenizer(tmp_path, load_config(make_checkpoint(tmp_path)))

    assert facts.vocab_size == 256 + 4 + 6 + 5
    assert tuple(facts.special_ids) == SPECIAL_TOKENS
    assert list(facts.special_ids.values()) == list(range(260, 266))
    assert facts.has_chat_template


@pytest.mark.parametrize("as_file", [True, False])
def test_chat_template_in_its_own_file_or_not_at_all(as_file: bool, tmp_path: Path) -> None:
    config = load_config(make_checkpoint(tmp_path))
    path = tmp_path / "tokenizer_config.json"
    settings = json.loads(path.read_text(encoding="utf-8"))
    del settings["chat_template"]
    path.write_text(json.dumps(settings), encoding="utf-8")
    before = check_tokenizer(tmp_path, config)
    if as_file:
        (tmp_path / "chat_template.jinja").write_text(CHAT_TEMPLATE, encoding="utf-8")
    after = check_tokenizer(tmp_path, config)

    assert after.has_chat_template is as_file
    assert (after.sha256 != before.sha256) is as_file


def test_a_stop_id_without_a_token(tmp_path: Path) -> None:
    config = replace(load_config(make_checkpoint(tmp_path)), stop_ids=(260, 300))

    with pytest.raises(TokenizerMismatchError, match=r"no token for the stop ids \[300\]"):
        check_tokenizer(tmp_path, config)


def test_an_id_without_a_row(tmp_path: Path) -> None:
    config = replace(load_config(make_checkpoint(tmp_path)), vocab_size=270)

    with pytest.raises(TokenizerMismatchError, match=r"'<\|tool_response\|>' with id 270, but the model has only 270"):
        check_tokenizer(tmp_path, config)


def test_a_broken_tokenizer_config_is_named(tmp_path: Path) -> None:
    config = load_config(make_checkpoint(tmp_path))
    (tmp_path / "tokenizer_config.json").write_text("{", encoding="utf-8")

    with pytest.raises(TokenizerMismatchError, match=r"tokenizer_config\.json"):
        check_tokenizer(tmp_path, config)
