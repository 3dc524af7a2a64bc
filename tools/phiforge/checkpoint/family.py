"""The model families phiforge knows, and how a checkpoint is recognised as one of them."""

from __future__ import annotations

from dataclasses import dataclass

from phiforge.checkpoint.config import ModelConfig

OTHER_FAMILY = "phi3"


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


def family_of(config: ModelConfig) -> str:
    """Names the family of a configuration, "phi3" when the shapes are nobody's, such as a cut to two layers."""
    return next((family.name for family in FAMILIES.values() if family.matches(config)), OTHER_FAMILY)
