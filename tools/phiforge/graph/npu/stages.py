"""The decoder as stages: embedding, parts of a few layers in two lengths, head.

A stage hands the next one codes of 16 bits under the activation's name. Prefill and decode graphs of a part hold the
same weights, which a compiler can share. The head works for the last token of a prompt alone, the one before the
padding, which onnxruntime-genai 0.18 leaves to a graph whose logits are of one position.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

from phiforge.activations import EMBEDDING, FINAL_NORM, LOGITS, layer_site
from phiforge.graph.npu.emit import CODE, Emitter
from phiforge.graph.npu.layer import FLOAT, PAST_LENGTH, TOTAL_LENGTH, DecoderShape, LayerWriter, write_norm

if TYPE_CHECKING:
    from phiforge.graph.npu.emit import Quantizers
    from phiforge.graph.npu.weights import NpuWeights

IDS = "input_ids"
BATCH = "batch"
TABLE, LAST_HIDDEN, LOGIT_CODES = "embedding.table", "last_hidden", "logit_codes"
EMBEDDING_MODULE, HEAD_MODULE, FINAL_NORM_TENSOR = "model.embed_tokens", "lm_head", "model.norm.weight"


@dataclass(frozen=True, kw_only=True)
class StageWriter:
    """Writes every stage of one decoder.

    Attributes:
        tied: Whether the head's weight is the embedding table.
        pad_id: The token that fills a prompt up to the window.
        embedding_on_npu: Whether the first part looks the tokens up itself, and there is no stage for it.
    """

    shape: DecoderShape
    weights: NpuWeights
    quantizers: Quantizers
    tied: bool
    pad_id: int
    embedding_on_npu: bool = False

    @property
    def id_type(self) -> ir.DataType:
        """How every stage takes token ids: the runtime gives all of them one type, and the NPU works on int32."""
        return ir.DataType.INT32 if self.embedding_on_npu else ir.DataType.INT64

    @property
    def head_module(self) -> str:
        """The module whose weight is the head."""
        return EMBEDDING_MODULE if self.tied else HEAD_MODULE

    @property
    def last_hidden(self) -> str:
        """The activation that the head reads."""
        return layer_site(self.shape.layer_count - 1, "residual")

    def embedding(self) -> ir.Model:
        """The embedding on the CPU, of any length: token ids to codes."""
        emitter = Emitter()
        ids = emitter.input(IDS, self.id_type, (1, "tokens"))
        spec = self.weights.specs[EMBEDDING_MODULE]
        codes, *others = self.weights.blocks(emitter, EMBEDDING_MODULE, matmul=False)
        (found,) = emitter.contrib(
            "GatherBlockQuantized",
            [codes, ids, *others],
            "embed_tokens",
            [("embed_tokens", FLOAT, (1, "tokens", self.shape.hidden_size))],
            {"bits": spec.bits, "block_size": spec.block_size, "gather_axis": 0, "quantize_axis": 1},
        )
        self._hand_on(emitter, found, EMBEDDING)
        return emitter.model(EMBEDDING)

    def part(self, layers: tuple[int, int], tokens: int) -> ir.Model:
        """Some layers for `tokens` tokens at a time."""
        emitter, (start, stop) = Emitter(), layers
        if start == 0:
            hidden = self._first(emitter, tokens)
        else:
            hidden = self._take(emitter, layer_site(start - 1, "residual"), tokens)
        lengths = (
            emitter.input(PAST_LENGTH, ir.DataType.INT32, (1, 1)),
            emitter.input(TOTAL_LENGTH, ir.DataType.INT32, (1,)),
        )
        writer = LayerWriter(
            emitter=emitter, shape=self.shape, weights=self.weights, quantizers=self.quantizers, tokens=tokens,
            lengths=lengths,
        )  # fmt: skip
        for index in range(start, stop):
            hidden = writer.write(index, hidden)
            name = layer_site(index, "residual")
            if index < stop - 1:
                hidden = self.quantizers.store(emitter, hidden, name)
            else:
                self._hand_on(emitter, hidden, name)
        return emitter.model(f"layers.{start}-{stop - 1}.tokens.{tokens}")

    def head(self) -> ir.Model:
        """The last norm and the head on the CPU, for the last token before the padding."""
        emitter = Emitter()
        hidden = self._take(emitter, self.last_hidden, "tokens", BATCH)
        ids = emitter.input(IDS, self.id_type, (BATCH, "tokens"))
        last = _last_token(emitter, hidden, ids, self.pad_id, self.shape.hidden_size)
        weight = emitter.constant("final_norm/weight", self.weights.floats(FINAL_NORM_TENSOR))
        width = self.shape.hidden_size
        normed = emitter.node(
            "SimplifiedLayerNormalization", [last, weight], FINAL_NORM, FLOAT, (BATCH, 1, width),
            epsilon=self.shape.epsilon, axis=-1,
        )  # fmt: skip
        spec = self.weights.specs[self.head_module]
        (logits,) = emitter.contrib(
            "MatMulNBits",
            [normed, *self.weights.blocks(emitter, self.head_module, matmul=True)],
            "lm_head",
            [(LOGITS, FLOAT, (BATCH, 1, self.shape.vocab_size))],
            {"K": width, "N": self.shape.vocab_size, "bits": spec.bits, "block_size": spec.block_size,
             "accuracy_level": 4},
        )  # fmt: skip
        emitter.output(logits, LOGITS)
        return emitter.model("head")

    def selection(self) -> ir.Model:
        """The choice of the last token before the padding, on the CPU, for a head on the NPU."""
        emitter = Emitter()
        dims = (1, "tokens", self.shape.hidden_size)
        values = emitter.input(self.last_hidden, self._stored_type(self.last_hidden), dims)
        ids = emitter.input(IDS, self.id_type, (1, "tokens"))
        emitter.output(_last_token(emitter, values, ids, self.pad_id, self.shape.hidden_size), LAST_HIDDEN)
        return emitter.model("selection")

    def npu_head(self) -> ir.Model:
        """The last norm and the head on the NPU, for one token; `logits` makes floats of what it gives."""
        emitter = Emitter()
        dims = (1, 1, self.shape.hidden_size)
        last = emitter.input(LAST_HIDDEN, self._stored_type(self.last_hidden), dims)
        hidden = self._floats(emitter, last, self.last_hidden, LAST_HIDDEN)
        normed = write_norm(emitter, hidden, self.weights.floats(FINAL_NORM_TENSOR), self.shape.epsilon, FINAL_NORM)
        normed = self.quantizers.store(emitter, normed, FINAL_NORM)
        weight = self.weights.matrix(emitter, self.head_module, np.arange(self.shape.vocab_size), "lm_head")
        found = emitter.node("MatMul", [normed, weight], "lm_head", FLOAT, (1, 1, self.shape.vocab_size))
        quantizer = self.quantizers.of(LOGITS)
        emitter.output(found if quantizer is None else emitter.codes_of(found, quantizer, LOGITS), LOGIT_CODES)
        return emitter.model("head")

    def logits(self) -> ir.Model:
        """The logits as floats, on the CPU: a compiler takes no operator that makes floats at the end of a graph."""
        emitter = Emitter()
        codes = emitter.input(LOGIT_CODES, self._stored_type(LOGITS), (1, 1, self.shape.vocab_size))
        values = self._floats(emitter, codes, LOGITS, LOGITS)
        if values is codes:
            values = emitter.node("Identity", [codes], LOGITS, FLOAT, (1, 1, self.shape.vocab_size))
        emitter.output(values, LOGITS)
        return emitter.model(LOGITS)

    def _first(self, emitter: Emitter, tokens: int) -> ir.Value:
        """What the first layer takes: from the stage before, or looked up in a table of codes."""
        if not self.embedding_on_npu:
            return self._take(emitter, EMBEDDING, tokens)
        ids = emitter.input(IDS, self.id_type, (1, tokens))
        quantizer = self.quantizers.of(EMBEDDING)
        table = self.weights.table(emitter, EMBEDDING_MODULE, quantizer, TABLE)
        # QNN refuses a Gather on codes that is not shown the floats before and after.
        held = table if quantizer is None else emitter.float_of(table, quantizer, TABLE)
        found = emitter.node("Gather", [held, ids], EMBEDDING, FLOAT, (1, tokens, self.shape.hidden_size), axis=0)
        return self.quantizers.store(emitter, found, EMBEDDING)

    def _take(self, emitter: Emitter, name: str, tokens: int | str, batch: int | str = 1) -> ir.Value:
        """Take an activation from the stage before."""
        value = emitter.input(name, self._stored_type(name), (batch, tokens, self.shape.hidden_size))
        return self._floats(emitter, value, name, f"{name}/taken")

    def _stored_type(self, name: str) -> ir.DataType:
        """As what one stage hands an activation to the next."""
        return FLOAT if self.quantizers.of(name) is None else CODE

    def _floats(self, emitter: Emitter, value: ir.Value, name: str, label: str) -> ir.Value:
        """The floats of a value that is stored as the activation `name`."""
        quantizer = self.quantizers.of(name)
        return value if quantizer is None else emitter.float_of(value, quantizer, label)

    def _hand_on(self, emitter: Emitter, value: ir.Value, name: str) -> None:
        """Hand an activation to the next stage, under its name."""
        quantizer = self.quantizers.of(name)
        if value.name == name:
            producer = value.producer()
            assert producer is not None
            value.name = f"{name}/float" if quantizer else name
        emitter.output(value if quantizer is None else emitter.codes_of(value, quantizer, name), name)


def _last_token(emitter: Emitter, values: ir.Value, ids: ir.Value, pad_id: int, width: int) -> ir.Value:
    """Choose from values [batch, tokens, width] those of the last token that is no padding: [batch, 1, width].

    A decode step has one token, which is taken whatever it is.
    """
    int64, int32 = ir.DataType.INT64, ir.DataType.INT32
    assert ids.dtype is not None
    pad = emitter.constant("last/pad", np.array(pad_id, dtype=ids.dtype.numpy()))
    dims = (BATCH, "tokens")
    padding = emitter.node("Equal", [ids, pad], "last/Equal", ir.DataType.BOOL, dims)
    real = emitter.node("Not", [padding], "last/Not", ir.DataType.BOOL, dims)
    # onnxruntime 1.31 has no ArgMax of bool or int64 on the CPU.
    ones = emitter.node("Cast", [real], "last/Cast", int32, dims, to=int(int32))
    last = emitter.node("ArgMax", [ones], "last/ArgMax", int64, (BATCH, 1), axis=1, keepdims=1, select_last_index=1)
    axis = emitter.constant("last/axis", np.array([2], dtype=np.int64))
    index = emitter.node("Unsqueeze", [last, axis], "last/Unsqueeze", int64, (BATCH, 1, 1))
    assert values.dtype is not None
    return emitter.node("GatherND", [values, index], "last", values.dtype, (BATCH, 1, width), batch_dims=1)
