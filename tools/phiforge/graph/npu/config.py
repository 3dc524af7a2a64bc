"""genai_config.json of a decoder in stages, as onnxruntime-genai 0.18 reads it.

Every output of every graph is listed: one that is not corrupts the runtime's memory. The prompt is padded on the right
(`alignment: left`), which the runtime's counting of tokens wants. A number among provider options has to be text.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from phiforge.graph.npu.layer import PAST_LENGTH, TOTAL_LENGTH

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import onnx_ir as ir


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One stage: its name, its file, what it takes and gives, and when it runs.

    Attributes:
        tokens: How many tokens its graph takes; None for any number.
        head: Whether it runs for the last window of a prompt only.
        npu: Whether it runs on the NPU.
    """

    name: str
    file: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    tokens: int | None = None
    head: bool = False
    npu: bool = False

    @staticmethod
    def of(model: ir.Model, name: str, **facts: Any) -> Stage:
        """The stage of a graph, whose file has the stage's name."""
        inputs = tuple(str(value.name) for value in model.graph.inputs)
        outputs = tuple(str(value.name) for value in model.graph.outputs)
        return Stage(name=name, file=f"{name}.onnx", inputs=inputs, outputs=outputs, **facts)


def stages_config(
    base: Mapping[str, Any], stages: Sequence[Stage], *, window: int, context: int, provider_options: Mapping[str, str]
) -> dict[str, Any]:
    """Return the configuration of these stages.

    Args:
        base: What the runtime's builder writes for the same model in one graph.
        stages: In the order in which they run.
        window: Tokens of a prefill graph.
        context: The most tokens of a sequence.
        provider_options: Of the stages on the NPU; none leaves every stage to the CPU.
    """
    old = base["model"]["decoder"]
    decoder = {
        "session_options": {"log_id": "onnxruntime-genai", "provider_options": []},
        "head_size": old["head_size"],
        "hidden_size": old["hidden_size"],
        "inputs": {
            "input_ids": "input_ids",
            "past_key_names": "past_key_values.%d.key",
            "past_value_names": "past_key_values.%d.value",
            "past_sequence_length": PAST_LENGTH,
            "total_sequence_length": TOTAL_LENGTH,
        },
        "outputs": dict(old["outputs"]),
        "num_attention_heads": old["num_attention_heads"],
        "num_hidden_layers": old["num_hidden_layers"],
        "num_key_value_heads": old["num_key_value_heads"],
        "sliding_window": {
            "window_size": window,
            "pad_value": 0,
            "alignment": "left",
            "slide_key_value_cache": False,
        },
        "pipeline": [{stage.name: _entry(stage, window, provider_options) for stage in stages}],
    }
    model = {**base["model"], "type": "decoder-pipeline", "context_length": context, "decoder": decoder}
    search = {**base["search"], "max_length": context, "past_present_share_buffer": True}
    return {"model": model, "search": search}


def _entry(stage: Stage, window: int, provider_options: Mapping[str, str]) -> dict[str, Any]:
    entry: dict[str, Any] = {"filename": stage.file, "inputs": list(stage.inputs), "outputs": list(stage.outputs)}
    if stage.tokens is not None:
        entry |= {"run_on_token_gen": False} if stage.tokens == window else {"run_on_prompt": False}
    if stage.head:
        entry["is_lm_head"] = True
    if stage.npu and provider_options:
        entry["session_options"] = {"provider_options": [{"qnn": dict(provider_options)}]}
    return entry
