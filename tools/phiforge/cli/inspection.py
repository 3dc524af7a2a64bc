"""Render the facts of checkpoints and variants."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.table import Table

from phiforge.cli.render import size
from phiforge.cli.terminal import say

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console

    from phiforge.checkpoint.inspect import CheckpointFacts
    from phiforge.verbs.inspect import InspectedVariant


def show_checkpoint(facts: CheckpointFacts, out: Console) -> None:
    """Print a checkpoint's facts; it passed every check."""
    config = facts.config
    table = Table(show_header=False, title=f"checkpoint {facts.name}: sound")
    rows = {
        "family": facts.family,
        "model": facts.model_name or "none that phiforge knows",
        "architecture": config.architecture,
        "parameters": f"{facts.parameter_count:,}",
        "weights": f"{size(facts.weight_bytes)} in {len(facts.tensors)} tensors of {config.dtype}",
        "layers": f"{config.layer_count} of {config.hidden_size} hidden, {config.intermediate_size} inner",
        "attention": f"{config.head_count} heads, {config.kv_head_count} for keys and values, of {config.head_size}",
        "positions": f"{config.max_positions:,} ({config.rope_kind}"
        + (f", original {config.original_max_positions:,})" if config.original_max_positions else ")"),
        "rotary": f"{config.rotary_size} of {config.head_size} dimensions, theta {config.rope_theta:g}",
        "vocabulary": f"{config.vocab_size:,}, {'tied' if config.tied_embeddings else 'untied'}",
        "stop ids": ", ".join(map(str, config.stop_ids)) + _added(config.added_stop_ids),
        "chat template": "yes" if facts.tokenizer.has_chat_template else "no",
        "reasoning": _reasoning(facts),
        "licence": facts.licence_file or "none found",
    }
    for name, value in rows.items():
        table.add_row(name, value)
    out.print(table)


def _added(stop_ids: Sequence[int]) -> str:
    return f" ({', '.join(map(str, stop_ids))} not named by its configuration)" if stop_ids else ""


def _reasoning(facts: CheckpointFacts) -> str:
    thinks = {model.reasoning for model in facts.models}
    if thinks == {True}:
        return "thinks before it answers; the model card gives a system prompt"
    return "no" if thinks == {False} else "not known"


def show_variant(variant: InspectedVariant, out: Console) -> None:
    """Print a variant's facts and its graph's."""
    subject, graph = variant.subject, variant.graph
    record = subject.record
    say(out, (f"variant {subject.name}", "bold"), f": {size(subject.bytes)}, sha256 {subject.sha256}")
    if record is not None:
        say(
            out,
            f"  from {record.checkpoint.name} ({record.checkpoint.fingerprint[:12]}), {record.provider} on "
            f"{record.device}, {record.bits_per_weight:.2f} bits per weight",
        )
        table = Table("weights", "tensors", "bits", "block", "symmetric", "size", "bits per weight")
        for group in record.weights:
            table.add_row(
                group.group,
                str(group.tensors),
                str(group.bits),
                str(group.block_size),
                "yes" if group.symmetric else "no",
                size(group.bytes),
                f"{group.bits_per_weight:.2f}",
            )
        out.print(table)
    say(out, "  operators: " + ", ".join(f"{name} {count}" for name, count in graph.operators.items()))
