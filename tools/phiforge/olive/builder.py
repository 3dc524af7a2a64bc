"""Drive the onnxruntime-genai 0.18 builder without weights: the graph first, with every weight a placeholder.

All that phiforge changes in the builder stands in this module:

* `load_weights` makes the model on torch's meta device. The stock one holds the whole model in float32 (22.9 GB for
  3.8 B parameters); goes when the builder can stream.
* `make_initializer` registers a placeholder for a meta tensor.
* `torch.nn.Linear` takes no random numbers meanwhile. The builder makes such layers to hold the parts of a fused weight
  and fills them at once; the random numbers took 33 of 36 s for 14.7 B parameters.
* `has_lm_head` asks for identity. The stock one takes any linear layer with as many outputs as the vocabulary has
  tokens for the head (onnxruntime-genai 0.18.0).
"""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from typing import TYPE_CHECKING, Any, NoReturn

import onnx_ir as ir
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from phiforge.decoder.decoder import one_thread
from phiforge.pipeline import PROVIDER_OPTIONS

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path


def build_graph(
    checkpoint: Path,
    folder: Path,
    *,
    provider: str,
    stop_ids: Sequence[int],
    max_length: int,
    floats: ir.DataType = ir.DataType.FLOAT,
) -> ir.Model:
    """Return the decoder's graph, its weights placeholders, and write the files that go beside it.

    Args:
        checkpoint: A checkpoint folder; only its configuration and tokenizer are read.
        folder: Receives genai_config.json and the tokenizer's files.
        provider: The builder's name of the execution provider.
        stop_ids: Every token id that ends an answer.
        max_length: Default of tokens in all per conversation, which is also what the runtime allocates.
        floats: FLOAT or FLOAT16, the type of weights, activations and cache.

    Returns:
        A model whose weights are `onnx_ir.LazyTensor`s that cannot be read.
    """
    # Imported here because the import itself puts the builder's folder first in sys.path.
    import onnxruntime_genai.models.builder as genai

    config = AutoConfig.from_pretrained(checkpoint, local_files_only=True, trust_remote_code=False)
    longrope = config.max_position_embeddings != config.original_max_position_embeddings
    base: Any = genai.Phi3MiniLongRoPEModel if longrope else genai.Phi3MiniModel
    with (
        one_thread(),
        _empty_linears(),
        tempfile.TemporaryDirectory() as cache,
        open(os.devnull, "w", encoding="utf-8") as null,
        contextlib.redirect_stdout(null),
    ):
        builder = _graph_first(base)(config, floats, floats, provider, cache, {})
        builder.make_model(str(checkpoint))
        builder.make_genai_config(config, {}, str(folder))
        builder.save_processing(str(checkpoint), {}, str(folder))
        base.stamp_build_metadata(builder.model)
    _adjust_genai_config(folder / "genai_config.json", stop_ids, max_length, PROVIDER_OPTIONS.get(provider))
    _adjust_tokenizer_config(folder / "tokenizer_config.json")
    model: ir.Model = builder.model
    return model


@contextlib.contextmanager
def _empty_linears() -> Iterator[None]:
    """Leave the weights of new linear layers as they are allocated, for the time of the block."""
    reset = torch.nn.Linear.reset_parameters
    torch.nn.Linear.reset_parameters = lambda self: None  # type: ignore[method-assign]
    try:
        yield
    finally:
        torch.nn.Linear.reset_parameters = reset  # type: ignore[method-assign]


def _graph_first(base: Any) -> Any:
    """Derive a builder class that makes its graph from a model on the meta device."""

    class GraphFirst(base):  # type: ignore[misc]
        def load_weights(self, input_path: str) -> Any:
            config = AutoConfig.from_pretrained(input_path, local_files_only=True, trust_remote_code=False)
            with torch.device("meta"):
                return AutoModelForCausalLM.from_config(config, dtype=torch.float32)

        def has_lm_head(self, module: Any) -> bool:
            return module is self.weights.lm_head

        def make_initializer(
            self, tensor: Any, /, name: str, *, to: ir.DataType | None = None, raw: bool = False
        ) -> None:
            if not (isinstance(tensor, torch.Tensor) and tensor.device.type == "meta"):
                super().make_initializer(tensor, name, to=to, raw=raw)
                return
            shape = ir.Shape(tensor.shape)
            value = self.make_value(name, to, shape)
            value.const_value = ir.LazyTensor(_unbound, dtype=to or ir.DataType.FLOAT, shape=shape, name=name)
            self.model.graph.register_initializer(value)

    return GraphFirst


def _unbound() -> NoReturn:
    raise RuntimeError("a weight of the graph was read before it was bound")


def _adjust_genai_config(
    path: Path, stop_ids: Sequence[int], max_length: int, provider_options: Mapping[str, str] | None
) -> None:
    """Stop on every stop id, allocate no cache for the whole context by default, and name the provider's options."""
    config = json.loads(path.read_text(encoding="utf-8"))
    if provider_options is not None:
        listed = config["model"]["decoder"]["session_options"]["provider_options"]
        ((name, _),) = listed[0].items()
        config["model"]["decoder"]["session_options"]["provider_options"] = [{name: dict(provider_options)}]
    config["model"]["eos_token_id"] = list(stop_ids)
    config["search"]["max_length"] = min(max_length, config["model"]["context_length"])
    path.write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")


def _adjust_tokenizer_config(path: Path) -> None:
    """Take out what transformers 5.23 notes about this machine: where it loaded from and whether it was offline."""
    config = json.loads(path.read_text(encoding="utf-8"))
    for key in ("is_local", "local_files_only"):
        config.pop(key, None)
    path.write_text(json.dumps(config, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
