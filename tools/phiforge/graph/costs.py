"""Count what a built variant costs to run, from its graph on disk; weights are not read."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import onnx_ir as ir
from google.protobuf.message import DecodeError

from phiforge import errors
from phiforge.costs import MLP_VALUES, Activations, Costs
from phiforge.graph.conformance.nodes import given
from phiforge.graph.head import find_pruned_head

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from phiforge.variant import VariantRecord

# Dimensions by the builder's names: one conversation at a time, and a prompt that fills the context.
TOKENS = ("sequence_length", "total_sequence_length")
ONE = ("batch_size",)
PRODUCTS = ("MatMulNBits", "MatMul", "Gemm")
NORMS = ("SimplifiedLayerNormalization", "SkipSimplifiedLayerNormalization")
# What hands on a weight as it is, or widens it on the way to its product.
PASSED_ON = ("Reshape", "Identity", "Cast", "DequantizeLinear", "Transpose")
# Nodes that do nothing when the graph runs: onnxruntime folds them away before.
FOLDED = ("Constant", "Identity")
CACHE_INPUT, CACHE_OUTPUT = "past_key_values.", "present."
# An NPU's graphs compute in 16 bits.
NPU_ACTIVATION_BYTES = 2


def graph_costs(path: Path) -> Costs:
    """Count the costs of a decoder that is one graph.

    Args:
        path: The ONNX file, as the onnxruntime-genai builder names its parts.

    Raises:
        GraphMismatchError: It cannot be read, or has no attention with a cache.
    """
    try:
        model = ir.load(path)
    except (OSError, ValueError, DecodeError) as error:
        raise _uncounted(path.name, str(error)) from error
    return model_costs(model, path.name)


def model_costs(model: ir.Model, name: str) -> Costs:
    """Count the costs of a decoder's graph; `name` is what an error calls it.

    Values whose shape the graph does not tell are left out of the workspace: those of a table that is unpacked row by
    row, and scalars.

    Raises:
        GraphMismatchError: It has no attention with a cache.
    """
    graph = model.graph
    attention = [node for node in graph if node.op_type == "GroupQueryAttention"]
    if not attention:
        raise _uncounted(name, "It has no GroupQueryAttention.")
    products = {node: _product_operations(node) for node in graph if node.op_type in PRODUCTS}
    head = _head(model)
    return Costs(
        stored_bytes=sum(_bytes(value) for value in graph.initializers.values()),
        weight_bytes=_weight_bytes(graph),
        weight_operations=sum(count for node, count in products.items() if node is not head),
        head_operations=products.get(head, 0) if head else 0,
        head_every_position=find_pruned_head(model) is None,
        pair_operations=sum(4 * _heads(node) * _head_size(node) for node in attention),
        kv_cache_bytes=sum(_cache_bytes(node) for node in attention),
        activations=tuple(_alive(graph)),
        nodes=sum(1 for node in graph if node.op_type not in FOLDED),
    )


def recorded_costs(record: VariantRecord, config: Mapping[str, Any], stored_bytes: int) -> Costs:
    """Count the costs of a variant for an NPU, whose compiled graphs do not show their weights.

    Args:
        record: Its record, with bits and bytes of each group of weights.
        config: Its genai_config.json.
        stored_bytes: Bytes of its files.

    Raises:
        GraphMismatchError: The record is not of a variant for an NPU.
    """
    if record.npu is None:
        raise errors.GraphMismatchError(
            f"The variant {record.name} is none for an NPU.", why="Its record has no table npu.", fix="Use its graph."
        )
    model = config["model"]
    decoder, vocabulary = model["decoder"], model["vocab_size"]
    layers, hidden = decoder["num_hidden_layers"], decoder["hidden_size"]
    weights = {group.group: round(8 * group.bytes / group.bits_per_weight) for group in record.weights}
    sizes = {group.group: group.bytes for group in record.weights}
    inner = sum(count for group, count in weights.items() if group not in ("embedding", "head"))
    width = weights["MLP down"] // (hidden * layers)
    pairs = layers * decoder["num_attention_heads"] * decoder["head_size"]
    cached = layers * decoder["num_key_value_heads"] * decoder["head_size"]
    read = sum(size for group, size in sizes.items() if group != "embedding" or "head" not in sizes)
    return Costs(
        stored_bytes=stored_bytes,
        weight_bytes=read + sizes.get("embedding", 0) // vocabulary,
        weight_operations=2 * inner,
        head_operations=2 * vocabulary * hidden,
        head_every_position=False,
        pair_operations=4 * pairs,
        kv_cache_bytes=2 * cached * record.npu.kv_cache_bits // 8,
        activations=(
            Activations(bytes_per_token=NPU_ACTIVATION_BYTES * (hidden + MLP_VALUES * width), bytes_besides=0),
            Activations(bytes_per_token=0, bytes_besides=4 * vocabulary),
        ),
        nodes=len({graph.file for graph in record.npu.graphs}) // 2 + 2,
        window_tokens=record.npu.window_tokens,
    )


def _head(model: ir.Model) -> ir.Node | None:
    """The product that makes the logits."""
    value = next((value for value in model.graph.outputs if value.name == "logits"), None)
    node = value.producer() if value is not None else None
    while node is not None and node.op_type not in PRODUCTS:
        first = node.inputs[0] if node.inputs else None
        node = first.producer() if first is not None else None
    return node


def _product_operations(node: ir.Node) -> int:
    """Operations of a product of one token with a weight."""
    if node.op_type == "MatMulNBits":
        return 2 * node.attributes["N"].as_int() * node.attributes["K"].as_int()
    weight = node.inputs[1]
    source = _initializer(weight) if weight is not None else None
    return 2 * source.const_value.size if source is not None and source.const_value is not None else 0


def _weight_bytes(graph: ir.Graph) -> int:
    """Bytes that one token reads: each weight of a product or a norm once, and its row of each table."""
    read: set[ir.Value] = set()
    rows: dict[ir.Value, int] = {}
    for node in graph:
        sources = [source for _, value in given(node.inputs) if (source := _initializer(value)) is not None]
        if node.op_type in PRODUCTS + NORMS:
            read.update(sources)
        elif node.op_type in ("Gather", "GatherBlockQuantized"):
            rows |= {source: _bytes(source) // source.shape.numpy()[0] for source in sources if source.shape}
    return sum(map(_bytes, read)) + sum(size for source, size in rows.items() if source not in read)


def _initializer(value: ir.Value) -> ir.Value | None:
    """The weight that a value is, however it is passed on."""
    while not value.is_initializer():
        producer = value.producer()
        if producer is None or producer.op_type not in PASSED_ON or producer.inputs[0] is None:
            return None
        value = producer.inputs[0]
    return value


def _heads(node: ir.Node) -> int:
    return node.attributes["num_heads"].as_int()


def _head_size(node: ir.Node) -> int:
    shape = node.outputs[0].shape
    width = shape[-1] if shape is not None else None
    assert isinstance(width, int)
    return width // _heads(node)


def _cache_bytes(node: ir.Node) -> int:
    """Bytes of a layer's keys and values of one token."""
    keys = node.inputs[3]
    assert keys is not None and keys.dtype is not None
    elements = 2 * node.attributes["kv_num_heads"].as_int() * _head_size(node)
    return round(elements * keys.dtype.itemsize)


def _alive(graph: ir.Graph) -> Iterator[Activations]:
    """Yield what is alive while each node runs, without the cache; weights are counted elsewhere."""
    last: dict[ir.Value, int] = {}
    kept = set(graph.outputs)
    nodes = list(graph)
    for place, node in enumerate(nodes):
        for _, value in given(node.inputs):
            last[value] = place
    alive: dict[ir.Value, Activations] = {}
    for place, node in enumerate(nodes):
        for value in node.outputs:
            size = _value_size(value)
            if size is not None:
                alive[value] = size
        yield Activations(
            bytes_per_token=sum(size.bytes_per_token for size in alive.values()),
            bytes_besides=sum(size.bytes_besides for size in alive.values()),
        )
        for value in [value for value in alive if last.get(value, place) <= place and value not in kept]:
            del alive[value]


def _value_size(value: ir.Value) -> Activations | None:
    """The size of a computed value; None for the cache, constants, and where the shape is not told."""
    node = value.producer()
    if not value.name or value.shape is None or value.dtype is None or value.name.startswith(CACHE_OUTPUT):
        return None
    if node is not None and (node.op_type in FOLDED or (node.op_type in PASSED_ON and _initializer(value))):
        return None
    names = [dim.value for dim in value.shape if isinstance(dim, ir.SymbolicDim)]
    if any(name not in (*TOKENS, *ONE) for name in names):
        return None
    size = round(value.dtype.itemsize * math.prod(dim for dim in value.shape if isinstance(dim, int)))
    per_token = any(name in TOKENS for name in names)
    return Activations(bytes_per_token=size if per_token else 0, bytes_besides=0 if per_token else size)


def _bytes(value: ir.Value) -> int:
    return value.const_value.nbytes if value.const_value is not None else 0


def _uncounted(name: str, why: str) -> errors.GraphMismatchError:
    return errors.GraphMismatchError(
        f"The costs of {name} cannot be counted.",
        why=why,
        fix="Build the variant with `phiforge build`; other graphs are not predicted.",
    )
