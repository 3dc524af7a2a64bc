"""Hugging Face checkpoints: configuration, weights read lazily, tokenizer, and the facts a build is planned from.

Nothing here computes anything with the weights beyond checking that they are finite.
"""

from __future__ import annotations

from phiforge.checkpoint.config import ModelConfig, load_config
from phiforge.checkpoint.family import FAMILIES, MODELS, Model, family_of
from phiforge.checkpoint.inspect import CheckpointFacts, fingerprint, inspect_checkpoint
from phiforge.checkpoint.weights import TensorInfo, Weights, open_weights

__all__ = [
    "FAMILIES",
    "MODELS",
    "CheckpointFacts",
    "Model",
    "ModelConfig",
    "TensorInfo",
    "Weights",
    "family_of",
    "fingerprint",
    "inspect_checkpoint",
    "load_config",
    "open_weights",
]
