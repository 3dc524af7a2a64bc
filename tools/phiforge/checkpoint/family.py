"""The models phiforge knows: families by their shapes, and in each the models that were published with those shapes.

Shapes and the rotary embedding tell Phi-4 from its reasoning models. They do not tell Phi-4-mini-instruct from
Phi-4-mini-reasoning, nor Phi-4-reasoning from Phi-4-reasoning-plus; the chat template and the folder's name do, where
they do, and otherwise a checkpoint is said to be one or the other. Docs: docs/models.md.

Sources, besides each model's own huggingface.co/microsoft/<name> at the revision below: config.json for the shapes;
generation_config.json for the stop ids (Phi-4-mini-instruct: 200020 and 199999; phi-4: 100257 and 100265); the MIT
licensed tokenizer and template files of github.com/microsoft/onnxruntime-extensions, test/data/phi-4*; for the system
prompt of Phi-4-reasoning also github.com/Lightning-AI/litgpt, litgpt/prompts.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from phiforge.checkpoint.config import ModelConfig, RopeKind

OTHER_FAMILY = "phi3"

# The model card's words. The templates of these models say them by themselves, before any system message of one's own.
REASONING_PROMPT = (
    "You are Phi, a language model trained by Microsoft to help users. Your role as an assistant involves thoroughly "
    "exploring questions through a systematic thinking process before providing the final precise and accurate "
    "solutions. This requires engaging in a comprehensive cycle of analysis, summarizing, exploration, reassessment, "
    "reflection, backtracing, and iteration to develop well-considered thinking process. Please structure your "
    "response into two main sections: Thought and Solution using the specified format: <think> {Thought section} "
    "</think> {Solution section}. In the Thought section, detail your reasoning process in steps. Each step should "
    "include detailed considerations such as analysing questions, summarizing relevant findings, brainstorming new "
    "ideas, verifying the accuracy of the current steps, refining any errors, and revisiting previous steps. In the "
    "Solution section, based on various attempts, explorations, and reflections from the Thought section, "
    "systematically present the final solution that you deem correct. The Solution section should be logical, "
    "accurate, and concise and detail necessary steps needed to reach the conclusion. Now, try to solve the following "
    "question through the above guidelines:"
)
MINI_REASONING_PROMPT = "Your name is Phi, an AI math expert developed by Microsoft."

MINI_TURN = "<|{role}|>{content}<|end|>"
LARGE_TURN = "<|im_start|>{role}<|im_sep|>{content}<|im_end|>"


@dataclass(frozen=True, kw_only=True)
class Family:
    """A family of checkpoints with the same shapes.

    Attributes:
        name: What reports and packages call it.
        title: The same for people.
        hidden_size: Matched against the configuration.
        layer_count: Matched against the configuration.
        vocab_size: Matched against the configuration; None where it varies.
        reasoning: Whether reasoning checkpoints of these shapes exist. Shapes cannot tell them from the plain ones.
    """

    name: str
    title: str
    hidden_size: int
    layer_count: int
    vocab_size: int | None
    reasoning: bool

    def matches(self, config: ModelConfig) -> bool:
        """Says whether a configuration has this family's shapes."""
        same_shape = (config.hidden_size, config.layer_count) == (self.hidden_size, self.layer_count)
        return same_shape and self.vocab_size in (None, config.vocab_size)


@dataclass(frozen=True, kw_only=True)
class Model:
    """One published model.

    Attributes:
        name: Its name as published.
        family: A name of `FAMILIES`.
        hub_id: Where the Hugging Face Hub has it, None for the embedded model.
        revision: The commit of the Hub's repository that is downloaded; None where none is pinned.
        max_positions: The longest context it was made for.
        original_max_positions: Positions before the rotary embedding was stretched; None without longrope.
        stop_ids: Every id that ends an answer, also those that config.json does not name.
        turn: How the chat template writes one turn.
        reasoning: Whether it thinks between `<think>` and `</think>` before it answers.
        system_prompt: What the model card has it told, None where there is no fixed prompt.
    """

    name: str
    family: str
    hub_id: str | None
    revision: str | None
    hidden_size: int
    layer_count: int
    head_count: int
    kv_head_count: int
    intermediate_size: int
    vocab_size: int
    tied_embeddings: bool
    rope_kind: RopeKind
    rope_theta: float
    max_positions: int
    original_max_positions: int | None
    stop_ids: tuple[int, ...]
    turn: str
    reasoning: bool = False
    system_prompt: str | None = None

    def matches(self, config: ModelConfig) -> bool:
        """Says whether a configuration has this model's shapes and rotary embedding.

        The context may have been cut, and a rotation unties the embeddings; it is the same model all the same.
        """
        return all(getattr(config, field) == getattr(self, field) for field in _TELLING)


_TELLING = (
    "hidden_size",
    "layer_count",
    "head_count",
    "kv_head_count",
    "intermediate_size",
    "vocab_size",
    "rope_kind",
    "rope_theta",
)

FAMILIES: dict[str, Family] = {
    family.name: family
    for family in (
        Family(
            name="phi-4-nano",
            title="phi-4-nano (embedded)",
            hidden_size=256,
            layer_count=6,
            vocab_size=None,
            reasoning=False,
        ),
        Family(
            name="phi-4-mini",
            title="Phi-4-mini (3.8 B)",
            hidden_size=3072,
            layer_count=32,
            vocab_size=200_064,
            reasoning=True,
        ),
        Family(
            name="phi-4",
            title="Phi-4 (14 B)",
            hidden_size=5120,
            layer_count=40,
            vocab_size=100_352,
            reasoning=True,
        ),
    )
}


def _mini(name: str, revision: str, *, reasoning: bool = False, system_prompt: str | None = None) -> Model:
    return Model(
        name=name,
        family="phi-4-mini",
        hub_id=f"microsoft/{name}",
        revision=revision,
        hidden_size=3072,
        layer_count=32,
        head_count=24,
        kv_head_count=8,
        intermediate_size=8192,
        vocab_size=200_064,
        tied_embeddings=True,
        rope_kind="longrope",
        rope_theta=10_000.0,
        max_positions=131_072,
        original_max_positions=4096,
        # <|endoftext|>, which config.json names, and <|end|>, with which every turn of the chat ends.
        stop_ids=(199_999, 200_020),
        turn=MINI_TURN,
        reasoning=reasoning,
        system_prompt=system_prompt,
    )


def _large(
    name: str,
    revision: str,
    *,
    rope_theta: float,
    max_positions: int,
    stop_ids: tuple[int, ...],
    reasoning: bool = False,
    system_prompt: str | None = None,
) -> Model:
    return Model(
        name=name,
        family="phi-4",
        hub_id=f"microsoft/{name}",
        revision=revision,
        hidden_size=5120,
        layer_count=40,
        head_count=40,
        kv_head_count=10,
        intermediate_size=17_920,
        vocab_size=100_352,
        tied_embeddings=False,
        rope_kind="default",
        rope_theta=rope_theta,
        max_positions=max_positions,
        original_max_positions=None,
        stop_ids=stop_ids,
        turn=LARGE_TURN,
        reasoning=reasoning,
        system_prompt=system_prompt,
    )


MODELS: dict[str, Model] = {
    model.name: model
    for model in (
        Model(
            name="phi-4-nano",
            family="phi-4-nano",
            hub_id=None,
            revision=None,
            hidden_size=256,
            layer_count=6,
            head_count=4,
            kv_head_count=2,
            intermediate_size=768,
            vocab_size=1024,
            tied_embeddings=True,
            rope_kind="longrope",
            rope_theta=10_000.0,
            max_positions=2048,
            original_max_positions=256,
            stop_ids=(1000, 1003),
            turn=MINI_TURN,
        ),
        _mini("Phi-4-mini-instruct", "cfbefacb99257ffa30c83adab238a50856ac3083"),
        _mini(
            "Phi-4-mini-reasoning",
            "0e3b1e2d02ee478a3743abe3f629e9c0cb722e0a",
            reasoning=True,
            system_prompt=MINI_REASONING_PROMPT,
        ),
        _large(
            "phi-4",
            "2db69c1c3e91a05d2c64a3185acfbaf36f744e25",
            rope_theta=250_000.0,
            max_positions=16_384,
            # <|endoftext|>, the only one that the first revisions named, and <|im_end|>.
            stop_ids=(100_257, 100_265),
        ),
        _large(
            "Phi-4-reasoning",
            "1de18ec97600877ce63dbf60c73b998da99f0195",
            rope_theta=500_000.0,
            max_positions=32_768,
            stop_ids=(100_265,),
            reasoning=True,
            system_prompt=REASONING_PROMPT,
        ),
        _large(
            "Phi-4-reasoning-plus",
            "69baf8528e1bcf05f475034d9e5dd32875ed125f",
            rope_theta=500_000.0,
            max_positions=32_768,
            stop_ids=(100_265,),
            reasoning=True,
            system_prompt=REASONING_PROMPT,
        ),
    )
}


def family_of(config: ModelConfig) -> str:
    """Names the family of a configuration, "phi3" when the shapes are nobody's, such as a cut to two layers."""
    return next((family.name for family in FAMILIES.values() if family.matches(config)), OTHER_FAMILY)


def models_of(config: ModelConfig) -> tuple[Model, ...]:
    """Gives the models that a configuration may be of: those with its shapes and rotary embedding."""
    return tuple(model for model in MODELS.values() if model.matches(config))


def identify(config: ModelConfig, *, name: str, chat_template: str | None) -> tuple[Model, ...]:
    """Gives the model a checkpoint is; several where nothing tells them apart, none where it is of no known shape.

    Args:
        config: The configuration, which leaves two models at most.
        name: The folder's name. It is believed only as to which of the two it is.
        chat_template: The text of the template. A reasoning model's holds its system prompt.
    """
    models = models_of(config)
    if chat_template is not None and len({model.reasoning for model in models}) > 1:
        reasoning = any(model.system_prompt and model.system_prompt in chat_template for model in models)
        models = tuple(model for model in models if model.reasoning == reasoning)
    named = [model for model in models if model.name.casefold() in name.casefold()]
    return (max(named, key=lambda model: len(model.name)),) if named else models


def model_of_hub_id(hub_id: str) -> Model | None:
    """Gives the known model with this Hub id, None for others. The Hub does not distinguish case."""
    return next((model for model in MODELS.values() if (model.hub_id or "").casefold() == hub_id.casefold()), None)
