"""What the tensors say of a model, from their shapes alone, and where config.json says otherwise. Pure.

A wrong field of config.json makes nearly every tensor wrong. So each field is first read from the tensors and compared,
and only then are the tensors held against the shapes that these readings call for: what is left is wrong with a tensor,
not with the configuration.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from phiforge.checkpoint.config import ModelConfig

    Shape = tuple[int, ...]

EMBEDDING = "model.embed_tokens.weight"
HEAD = "lm_head.weight"
NORM = "model.norm.weight"
QKV, OUTPUT = "self_attn.qkv_proj.weight", "self_attn.o_proj.weight"
GATE_UP, DOWN = "mlp.gate_up_proj.weight", "mlp.down_proj.weight"
NORMS = ("input_layernorm.weight", "post_attention_layernorm.weight")

_LAYER = re.compile(r"model\.layers\.(0|[1-9]\d{0,5})\.(.+)")
_LISTED_AT_MOST = 60


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """The sizes that decide every tensor's shape.

    Attributes:
        query_size: Rows of the query projection: heads times head size.
        key_value_size: Rows of the key projection, and of the value projection.
        has_head: Whether there is a head of its own.
    """

    layer_count: int
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    query_size: int
    key_value_size: int
    has_head: bool

    def shapes(self) -> dict[str, Shape]:
        """Gives name and shape of every tensor, as transformers' Phi3ForCausalLM stores them.

        Query, key and value are one projection, and so are gate and up.
        """
        hidden = self.hidden_size
        layer: dict[str, Shape] = {
            NORMS[0]: (hidden,),
            QKV: (self.query_size + 2 * self.key_value_size, hidden),
            OUTPUT: (hidden, self.query_size),
            NORMS[1]: (hidden,),
            GATE_UP: (2 * self.intermediate_size, hidden),
            DOWN: (hidden, self.intermediate_size),
        }
        tensors: dict[str, Shape] = {EMBEDDING: (self.vocab_size, hidden)}
        for index in range(self.layer_count):
            tensors |= {f"model.layers.{index}.{role}": shape for role, shape in layer.items()}
        tensors[NORM] = (hidden,)
        if self.has_head:
            tensors[HEAD] = (self.vocab_size, hidden)
        return tensors


@dataclass(frozen=True)
class Faults:
    """What is wrong, each list in words.

    Attributes:
        fields: Where config.json and the tensors disagree.
        missing: Tensors that are in no file.
        wrong: Tensors of another shape than their neighbours and config.json call for.
        unexpected: Tensors that no part of the model uses.
    """

    fields: list[str]
    missing: list[str]
    wrong: list[str]
    unexpected: list[str]

    def all(self) -> list[str]:
        """Gives everything, the configuration first."""
        found = [*self.fields, *self.missing, *self.wrong, *self.unexpected]
        more = len(found) - _LISTED_AT_MOST
        return found[:_LISTED_AT_MOST] + ([f"and {more} more"] if more > 0 else [])


def sizes_of(config: ModelConfig) -> Sizes:
    """Gives the sizes that a configuration calls for."""
    return Sizes(
        layer_count=config.layer_count,
        vocab_size=config.vocab_size,
        hidden_size=config.hidden_size,
        intermediate_size=config.intermediate_size,
        query_size=config.head_count * config.head_size,
        key_value_size=config.kv_head_count * config.head_size,
        has_head=not config.tied_embeddings,
    )


def find_faults(config: ModelConfig, shapes: Mapping[str, Shape]) -> Faults:
    """Holds the shapes of all stored tensors against the configuration.

    A head that is stored although the embeddings are tied is no fault here; only its content shows whether it is one.
    """
    said = sizes_of(config)
    read = _read_sizes(said, shapes)
    expected = read.shapes()
    missing = [name for name in expected if name not in shapes]
    wrong = {name: shapes[name] for name in expected if name in shapes and shapes[name] != expected[name]}
    spare = {HEAD} if config.tied_embeddings else set()
    return Faults(
        fields=_field_faults(config, said, read, shapes),
        missing=[f"no file has {name}" for name in grouped(missing)],
        wrong=[
            f"{name} has shape {list(shape)} instead of {list(wanted)}"
            for (shape, wanted), names in _by_shape(wrong, expected).items()
            for name in grouped(names)
        ],
        unexpected=[f"{name} is no part of the model" for name in grouped(set(shapes) - set(expected) - spare)],
    )


def _read_sizes(said: Sizes, shapes: Mapping[str, Shape]) -> Sizes:
    """Reads each size off the tensors; what none of them tells is as the configuration says."""
    layers = _layers(shapes)
    query = _agreed(said.query_size, _dimension(layers, OUTPUT, 1))
    joint = _dimension(layers, QKV, 0)
    key_values = [(rows - query) // 2 for rows in joint if rows > query and (rows - query) % 2 == 0]
    return Sizes(
        layer_count=_layer_count(said.layer_count, layers),
        vocab_size=_agreed(said.vocab_size, [shape[0] for shape in _matrices(shapes, EMBEDDING, HEAD)]),
        hidden_size=_agreed(said.hidden_size, _hidden_sizes(shapes, layers)),
        intermediate_size=_agreed(said.intermediate_size, _dimension(layers, DOWN, 1)),
        query_size=query,
        key_value_size=_agreed(said.key_value_size, key_values),
        has_head=said.has_head and (HEAD in shapes or EMBEDDING not in shapes),
    )


def _layers(shapes: Mapping[str, Shape]) -> dict[int, dict[str, Shape]]:
    layers: dict[int, dict[str, Shape]] = defaultdict(dict)
    for name, shape in shapes.items():
        found = _LAYER.fullmatch(name)
        if found:
            layers[int(found[1])][found[2]] = shape
    return layers


def _layer_count(said: int, layers: Mapping[int, object]) -> int:
    """Counts layers with holes, but not up to a stray number far above the others."""
    count = max(layers, default=0) + 1
    return count if layers and count <= 2 * len(layers) else said


def _matrices(shapes: Mapping[str, Shape], *names: str) -> list[Shape]:
    return [shapes[name] for name in names if len(shapes.get(name, ())) == 2]


def _dimension(layers: Mapping[int, Mapping[str, Shape]], role: str, axis: int) -> list[int]:
    return [layer[role][axis] for layer in layers.values() if len(layer.get(role, ())) == 2]


def _hidden_sizes(shapes: Mapping[str, Shape], layers: Mapping[int, Mapping[str, Shape]]) -> list[int]:
    norms = [layer[role][0] for layer in layers.values() for role in NORMS if len(layer.get(role, ())) == 1]
    return [shape[1] for shape in _matrices(shapes, EMBEDDING)] + norms


def _agreed(said: int, read: list[int]) -> int:
    """Gives what the configuration says if any tensor agrees, otherwise what most of the tensors say."""
    return said if said in read or not read else Counter(read).most_common(1)[0][0]


def _field_faults(config: ModelConfig, said: Sizes, read: Sizes, shapes: Mapping[str, Shape]) -> list[str]:
    table = EMBEDDING if EMBEDDING in shapes else HEAD
    compared = (
        ("num_hidden_layers", said.layer_count, read.layer_count, "there are tensors of {} layers"),
        ("vocab_size", said.vocab_size, read.vocab_size, table + " has {} rows"),
        ("hidden_size", said.hidden_size, read.hidden_size, "the tensors are {} wide"),
        ("intermediate_size", said.intermediate_size, read.intermediate_size, "mlp.down_proj is {} wide"),
    )
    faults = [
        f"{field} is {ours}, but {told.format(theirs)}" for field, ours, theirs, told in compared if ours != theirs
    ]
    head = config.head_size
    if said.query_size != read.query_size:
        faults.append(
            f"num_attention_heads is {config.head_count}, which makes {said.query_size} with heads of {head}, but "
            f"self_attn.o_proj is {read.query_size} wide"
        )
    if said.key_value_size != read.key_value_size:
        faults.append(
            f"num_key_value_heads is {config.kv_head_count}, which makes {said.key_value_size} with heads of {head}, "
            f"but self_attn.qkv_proj has {read.key_value_size} key rows"
        )
    if said.has_head and not read.has_head:
        faults.append(f"tie_word_embeddings is false, but there is no {HEAD}")
    return faults


def _by_shape(wrong: Mapping[str, Shape], expected: Mapping[str, Shape]) -> dict[tuple[Shape, Shape], list[str]]:
    groups: dict[tuple[Shape, Shape], list[str]] = defaultdict(list)
    for name, shape in wrong.items():
        groups[shape, expected[name]].append(name)
    return groups


def grouped(names: Iterable[str]) -> list[str]:
    """Names the tensors, those that differ only in the number of their layer together."""
    layers: dict[str, list[int]] = defaultdict(list)
    for name in sorted(names):
        found = _LAYER.fullmatch(name)
        layers[found[2] if found else name].append(int(found[1]) if found else -1)
    told = []
    for role, indexes in layers.items():
        if indexes == [-1]:
            told.append(role)
        elif len(indexes) == 1:
            told.append(f"model.layers.{indexes[0]}.{role}")
        else:
            told.append(f"{role} of layers {_ranges(sorted(indexes))}")
    return told


def _ranges(numbers: list[int]) -> str:
    """Writes numbers as ranges: 0 to 3, 7."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return ", ".join(f"{run[0]} to {run[-1]}" if len(run) > 1 else str(run[0]) for run in runs)
