"""Opening a variant folder with onnxruntime-genai: complete or refused, with the threads this machine has."""

from __future__ import annotations

import json
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

from phiforge import errors
from phiforge.machine import default_threads
from phiforge.runtime.failures import RUNTIME_ERRORS
from phiforge.runtime.onnx_files import external_files
from phiforge.runtime.plugins import PLUGINS, WEBGPU, is_software, library_path, register_plugin

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

try:
    import onnxruntime_genai as og
except ImportError as missing:
    raise errors.DependencyMissingError(
        "Variants cannot be run here.",
        why=f"onnxruntime-genai does not import: {missing}.",
        fix="Install the runtime: `pip install phiforge[cpu]`, or the extra for your device.",
    ) from missing

CPU = "cpu"
# Software Vulkan computes prefills of 32 tokens and more wrongly (WebGPU plugin 0.4.0, Mesa 25.0): docs/log.md.
SOFTWARE_CHUNK = 31
CONFIG_FILE = "genai_config.json"
TOKENIZER_FILE = "tokenizer.json"
# Threads that are not set: onnxruntime-genai 0.18 then takes half the logical CPUs, or what genai_config.json says.
RUNTIME_THREADS = 0


class Variant:
    """An opened variant. Make one with `open_variant`.

    Attributes:
        folder: The variant's folder.
        provider: The execution provider its config promises, lower case: "cpu", "qnn", "webgpu", "dml", ...
        threads: Threads the CPU operators use; RUNTIME_THREADS where the runtime or the folder's config decides.
        vocab_size: Columns of its logits.
        context_length: The most tokens a sequence may have.
        window: Tokens of a prefill graph of fixed shape, or None.
        chunk: The most tokens of a prompt that are computed at once, None for all of them.
        stop_ids: The token ids that end a generation.
    """

    def __init__(
        self,
        folder: Path,
        config: Mapping[str, Any],
        *,
        threads: int,
        session_options: Mapping[str, str],
        stand_in: bool = False,
        chunk: int | None = None,
    ) -> None:
        facts = config["model"]
        self.folder = folder
        self.provider = CPU if stand_in else provider_of(config)
        self.chunk = chunk or None
        self.threads = threads
        self.vocab_size = int(facts["vocab_size"])
        self.context_length = int(facts["context_length"])
        self.window = window_of(config)
        self.stop_ids = stop_ids_of(config)
        set_here = {"intra_op_num_threads": threads} if threads != RUNTIME_THREADS else {}
        overlay = {"model": {"decoder": {"session_options": {**set_here, **session_options}}}}
        if self.provider in PLUGINS and _register(self.provider) and chunk is None:
            self.chunk = SOFTWARE_CHUNK
        with runtime_errors(folder, "does not load"):
            options = og.Config(str(folder))
            if stand_in:
                options.clear_providers()
            options.overlay(json.dumps(overlay))
            self._model = og.Model(options)
            self._tokenizer = og.Tokenizer(self._model)

    def encode(self, text: str) -> list[int]:
        """Return the token ids of a text by the shipped tokenizer."""
        with runtime_errors(self.folder, "does not tokenize"):
            return [int(token) for token in self._tokenizer.encode(text)]

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of token ids; special tokens are left out by the runtime."""
        with runtime_errors(self.folder, "does not detokenize"):
            return str(self._tokenizer.decode(np.asarray(ids, dtype=np.int32)))

    def token_stream(self) -> Any:
        """Return an `og.TokenizerStream`, whose `decode(token)` gives the text that one more token adds."""
        return self._tokenizer.create_stream()

    def apply_chat_template(self, messages: Sequence[Mapping[str, str]]) -> str:
        """Return the prompt text of a conversation, ready for the assistant's turn."""
        with runtime_errors(self.folder, "does not apply its chat template"):
            return str(self._tokenizer.apply_chat_template(json.dumps(list(messages), ensure_ascii=False)))

    def prompt_length(self, tokens: int) -> int:
        """Return what a prompt takes of a sequence's length: its tokens, padded to whole windows.

        Raises:
            ContextTooLongError: Nothing could be generated after it.
        """
        window = self.window or 1
        taken = -(-tokens // window) * window
        if taken >= self.context_length:
            padded = f", {taken:,} when it is padded to windows of {window}," if taken > tokens else ""
            raise errors.ContextTooLongError(
                f"A prompt of {tokens:,} tokens{padded} leaves no room for an answer.",
                why=f"The variant {self.folder} holds {self.context_length:,} tokens, prompt and answer together.",
                fix="Shorten the prompt, or build a variant with more context.",
            )
        return taken

    def parts(self, token_ids: NDArray[np.int32]) -> list[NDArray[np.int32]]:
        """Return the tokens of a prompt, int32 [n] or [batch, n], in the parts that are computed at once."""
        width, chunk = token_ids.shape[-1], self.chunk or token_ids.shape[-1]
        return [token_ids[..., start : start + chunk] for start in range(0, width, max(chunk, 1))]

    def append(self, generator: Any, token_ids: Sequence[int] | Sequence[Sequence[int]] | NDArray[np.int32]) -> None:
        """Hand the tokens of a prompt to a generator of this variant, part by part."""
        for part in self.parts(np.asarray(token_ids, dtype=np.int32)):
            generator.append_tokens(part)

    def generator(self, *, max_length: int, min_length: int = 0, batch_size: int = 1) -> Any:
        """Return a fresh greedy `og.Generator`.

        Args:
            max_length: Tokens of the whole sequence, prompt included, at which it ends.
            min_length: Tokens up to which stop ids are never chosen. The runtime sets their logits to the lowest
                float32, also in what `get_output("logits")` returns of decode steps.
            batch_size: Sequences decoded together.
        """
        params = og.GeneratorParams(self._model)
        params.set_search_options(
            do_sample=False, max_length=max_length, min_length=min_length, batch_size=batch_size, num_beams=1
        )
        return og.Generator(self._model, params)


def open_variant(
    folder: Path,
    *,
    threads: int | None = None,
    session_options: Mapping[str, str] | None = None,
    stand_in: bool = False,
    chunk: int | None = None,
) -> Variant:
    """Open a complete variant folder.

    onnxruntime-genai gives its CPU session half the logical CPUs; the number is set here instead, on the device.

    Args:
        folder: A folder with genai_config.json, the ONNX files it names, their data files and tokenizer.json.
        threads: Threads of the CPU operators; None for `machine.default_threads()`, RUNTIME_THREADS to set none.
        session_options: Entries for onnxruntime's session configuration, as "session.intra_op.allow_spinning"; it
            ignores one it does not know.
        stand_in: Run the same graph on the CPU provider, whatever the folder promises. What comes of it is surrogate.
        chunk: Tokens of a prompt to compute at once, 0 for all; None for all, but few on a software adapter.

    Raises:
        VariantUnusableError: A file is absent or cut short, or the runtime refuses the folder.
    """
    config = check_files(folder)
    chosen = default_threads() if threads is None else threads
    return Variant(
        folder, config, threads=chosen, session_options=session_options or {}, stand_in=stand_in, chunk=chunk
    )


def read_config(folder: Path) -> dict[str, Any]:
    """Return genai_config.json.

    Raises:
        VariantUnusableError: It is absent, no JSON, or lacks a key this module needs.
    """
    try:
        config: dict[str, Any] = json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8"))
        facts = config["model"]
        _ = facts["decoder"], int(facts["vocab_size"]), int(facts["context_length"]), stop_ids_of(config)
    except OSError as error:
        raise _unusable(folder, "is no variant", f"{CONFIG_FILE} cannot be read: {error}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise _unusable(folder, "is not usable", f"{CONFIG_FILE} is not valid: {error!r}") from error
    return config


def check_files(folder: Path) -> dict[str, Any]:
    """Check that every file the variant needs is there and long enough; return its config.

    Raises:
        VariantUnusableError: A file is absent, unreadable or cut short.
    """
    config = read_config(folder)
    names = onnx_names(config)
    if not names:
        raise _unusable(folder, "is not usable", f"{CONFIG_FILE} names no ONNX file")
    for name in (TOKENIZER_FILE, *names):
        if not (folder / name).is_file():
            raise _unusable(folder, "is incomplete", f"{name} is absent")
    for name in names:
        _check_data(folder, name)
    return config


def _check_data(folder: Path, name: str) -> None:
    try:
        needs = external_files(folder / name)
    except (OSError, ValueError) as error:
        raise _unusable(folder, "is not usable", f"{name} is no readable ONNX file: {error}") from error
    for location, length in needs.items():
        data = (folder / name).parent / location
        if not data.is_file():
            raise _unusable(folder, "is incomplete", f"{location}, which {name} refers to, is absent")
        if data.stat().st_size < length:
            has = data.stat().st_size
            raise _unusable(folder, "is incomplete", f"{location} has {has} bytes, {name} needs {length}")


def onnx_names(config: Mapping[str, Any]) -> list[str]:
    """Return the ONNX files a genai_config names: one decoder, or the stages of a decoder pipeline."""
    decoder = config["model"]["decoder"]
    stages = [stage for entry in decoder.get("pipeline", []) for stage in entry.values()]
    others = [part for part in config["model"].values() if isinstance(part, dict)]
    named = [part["filename"] for part in (*stages, *others) if isinstance(part.get("filename"), str)]
    return list(dict.fromkeys(name for name in named if name.endswith(".onnx")))


def provider_of(config: Mapping[str, Any]) -> str:
    """Return the provider a genai_config promises, lower case, any of its stages; no provider option means the CPU."""
    decoder = config["model"]["decoder"]
    parts = [decoder, *(stage for entry in decoder.get("pipeline", []) for stage in entry.values())]
    listed = [part.get("session_options", {}).get("provider_options", []) for part in parts]
    names = [name for options in listed for option in options for name in option]
    return str(names[0]).lower() if names else CPU


def window_of(config: Mapping[str, Any]) -> int | None:
    """Return the tokens of a prefill graph; None unless a genai_config is of a decoder in stages."""
    decoder = config["model"]["decoder"]
    return int(decoder["sliding_window"]["window_size"]) if decoder.get("pipeline") else None


def stop_ids_of(config: Mapping[str, Any]) -> tuple[int, ...]:
    """Return `eos_token_id` of a genai_config, which is one id or a list of them."""
    ids = config["model"]["eos_token_id"]
    return tuple(int(token) for token in (ids if isinstance(ids, list) else [ids]))


@contextmanager
def runtime_errors(folder: Path, what: str) -> Iterator[None]:
    """Turn the runtimes' own errors into VariantUnusableError."""
    try:
        yield
    except RUNTIME_ERRORS as error:
        raise _unusable(folder, what, str(error).strip() or type(error).__name__) from error


@cache
def _register(name: str) -> bool:
    """Register a plugin with onnxruntime-genai, once in a process, and return whether its device is software.

    Raises:
        DependencyMissingError: It is not installed, or offers no device here.
    """
    devices = register_plugin(name)
    og.register_execution_provider_library(PLUGINS[name].provider, library_path(name))
    return name == WEBGPU and is_software(devices[0])


def _unusable(folder: Path, what: str, why: str) -> errors.VariantUnusableError:
    return errors.VariantUnusableError(
        f"The variant {folder} {what}.",
        why=f"{why}.",
        fix="Build it again with `phiforge build`, or copy the whole folder again.",
    )
