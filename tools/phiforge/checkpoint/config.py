"""config.json of a checkpoint, read and checked as a whole: every fault is named at once."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from phiforge.checkpoint.family import models_of
from phiforge.checkpoint.fields import Fields, JsonObject, read_json_object
from phiforge.errors import (
    ArchitectureUnsupportedError,
    CheckpointNotFoundError,
    ConfigInvalidError,
    ConfigMissingError,
)

SUPPORTED_ARCHITECTURES = ("Phi3ForCausalLM",)
DTYPES = ("bfloat16", "float16", "float32")
END_OF_TURN = "<|end|>"
_LAYER_LIMIT = 1000  # Far above any model, and low enough that listing the tensors of a nonsense value is quick.

RopeKind = Literal["default", "longrope"]


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The shapes and constants of a model.

    Attributes:
        original_max_positions: Positions before the rotary embedding was stretched; None unless it is longrope.
        partial_rotary_factor: Share of each head that is rotated.
        tied_embeddings: Whether the head uses the embedding table, so that no lm_head.weight is stored.
        stop_ids: Sorted ids that end an answer: those of config.json and generation_config.json, `<|end|>`, and those
            of the published models of these shapes.
        added_stop_ids: Those of `stop_ids` that neither configuration file names.
        dtype: What config.json says the weights are stored in; the weights themselves may differ.
    """

    architecture: str
    model_type: str
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    layer_count: int
    head_count: int
    kv_head_count: int
    head_size: int
    max_positions: int
    original_max_positions: int | None
    rope_kind: RopeKind
    rope_theta: float
    partial_rotary_factor: float
    tied_embeddings: bool
    stop_ids: tuple[int, ...]
    dtype: str
    added_stop_ids: tuple[int, ...] = ()

    @property
    def rotary_size(self) -> int:
        """Elements of each head that are rotated."""
        return int(self.head_size * self.partial_rotary_factor)


@dataclass(frozen=True)
class _Rope:
    kind: RopeKind
    theta: float
    partial_factor: float
    original_max_positions: int | None
    factor_lengths: tuple[tuple[str, int], ...]


def load_config(folder: Path, *, quantized: bool = False) -> ModelConfig:
    """Reads config.json, with generation_config.json and tokenizer.json for the stop ids.

    Args:
        folder: The checkpoint.
        quantized: Whether the checkpoint's weights may be quantized, as in what our own quantizer writes.

    Raises:
        CheckpointNotFoundError: The folder does not exist.
        ConfigMissingError: It holds no config.json.
        ConfigInvalidError: A file is not JSON, or fields are absent, absurd or contradict each other.
        ArchitectureUnsupportedError: The model is none of `SUPPORTED_ARCHITECTURES`.
    """
    require_folder(folder)
    path = folder / "config.json"
    if not path.is_file():
        raise ConfigMissingError(
            f"The checkpoint {folder} holds no config.json.",
            why="A checkpoint is a Hugging Face folder, and its config.json gives the shapes of the model.",
            fix="Name the folder that holds config.json, or download the checkpoint again.",
        )
    content = _read_object(path)
    architecture = _architecture(path, content)
    quantization = content.get("quantization_config")
    if quantized and isinstance(quantization, dict):
        # Olive unties the floats and says in here that the codes are tied.
        content = {**content, "tie_word_embeddings": quantization.get("tie_word_embeddings", False)}
    fields = Fields(content)
    if not quantized and quantization is not None:
        fields.faults.append("quantization_config is there, so the weights are quantized already")
    named = _named_stop_ids(folder, fields)
    added_tokens = _added_tokens(folder)
    end_of_turn = {token_id for token_id, content in (added_tokens or {}).items() if content == END_OF_TURN}
    if not named | end_of_turn:
        fields.faults.append("eos_token_id is absent, here and in generation_config.json, so no answer would end")
    config = _build(architecture, fields, tuple(sorted(named | end_of_turn)))
    if fields.faults:
        raise ConfigInvalidError(
            f"{path} does not describe a model that can be built: {'; '.join(fields.faults)}.",
            why=f"The configuration has {len(fields.faults)} fault(s), all named above.",
            fix="Restore config.json (and generation_config.json) from the model's publisher, or correct these fields.",
        )
    return _with_known_stop_ids(config, named, added_tokens)


def require_folder(folder: Path) -> None:
    """Checks that the checkpoint is a folder.

    Raises:
        CheckpointNotFoundError: It is not.
    """
    if folder.is_dir():
        return
    why = "The path leads to a file." if folder.exists() else "Nothing exists at this path."
    raise CheckpointNotFoundError(
        f"There is no checkpoint folder {folder}.",
        why=why,
        fix="Check the spelling, or download the checkpoint to this folder first.",
    )


def _read_object(path: Path) -> JsonObject:
    try:
        return read_json_object(path)
    except ValueError as error:
        raise ConfigInvalidError(
            f"{path} cannot be read as JSON.",
            why=f"The parser says: {error}.",
            fix=f"Restore {path.name} from the model's publisher; an interrupted download often leaves half a file.",
        ) from error


def _architecture(path: Path, content: JsonObject) -> str:
    named = content.get("architectures")
    if isinstance(named, list) and len(named) == 1 and named[0] in SUPPORTED_ARCHITECTURES:
        return str(named[0])
    found = ", ".join(map(str, named)) if isinstance(named, list) and named else "none"
    raise ArchitectureUnsupportedError(
        f"{path} names the architecture {found}.",
        why=f"phiforge builds {', '.join(SUPPORTED_ARCHITECTURES)} and nothing else.",
        fix="Use a text-only Phi-4 checkpoint, such as phi-4-mini-instruct or phi-4.",
    )


def _named_stop_ids(folder: Path, fields: Fields) -> set[int]:
    ids = fields.ids("eos_token_id")
    generation_path = folder / "generation_config.json"
    if generation_path.is_file():
        generation = Fields(_read_object(generation_path))
        ids |= generation.ids("eos_token_id")
        fields.faults.extend(f"generation_config.json: {fault}" for fault in generation.faults)
    return ids


def _added_tokens(folder: Path) -> dict[int, str] | None:
    """Gives the text of each added token by its id, None where there is no readable tokenizer.json."""
    try:
        added = read_json_object(folder / "tokenizer.json").get("added_tokens")
    except (FileNotFoundError, ValueError):
        return None  # The tokenizer has its own check, with its own error.
    tokens = [token for token in added if isinstance(token, dict)] if isinstance(added, list) else []
    return {number: str(token.get("content")) for token in tokens for number in Fields(token).ids("id")}


def _with_known_stop_ids(config: ModelConfig, named: set[int], added_tokens: dict[int, str] | None) -> ModelConfig:
    """Adds the stop ids that published models of these shapes have, unless the tokenizer has no such token."""
    known = {stop for model in models_of(config) for stop in model.stop_ids}
    if added_tokens is not None:
        known &= added_tokens.keys()
    stop_ids = tuple(sorted({*config.stop_ids, *known}))
    return replace(config, stop_ids=stop_ids, added_stop_ids=tuple(stop for stop in stop_ids if stop not in named))


def _build(architecture: str, fields: Fields, stop_ids: tuple[int, ...]) -> ModelConfig:
    hidden_size = fields.positive_int("hidden_size")
    head_count = fields.positive_int("num_attention_heads")
    rope = _rope(fields)
    config = ModelConfig(
        architecture=architecture,
        model_type=str(fields.get("model_type") or "phi3"),
        vocab_size=fields.positive_int("vocab_size"),
        hidden_size=hidden_size,
        intermediate_size=fields.positive_int("intermediate_size"),
        layer_count=fields.positive_int("num_hidden_layers", limit=_LAYER_LIMIT),
        head_count=head_count,
        kv_head_count=fields.positive_int("num_key_value_heads", default=head_count),
        head_size=fields.positive_int("head_dim", default=max(1, hidden_size // head_count)),
        max_positions=fields.positive_int("max_position_embeddings"),
        original_max_positions=rope.original_max_positions,
        rope_kind=rope.kind,
        rope_theta=rope.theta,
        partial_rotary_factor=rope.partial_factor,
        tied_embeddings=fields.flag("tie_word_embeddings", default=False),
        stop_ids=stop_ids,
        dtype=_dtype(fields),
    )
    if not fields.faults:
        fields.faults.extend(_contradictions(config, rope, explicit_head=fields.get("head_dim") is not None))
    return config


def _dtype(fields: Fields) -> str:
    # transformers 5 writes `dtype`, earlier versions `torch_dtype`; both read an absent one as float32.
    value = fields.get("dtype") or fields.get("torch_dtype") or "float32"
    name = str(value).removeprefix("torch.")
    if name not in DTYPES:
        fields.faults.append(f"dtype is {value!r}; it must be one of {', '.join(DTYPES)}")
    return name


def _rope(fields: Fields) -> _Rope:
    """Reads the rotary embedding in either form.

    transformers 4 has `rope_theta` and `partial_rotary_factor` at the top and `rope_scaling` (or null) beside them;
    transformers 5 has all of them in `rope_parameters`.
    """
    merged = {name: fields.get(name) for name in ("rope_theta", "partial_rotary_factor")}
    merged["original_max_position_embeddings"] = fields.get("original_max_position_embeddings")
    for name in ("rope_scaling", "rope_parameters"):
        nested = fields.get(name)
        if isinstance(nested, dict):
            merged |= nested
        elif nested is not None:
            fields.faults.append(f"{name} is {nested!r}, neither an object nor null")
    rope = Fields(merged)
    named = merged.get("rope_type") or merged.get("type") or "default"
    kind: RopeKind = "longrope" if named == "longrope" else "default"
    if named not in ("default", "longrope"):
        rope.faults.append(f"the rotary embedding is of type {named!r}; default and longrope are supported")
    lengths = tuple((name, _factor_count(rope, name)) for name in ("short_factor", "long_factor"))
    result = _Rope(
        kind=kind,
        theta=rope.positive_float("rope_theta", 10_000.0),
        partial_factor=rope.positive_float("partial_rotary_factor", 1.0),
        original_max_positions=rope.positive_int("original_max_position_embeddings") if kind == "longrope" else None,
        factor_lengths=lengths if kind == "longrope" else (),
    )
    fields.faults.extend(rope.faults)
    return result


def _factor_count(rope: Fields, name: str) -> int:
    factors = rope.get(name)
    if not isinstance(factors, list):
        return 0
    for factor in factors:
        if isinstance(factor, bool) or not isinstance(factor, int | float) or not factor > 0:
            rope.faults.append(f"{name} holds {factor!r}, not a number above zero")
            break
    return len(factors)


def _contradictions(config: ModelConfig, rope: _Rope, *, explicit_head: bool) -> list[str]:
    faults = []
    if not explicit_head and config.hidden_size % config.head_count:
        faults.append(f"hidden_size {config.hidden_size} does not divide among {config.head_count} attention heads")
    if config.head_count % config.kv_head_count:
        faults.append(f"{config.head_count} attention heads do not divide among {config.kv_head_count} key-value heads")
    if config.partial_rotary_factor > 1:
        faults.append(f"partial_rotary_factor is {config.partial_rotary_factor}; it cannot be above 1")
    if config.rotary_size % 2 or not config.rotary_size:
        faults.append(f"{config.rotary_size} elements of each head are rotated, which are no pairs")
    for name, length in rope.factor_lengths:
        if length != config.rotary_size // 2:
            faults.append(
                f"{name} has {length} factors; {config.rotary_size // 2} are needed for {config.rotary_size}"
                " rotated elements"
            )
    if config.original_max_positions is not None and config.original_max_positions > config.max_positions:
        faults.append(
            f"original_max_position_embeddings {config.original_max_positions} is above"
            f" max_position_embeddings {config.max_positions}"
        )
    high = [stop for stop in config.stop_ids if stop >= config.vocab_size]
    if high:
        faults.append(f"the stop ids {high} are outside the vocabulary of {config.vocab_size}")
    return faults
