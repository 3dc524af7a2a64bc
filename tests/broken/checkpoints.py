"""A tiny sound checkpoint, and one way to break it for each error that a checkpoint can cause."""

from __future__ import annotations

import json
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import ml_dtypes
import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from phiforge import errors
from phiforge.checkpoint.config import load_config
from phiforge.checkpoint.tensors import expected_tensors

SPECIAL_TOKENS = ("<|endoftext|>", "<|endofprompt|>", "<|assistant|>", "<|end|>", "<|user|>", "<|system|>")
PLAIN_TOKENS = ("<|tool|>", "<|/tool|>", "<|tool_call|>", "<|/tool_call|>", "<|tool_response|>")
MERGES = (("t", "h"), ("th", "e"), ("i", "n"), ("Ġ", "the"))
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|' + message['role'] + '|>' + message['content'] + '<|end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% else %}{{ eos_token }}{% endif %}"
)
LICENCE = "MIT License\n\nMade for tests; the weights are random numbers.\n"
INDEX = "model.safetensors.index.json"
WEIGHTS = "model.safetensors"

CONSTANTS: dict[str, object] = {
    "architectures": ["Phi3ForCausalLM"],
    "model_type": "phi3",
    "hidden_act": "silu",
    "rms_norm_eps": 1e-05,
    "rope_theta": 10000.0,
    "rope_scaling": None,
    "partial_rotary_factor": 1.0,
    "initializer_range": 0.02,
    "attention_dropout": 0.0,
    "embd_pdrop": 0.0,
    "resid_pdrop": 0.0,
    "sliding_window": None,
    "use_cache": True,
}

Tensors = dict[str, NDArray[np.generic]]


def make_checkpoint(
    folder: Path,
    *,
    vocab_size: int = 320,
    hidden_size: int = 64,
    intermediate_size: int = 128,
    layer_count: int = 2,
    head_count: int = 2,
    kv_head_count: int = 1,
    max_positions: int = 512,
    longrope: bool = False,
    tied: bool = True,
    dtype: str = "bfloat16",
    shards: int = 1,
    seed: int = 0,
) -> Path:
    """Writes a sound Phi-3-type checkpoint with random weights; the same arguments give the same bytes.

    The vocabulary must hold the 271 tokens of the tokenizer. With longrope three quarters of each head are rotated, as
    in Phi-4-mini, and the original context is a quarter of the whole one. Several shards come with an index.
    """
    folder.mkdir(parents=True, exist_ok=True)
    shape: dict[str, object] = {
        "vocab_size": vocab_size,
        "hidden_size": hidden_size,
        "intermediate_size": intermediate_size,
        "num_hidden_layers": layer_count,
        "num_attention_heads": head_count,
        "num_key_value_heads": kv_head_count,
        "max_position_embeddings": max_positions,
        "original_max_position_embeddings": max_positions // 4 if longrope else max_positions,
        "tie_word_embeddings": tied,
        "torch_dtype": dtype,
    }
    rope = _longrope(hidden_size // head_count) if longrope else {}
    _write_texts(folder, CONSTANTS | shape | rope)
    _write_weights(folder, dtype, shards, np.random.default_rng(seed))
    return folder


def _write_texts(folder: Path, config: dict[str, object]) -> None:
    tokenizer = make_tokenizer()
    end_of_text, end_of_turn = tokenizer.token_to_id("<|endoftext|>"), tokenizer.token_to_id("<|end|>")
    ids = dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id"), end_of_text)
    _write_json(folder / "config.json", config | ids)
    _write_json(folder / "generation_config.json", ids | {"eos_token_id": [end_of_text, end_of_turn]})
    _write_tokenizer(folder, tokenizer)
    (folder / "LICENSE").write_text(LICENCE, encoding="utf-8")


def _longrope(head_size: int) -> dict[str, object]:
    pairs = int(head_size * 0.75) // 2
    factors = {"short_factor": [1.0] * pairs, "long_factor": [1.0 + 0.1 * pair for pair in range(pairs)]}
    return {"partial_rotary_factor": 0.75, "rope_scaling": {"type": "longrope"} | factors}


def make_tokenizer() -> Tokenizer:
    """Builds a byte-level BPE tokenizer with four merges and the added tokens of Phi-4-mini."""
    pieces = [*sorted(pre_tokenizers.ByteLevel.alphabet()), *(left + right for left, right in MERGES)]
    vocabulary = {piece: index for index, piece in enumerate(pieces)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=list(MERGES)))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL_TOKENS])
    tokenizer.add_tokens([AddedToken(token, special=False, normalized=False) for token in PLAIN_TOKENS])
    return tokenizer


def _write_tokenizer(folder: Path, tokenizer: Tokenizer) -> None:
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {
        "tokenizer_class": "GPT2TokenizerFast",
        "bos_token": "<|endoftext|>",
        "eos_token": "<|endoftext|>",
        "pad_token": "<|endoftext|>",
        "unk_token": "<|endoftext|>",
        "model_max_length": 512,
        "add_prefix_space": False,
        "chat_template": CHAT_TEMPLATE,
    }
    _write_json(folder / "tokenizer_config.json", settings)


def _write_weights(folder: Path, dtype: str, shards: int, random: np.random.Generator) -> None:
    stored = np.dtype(ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype)
    tensors: Tensors = {}
    for name, shape in expected_tensors(load_config(folder)).items():
        values = np.ones(shape) if "norm" in name else random.standard_normal(shape) * 0.05
        tensors[name] = values.astype(stored)
    if shards == 1:
        save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
        return
    weight_map: dict[str, str] = {}
    for shard in range(shards):
        file = f"model-{shard + 1:05}-of-{shards:05}.safetensors"
        part = dict(list(tensors.items())[shard::shards])
        save_file(part, folder / file, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(part, file)
    total = sum(tensor.nbytes for tensor in tensors.values())
    _write_json(folder / INDEX, {"metadata": {"total_size": total}, "weight_map": weight_map})


class Broken(NamedTuple):
    """A fault.

    Attributes:
        break_it: Breaks the sound checkpoint in a folder.
        error: The class that inspecting it raises.
        names: What the message must name: the file or the tensor.
    """

    break_it: Callable[[Path], None]
    error: type[errors.PhiforgeError]
    names: str


def no_such_folder(folder: Path) -> None:
    """Removes the folder."""
    shutil.rmtree(folder)


def no_config(folder: Path) -> None:
    """Removes config.json."""
    (folder / "config.json").unlink()


def config_not_json(folder: Path) -> None:
    """Cuts config.json in half."""
    path = folder / "config.json"
    path.write_text(path.read_text(encoding="utf-8")[:100], encoding="utf-8")


def config_absurd(folder: Path) -> None:
    """Gives three fields values that no model has."""
    _change_json(folder / "config.json", {"hidden_size": -64, "num_hidden_layers": "two", "rope_theta": 0})


def other_architecture(folder: Path) -> None:
    """Makes it the multimodal model."""
    _change_json(folder / "config.json", {"architectures": ["Phi4MMForCausalLM"]})


def truncated_weights(folder: Path) -> None:
    """Takes the last 1000 bytes off the weights."""
    path = folder / WEIGHTS
    path.write_bytes(path.read_bytes()[:-1000])


def empty_weights(folder: Path) -> None:
    """Leaves a weights file of no bytes."""
    (folder / WEIGHTS).write_bytes(b"")


def bad_header(folder: Path) -> None:
    """Overwrites the start of the header's JSON."""
    path = folder / WEIGHTS
    content = bytearray(path.read_bytes())
    content[8:24] = b"not JSON, surely"
    path.write_bytes(content)


def absurd_header_length(folder: Path) -> None:
    """Lets the header claim a terabyte."""
    path = folder / WEIGHTS
    path.write_bytes(struct.pack("<Q", 1 << 40) + path.read_bytes()[8:])


def missing_tensor(folder: Path) -> None:
    """Leaves one tensor out."""
    _change_weights(folder, lambda tensors: tensors.pop("model.layers.1.mlp.down_proj.weight"))


def missing_shards(folder: Path) -> None:
    """Has an index of three shards, and the first of them alone."""
    make_checkpoint(_emptied(folder), shards=3)
    for number in (2, 3):
        (folder / f"model-0000{number}-of-00003.safetensors").unlink()


def tensor_in_two_shards(folder: Path) -> None:
    """Has another embedding in the second shard."""
    make_checkpoint(_emptied(folder), shards=2)
    path = folder / "model-00002-of-00002.safetensors"
    embedding = np.ones((320, 64), np.float32)
    save_file({**load_file(path), "model.embed_tokens.weight": embedding}, path, metadata={"format": "pt"})


def shard_under_two_names(folder: Path) -> None:
    """Lists the second shard once more, under a name that links to it."""
    make_checkpoint(_emptied(folder), shards=2)
    (folder / "model-00003-of-00003.safetensors").symlink_to("model-00002-of-00002.safetensors")
    weight_map = json.loads((folder / INDEX).read_text(encoding="utf-8"))["weight_map"]
    name = next(name for name, file in weight_map.items() if file.startswith("model-00002"))
    _write_json(folder / INDEX, {"weight_map": weight_map | {name: "model-00003-of-00003.safetensors"}})


def tensor_listed_twice(folder: Path) -> None:
    """Has an index with the same tensor in two shards, which JSON allows."""
    make_checkpoint(_emptied(folder), shards=2)
    path = folder / INDEX
    twice = '"weight_map": {"model.norm.weight": "model-00002-of-00002.safetensors",'
    path.write_text(path.read_text(encoding="utf-8").replace('"weight_map": {', twice), encoding="utf-8")


def other_model(folder: Path) -> None:
    """Puts the config.json of a model beside it that differs in every size."""
    other = make_checkpoint(
        folder.parent / f"{folder.name}-other",
        vocab_size=300,
        hidden_size=96,
        intermediate_size=256,
        layer_count=3,
        head_count=3,
        kv_head_count=3,
    )
    shutil.copyfile(other / "config.json", folder / "config.json")


def fewer_layers(folder: Path) -> None:
    """Says that there is a layer less than there is."""
    _change_json(folder / "config.json", {"num_hidden_layers": 1})


def other_vocabulary(folder: Path) -> None:
    """Says that the vocabulary is larger than the embedding."""
    _change_json(folder / "config.json", {"vocab_size": 384})


def other_heads(folder: Path) -> None:
    """Says that there are as many heads for keys and values as for queries."""
    _change_json(folder / "config.json", {"num_key_value_heads": 2})


def untied_without_head(folder: Path) -> None:
    """Says that the embeddings are not tied, without a head."""
    _change_json(folder / "config.json", {"tie_word_embeddings": False})


def tied_with_another_head(folder: Path) -> None:
    """Stores a head that is not the embedding, to which it is said to be tied."""
    head = np.ones((320, 64), np.float32)
    _change_weights(folder, lambda tensors: tensors.update({"lm_head.weight": head}))


def wrong_shape(folder: Path) -> None:
    """Transposes a projection."""
    name = "model.layers.0.self_attn.qkv_proj.weight"
    _change_weights(folder, lambda tensors: tensors.update({name: np.ascontiguousarray(tensors[name].T)}))


def extra_tensor(folder: Path) -> None:
    """Adds a bias that the architecture does not have."""
    bias = np.zeros(64, np.float32)
    _change_weights(folder, lambda tensors: tensors.update({"model.layers.0.self_attn.o_proj.bias": bias}))


def nan_weights(folder: Path) -> None:
    """Sets a weight in row 5 of a projection to NaN."""
    _change_weights(folder, lambda tensors: _poison(tensors["model.layers.1.mlp.gate_up_proj.weight"], np.nan))


def inf_weights(folder: Path) -> None:
    """Sets a weight in row 5 of the embedding to infinity."""
    _change_weights(folder, lambda tensors: _poison(tensors["model.embed_tokens.weight"], np.inf))


def pickle_only(folder: Path) -> None:
    """Leaves a pickle file in place of the safetensors file."""
    (folder / WEIGHTS).rename(folder / "pytorch_model.bin")


def no_weights(folder: Path) -> None:
    """Removes the weights."""
    (folder / WEIGHTS).unlink()


def tokenizer_too_large(folder: Path) -> None:
    """Gives the tokenizer more tokens than the model has rows."""
    path = folder / "tokenizer.json"
    tokenizer = Tokenizer.from_file(str(path))
    tokenizer.add_tokens([f"<|extra_{index}|>" for index in range(200)])
    tokenizer.save(str(path))


def tokenizer_missing(folder: Path) -> None:
    """Removes tokenizer.json."""
    (folder / "tokenizer.json").unlink()


def tokenizer_not_json(folder: Path) -> None:
    """Cuts tokenizer.json off."""
    (folder / "tokenizer.json").write_text('{"version": "1.0", "added', encoding="utf-8")


def traversal(folder: Path) -> None:
    """Has an index that names a file outside the folder."""
    outside = folder.parent / f"{folder.name}-outside.safetensors"
    (folder / WEIGHTS).rename(outside)
    names = load_file(outside)
    _write_json(folder / INDEX, {"weight_map": dict.fromkeys(names, f"../{outside.name}")})


BROKEN_CHECKPOINTS: dict[str, Broken] = {
    "no-such-folder": Broken(no_such_folder, errors.CheckpointNotFoundError, "checkpoint"),
    "no-config": Broken(no_config, errors.ConfigMissingError, "config.json"),
    "config-not-json": Broken(config_not_json, errors.ConfigInvalidError, "config.json"),
    "config-absurd": Broken(config_absurd, errors.ConfigInvalidError, "num_hidden_layers"),
    "other-architecture": Broken(other_architecture, errors.ArchitectureUnsupportedError, "Phi4MMForCausalLM"),
    "truncated-weights": Broken(truncated_weights, errors.WeightsTruncatedError, WEIGHTS),
    "empty-weights": Broken(empty_weights, errors.WeightsTruncatedError, WEIGHTS),
    "bad-header": Broken(bad_header, errors.WeightsHeaderError, WEIGHTS),
    "absurd-header-length": Broken(absurd_header_length, errors.WeightsHeaderError, WEIGHTS),
    "missing-tensor": Broken(missing_tensor, errors.TensorMissingError, "model.layers.1.mlp.down_proj.weight"),
    "missing-shards": Broken(
        missing_shards,
        errors.TensorMissingError,
        "model-00002-of-00003.safetensors, model-00003-of-00003.safetensors",
    ),
    "tensor-in-two-shards": Broken(
        tensor_in_two_shards,
        errors.WeightsDuplicateError,
        "model.embed_tokens.weight in model-00001-of-00002.safetensors and again in model-00002-of-00002.safetensors",
    ),
    "shard-under-two-names": Broken(shard_under_two_names, errors.WeightsDuplicateError, "which is the same file"),
    "tensor-listed-twice": Broken(tensor_listed_twice, errors.WeightsDuplicateError, "lists model.norm.weight"),
    "other-model": Broken(other_model, errors.ConfigMismatchError, "num_hidden_layers is 3"),
    "fewer-layers": Broken(fewer_layers, errors.ConfigMismatchError, "but there are tensors of 2 layers"),
    "other-vocabulary": Broken(
        other_vocabulary, errors.ConfigMismatchError, "vocab_size is 384, but model.embed_tokens.weight has 320 rows"
    ),
    "other-heads": Broken(other_heads, errors.ConfigMismatchError, "num_key_value_heads is 2"),
    "untied-without-head": Broken(
        untied_without_head,
        errors.ConfigMismatchError,
        "tie_word_embeddings is false, but there is no lm_head.weight",
    ),
    "tied-with-another-head": Broken(
        tied_with_another_head, errors.ConfigMismatchError, "tie_word_embeddings is true, but lm_head.weight is another"
    ),
    "wrong-shape": Broken(wrong_shape, errors.TensorShapeError, "model.layers.0.self_attn.qkv_proj.weight"),
    "extra-tensor": Broken(extra_tensor, errors.TensorShapeError, "model.layers.0.self_attn.o_proj.bias"),
    "nan-weights": Broken(nan_weights, errors.WeightsNotFiniteError, "model.layers.1.mlp.gate_up_proj.weight"),
    "inf-weights": Broken(inf_weights, errors.WeightsNotFiniteError, "model.embed_tokens.weight"),
    "pickle-only": Broken(pickle_only, errors.PickleWeightsError, "pytorch_model.bin"),
    "no-weights": Broken(no_weights, errors.TensorMissingError, WEIGHTS),
    "tokenizer-too-large": Broken(tokenizer_too_large, errors.TokenizerMismatchError, "tokenizer.json"),
    "tokenizer-missing": Broken(tokenizer_missing, errors.TokenizerMismatchError, "tokenizer.json"),
    "tokenizer-not-json": Broken(tokenizer_not_json, errors.TokenizerMismatchError, "tokenizer.json"),
    "traversal": Broken(traversal, errors.UnsafePathError, INDEX),
}


def _emptied(folder: Path) -> Path:
    shutil.rmtree(folder)
    return folder


def _poison(tensor: NDArray[np.generic], value: float) -> None:
    tensor[5, 7] = value


def _change_weights(folder: Path, change: Callable[[Tensors], object]) -> None:
    tensors: Tensors = dict(load_file(folder / WEIGHTS))
    change(tensors)
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})


def _change_json(path: Path, changes: dict[str, object]) -> None:
    _write_json(path, json.loads(path.read_text(encoding="utf-8")) | changes)


def _write_json(path: Path, content: object) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
