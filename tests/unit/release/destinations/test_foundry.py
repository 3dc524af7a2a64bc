"""The folder for Foundry Local, and chat templates said in pieces."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from phiforge import errors
from phiforge.release.destinations import check_destination, parse_destination, publish
from phiforge.release.destinations.chat_pieces import chat_pieces
from unit.release.destinations.releases import MODEL, TEMPLATE, VARIANTS, faults, make_release, seal, unchecked

PHI_4 = (
    "{% for message in messages %}{% if (message['role'] == 'system') %}"
    "{{'<|im_start|>system<|im_sep|>' + message['content'] + '<|im_end|>'}}{% elif (message['role'] == 'user') %}"
    "{{'<|im_start|>user<|im_sep|>' + message['content'] + '<|im_end|>'}}{% elif (message['role'] == 'assistant') %}"
    "{{'<|im_start|>assistant<|im_sep|>' + message['content'] + '<|im_end|>'}}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant<|im_sep|>' }}{% endif %}"
)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.fsync", lambda descriptor: None)


def scan(cache: Path) -> dict[str, Path]:
    """What Foundry Local finds in a cache: the rules of local_model_scanner.cc, written anew."""
    found = {}

    def look(folder: Path) -> None:
        description = folder / "inference_model.json"
        if (folder / "genai_config.json").exists() and description.exists():
            name = json.loads(description.read_bytes()).get("Name", "")
            if name and not (folder / "download.tmp").exists():
                found[name if ":" in name else f"{name}:0"] = folder
            return
        for entry in folder.iterdir():
            if entry.is_dir():
                look(entry)

    for publisher in cache.iterdir():
        if publisher.is_dir():
            look(publisher)
    return found


@pytest.mark.parametrize("place", [".", "phiforge", "phiforge/phi-4-nano"])
def test_foundry_local_finds_every_variant(place: str, tmp_path: Path) -> None:
    prepared = make_release(tmp_path / "prepared")
    destination = parse_destination(f"foundry:{tmp_path / 'cache' / place}")
    check_destination(destination, MODEL)
    publish(prepared, destination, check=unchecked, seal=seal)
    folder = tmp_path / "cache" / place

    assert {name: path.name for name, path in scan(tmp_path / "cache").items()} == {
        f"{MODEL}-{name}:0": name for name in VARIANTS
    }
    assert faults(folder) == []
    assert {path.name for path in folder.iterdir() if path.is_file()} == {
        "CHANGES.md", "LICENSE", "README.md", "SHA256SUMS", "release.json", "report.html", "signature.json",
    }  # fmt: skip
    described = json.loads((folder / "cpu-int4" / "inference_model.json").read_bytes())
    assert described["PromptTemplate"] == {
        "system": "<|system|>{Content}<|end|>",
        "user": "<|user|>{Content}<|end|>",
        "assistant": "<|assistant|>{Content}<|end|>",
        "prompt": "<|user|>{Content}<|end|><|assistant|>",
    }
    for file in (prepared / f"{MODEL}.ortpackage" / "models" / "model" / "cpu-int4").iterdir():
        assert (folder / "cpu-int4" / file.name).read_bytes() == file.read_bytes()


def variant(folder: Path, template: str | None, config: object = None) -> Path:
    folder.mkdir()
    config = {"eos_token": {"content": "<|endoftext|>"}} if config is None else config
    (folder / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    if template is not None:
        (folder / "chat_template.jinja").write_text(template, encoding="utf-8")
    return folder


def test_the_template_of_phi_4(tmp_path: Path) -> None:
    pieces = chat_pieces(variant(tmp_path / "v", PHI_4))

    assert pieces.system == "<|im_start|>system<|im_sep|>{Content}<|im_end|>"
    assert pieces.prompt == "<|im_start|>user<|im_sep|>{Content}<|im_end|><|im_start|>assistant<|im_sep|>"


def test_a_template_in_the_tokenizers_config(tmp_path: Path) -> None:
    assert chat_pieces(variant(tmp_path / "v", None, {"chat_template": TEMPLATE})).user == "<|user|>{Content}<|end|>"


@pytest.mark.parametrize(
    "template",
    [
        "{{ '<|system|>You are Phi.' }}" + TEMPLATE,
        "{{ bos_token }}" + TEMPLATE.replace("{{ '<|'", "{% if loop.index > 1 %}next {% endif %}{{ '<|'"),
        "{{ messages | length }}" + TEMPLATE,
        TEMPLATE.replace("message['content']", "message['content'] | upper"),
        TEMPLATE.replace("message['content']", "message['content'] * 2"),
        TEMPLATE.replace("message['content']", "''"),
        TEMPLATE.replace("{% for", "{{ raise_exception('no system') if messages[0]['role'] == 'system' }}{% for"),
        "{% for message in messages %}{{ message['",
        "{{ messages.__class__.__mro__ }}",
        "{{ 1 / 0 }}",
    ],
)
def test_what_cannot_be_said_in_pieces_is_refused(template: str, tmp_path: Path) -> None:
    with pytest.raises(errors.DestinationError, match=re.escape("PromptTemplate")) as caught:
        chat_pieces(variant(tmp_path / "v", template))
    assert "one piece of text for each role" in caught.value.why


@pytest.mark.parametrize("config", [{}, [], "x"])
def test_no_template(config: object, tmp_path: Path) -> None:
    with pytest.raises(errors.DestinationError, match="cannot be said"):
        chat_pieces(variant(tmp_path / "v", None, config))


def test_a_refused_template_leaves_nothing(tmp_path: Path) -> None:
    prepared = make_release(tmp_path / "prepared", template="{{ 'x' }}")
    with pytest.raises(errors.DestinationError):
        publish(prepared, parse_destination(f"foundry:{tmp_path / 'at' / 'out'}"), check=unchecked, seal=seal)

    assert list((tmp_path / "at").iterdir()) == []
