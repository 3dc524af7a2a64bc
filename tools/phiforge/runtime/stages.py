"""Running a decoder in stages by onnxruntime itself, stage by stage, with the logits of every position.

onnxruntime-genai gives the last position's logits only and cannot go back. Here the same graphs run in the same windows
with the same lengths and cache, on the CPU or by the NPU's provider, as the stage's entry in genai_config.json says.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from phiforge import errors
from phiforge.machine import default_threads
from phiforge.runtime.generate import Generation
from phiforge.runtime.onnx_runtime import ort
from phiforge.runtime.qnn import session_options
from phiforge.runtime.variant import check_files, runtime_errors, stop_ids_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

DTYPES = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(int8)": np.int8,
    "tensor(int32)": np.int32,
    "tensor(int64)": np.int64,
    "tensor(uint16)": np.uint16,
}
IDS, LOGITS = "input_ids", "logits"
PAST, PRESENT = "past_key_values.", "present."


class StagedDecoder:
    """An opened decoder in stages. Make one with `open_stages`.

    Attributes:
        folder: The variant's folder.
        provider: "qnn" if any stage runs by the NPU's provider, or "cpu".
        threads: Threads of the CPU's operators.
        window: Tokens of a prefill graph.
        context_length: The most tokens of a sequence.
        vocab_size: Columns of its logits.
        stop_ids: The token ids that end a generation.
    """

    def __init__(self, folder: Path, config: Mapping[str, Any], *, threads: int) -> None:
        model = config["model"]
        decoder = model["decoder"]
        self.folder = folder
        self.threads = threads
        self.window = int(decoder["sliding_window"]["window_size"])
        self.context_length = int(model["context_length"])
        self.vocab_size = int(model["vocab_size"])
        self.stop_ids = stop_ids_of(config)
        self.pad_id = int(model["pad_token_id"])
        names = decoder["inputs"]
        self.length_names = (str(names["past_sequence_length"]), str(names["total_sequence_length"]))
        entries = [(name, entry) for group in decoder["pipeline"] for name, entry in group.items()]
        self.provider = "qnn" if any(provider_options(entry) for _, entry in entries) else "cpu"
        with runtime_errors(folder, "does not load"):
            self.stages = tuple(_open(folder, entry, threads) for _, entry in entries)

    def sequence(self) -> StagedSequence:
        """A new sequence, its cache empty."""
        return StagedSequence(self)


class StagedSequence:
    """One sequence of tokens with its cache, which the stages read and write in place."""

    def __init__(self, decoder: StagedDecoder) -> None:
        self._decoder = decoder
        self._cache: dict[str, Any] = {}
        self.length = 0
        for stage in decoder.stages:
            for value in stage.session.get_inputs():
                if value.name.startswith(PAST) and value.name not in self._cache:
                    dims = [size if isinstance(size, int) else decoder.context_length for size in value.shape]
                    self._cache[value.name] = ort.OrtValue.ortvalue_from_numpy(np.zeros(dims, DTYPES[value.type]))

    def prefill(self, ids: Sequence[int]) -> NDArray[np.float32]:
        """Take tokens in windows, the last one padded, and return their logits, float32 [n, vocab].

        Raises:
            ContextTooLongError: The windows do not fit the context.
            VariantUnusableError: The runtime fails.
        """
        window = self._decoder.window
        self._check_room(-(-len(ids) // window) * window)
        found = []
        for start in range(0, len(ids), window):
            part = list(ids[start : start + window])
            padded = part + [self._decoder.pad_id] * (window - len(part))
            rows = self._run([stage for stage in self._decoder.stages if stage.prompt], padded)
            found.append(self._logits(rows[: len(part)], part))
            self.length += len(part)
        return np.concatenate(found)

    def decode(self, token: int) -> NDArray[np.float32]:
        """Take one more token and return its logits, float32 [vocab]; errors as `prefill`."""
        self._check_room(1)
        rows = self._run([stage for stage in self._decoder.stages if stage.decode], [token])
        found: NDArray[np.float32] = self._logits(rows, [token])[0]
        self.length += 1
        return found

    def _check_room(self, more: int) -> None:
        asked, held = self.length + more, self._decoder.context_length
        if asked > held:
            raise errors.ContextTooLongError(
                f"A sequence of {asked:,} tokens does not fit the graphs of {self._decoder.folder}.",
                why=f"They hold {held:,} tokens, and a prompt is padded to windows of {self._decoder.window}.",
                fix="Shorten the prompt, or build with a larger --context.",
            )

    def _run(self, stages: Iterable[_Stage], ids: Sequence[int]) -> NDArray[Any]:
        """Run the stages before the head for a window or for one token; return what they give the head, [n, hidden]."""
        past, total = self._decoder.length_names
        state: dict[str, NDArray[Any]] = {
            IDS: np.array([ids], dtype=np.int64),
            past: np.array([[self.length + len(ids) - 1]], dtype=np.int32),
            total: np.array([self._decoder.context_length], dtype=np.int32),
        }
        made: NDArray[Any] | None = None
        with runtime_errors(self._decoder.folder, "does not answer"):
            for stage in stages:
                if not stage.head:
                    made = self._run_stage(stage, state)
        assert made is not None
        rows: NDArray[Any] = made[0]
        return rows

    def _run_stage(self, stage: _Stage, state: dict[str, NDArray[Any]]) -> NDArray[Any]:
        """Run one stage; what it gives joins the state, and its cache stays where it is."""
        binding = stage.session.io_binding()
        for value in stage.session.get_inputs():
            if value.name in self._cache:
                binding.bind_ortvalue_input(value.name, self._cache[value.name])
            else:
                binding.bind_cpu_input(value.name, state[value.name].astype(DTYPES[value.type], copy=False))
        handed = [value.name for value in stage.session.get_outputs() if not value.name.startswith(PRESENT)]
        for value in stage.session.get_outputs():
            if value.name.startswith(PRESENT):
                binding.bind_ortvalue_output(value.name, self._cache[PAST + value.name.removeprefix(PRESENT)])
            else:
                binding.bind_output(value.name)
        stage.session.run_with_iobinding(binding)
        outputs = dict(zip([value.name for value in stage.session.get_outputs()], binding.get_outputs(), strict=True))
        state.update({name: outputs[name].numpy() for name in handed})
        return state[handed[-1]]

    def _logits(self, rows: NDArray[Any], ids: Sequence[int]) -> NDArray[np.float32]:
        """Run the head on rows [n, hidden], each as a sequence of one token."""
        heads = [stage for stage in self._decoder.stages if stage.head]
        step = 1 if any(_is_fixed(stage) for stage in heads) else len(rows)
        found = []
        with runtime_errors(self._decoder.folder, "does not answer"):
            for start in range(0, len(rows), step):
                part = slice(start, start + step)
                state = {IDS: np.array(ids[part], dtype=np.int64)[:, None]}
                made = rows[part, None]
                for stage in heads:
                    for value in stage.session.get_inputs():
                        state.setdefault(value.name, made)
                    made = self._run_stage(stage, state)
                found.append(made[:, 0].astype(np.float32))
        return np.concatenate(found)


@dataclass(frozen=True)
class _Stage:
    session: Any
    head: bool
    prompt: bool
    decode: bool


def open_stages(folder: Path, *, threads: int | None = None) -> StagedDecoder:
    """Open a complete variant in stages.

    Raises:
        VariantUnusableError: A file is absent or cut short, or a session cannot be made.
        DependencyMissingError: A stage is for the NPU, and its provider is not installed.
    """
    return StagedDecoder(folder, check_files(folder), threads=threads or default_threads())


def provider_options(entry: Mapping[str, Any]) -> dict[str, str]:
    """The QNN options of a stage's entry in genai_config.json; none where it runs on the CPU."""
    listed = entry.get("session_options", {}).get("provider_options", [])
    return {key: str(value) for options in listed for key, value in options.get("qnn", {}).items()}


def staged_logits(decoder: StagedDecoder, token_ids: Sequence[int], prefill: int | None = None) -> NDArray[np.float32]:
    """Return the logits of a text: float32 [n, vocab], row i predicts token i + 1.

    Args:
        decoder: An opened decoder.
        token_ids: The text.
        prefill: Tokens that go in windows; the others are decoded one by one. None for all.

    Raises:
        ContextTooLongError: The text does not fit.
        VariantUnusableError: The runtime fails.
    """
    count = len(token_ids) if prefill is None else prefill
    sequence = decoder.sequence()
    rows = [sequence.prefill(token_ids[:count])] if count else []
    rows += [sequence.decode(token)[None] for token in token_ids[count:]]
    return np.concatenate(rows)


def staged_generate(decoder: StagedDecoder, prompt: Sequence[int], max_new_tokens: int) -> Generation:
    """Continue a prompt greedily; errors as `staged_logits`."""
    sequence = decoder.sequence()
    logits, made = sequence.prefill(prompt)[-1], list[int]()
    while len(made) < max_new_tokens:
        token = int(logits.argmax())
        if token in decoder.stop_ids:
            return Generation(tokens=tuple(made), stopped_by="stop-id")
        made.append(token)
        if sequence.length == decoder.context_length:
            break
        logits = sequence.decode(token)
    return Generation(tokens=tuple(made), stopped_by="length")


def _open(folder: Path, entry: Mapping[str, Any], threads: int) -> _Stage:
    options = provider_options(entry)
    settings = session_options(options) if options else ort.SessionOptions()
    settings.log_severity_level = 3
    settings.intra_op_num_threads = threads
    # Every stage has threads of its own; those that spin after one stage take the next one's time.
    settings.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = ort.InferenceSession(str(folder / entry["filename"]), settings)
    return _Stage(
        session=session,
        head=bool(entry.get("is_lm_head", False)),
        prompt=bool(entry.get("run_on_prompt", True)),
        decode=bool(entry.get("run_on_token_gen", True)),
    )


def _is_fixed(stage: _Stage) -> bool:
    return isinstance(stage.session.get_outputs()[0].shape[0], int)
