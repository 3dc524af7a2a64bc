"""A whole validation: what the reference says, then drift, answers and probes, each with its conditions."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from phiforge.checkpoint.config import load_config
from phiforge.checkpoint.inspect import fingerprint
from phiforge.evidence import Drift, Kind, Probe, Probes, Tasks
from phiforge.machine import default_threads
from phiforge.validation import probes
from phiforge.validation.held_out import HeldOut, Said, Stamp, ask, load_held_out
from phiforge.validation.latency import measure_latency
from phiforge.validation.records import drift_record, tasks_record
from phiforge.validation.reference import Source
from phiforge.validation.samples import CONVERSATIONS
from phiforge.validation.twin import TWIN_NOTE, head_prompts, scored_folder

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from phiforge.checkpoint.config import ModelConfig
    from phiforge.runtime.generate import Generation
    from phiforge.runtime.trace import LastRows, Trace
    from phiforge.runtime.variant import Variant

    Progress = Callable[[str, int, int], None]

__all__ = ["Validation", "measure_latency", "validate_variant"]

# Questions that the CPU decodes together; other providers, whose graphs may be of fixed shape, take one at a time.
CPU_BATCH = 16


@dataclass(frozen=True)
class Validation:
    """The evidence of one validation; `tasks` is None where no tasks were given."""

    drift: Drift
    tasks: Tasks | None
    probes: Probes


def validate_variant(
    variant: Path,
    checkpoint: Path,
    *,
    variant_sha256: str,
    texts: Path,
    tasks: Path | None,
    cache: Path,
    threads: int | None,
    progress: Progress,
) -> Validation:
    """Measure what a variant costs in accuracy against the checkpoint it was built from.

    Args:
        variant: A complete variant folder.
        checkpoint: The original.
        variant_sha256: What the evidence is about.
        texts: Held-out texts, JSONL.
        tasks: Folder of held-out questions, JSONL, or None.
        cache: Folder for what the reference says, which all variants of the checkpoint share.
        threads: Threads of the runtime and of torch; None for what this machine has.
        progress: Told of each step: (step, done, total).

    Raises:
        EvidenceInvalidError: The held-out data cannot be used.
        VariantUnusableError: The variant is incomplete, does not load or does not answer.
        ConfigInvalidError: The checkpoint's model does not load.
        TokenizerMismatchError: The checkpoint's tokenizer does not load.
    """
    from phiforge.runtime.variant import open_variant, provider_of, read_config

    data = load_held_out(texts, tasks)
    config, shipped = load_config(checkpoint), read_config(variant)
    source = Source(checkpoint, fingerprint(checkpoint), cache, threads or default_threads())
    placement = _placement(variant, provider_of(shipped))
    context = min(config.max_positions, int(shipped["model"]["context_length"]))
    said = ask(source, config, data, context, progress)
    source.close()  # the model's memory, before the variant takes its own
    opened = open_variant(variant, threads=threads)
    stamp = Stamp(opened.provider, opened.threads, variant_sha256, source.fingerprint)
    answers, stopping = _answers(opened, data, said, stamp, progress)
    checks = (*token_probes(opened, config, data, said), *stopping)
    shown = _show(opened, config, said)
    del opened  # its memory, before the twin takes its own
    with scored_folder(variant, cache) as folder:
        scored = open_variant(folder, threads=threads)
        if folder != variant:
            stamp = replace(stamp, notes=(TWIN_NOTE,))
            checks = (*checks, _head_probe(scored, shown))
        drift = _drift(scored, config, data, said, stamp, progress)
        checks = (*checks, *_switch_probes(scored, config, said, shown, drift.kl_nats.mean, progress), placement)
        del scored
    conditions = stamp.conditions((*data.text_files, *data.task_files), len(checks))
    checked = Probes(kind=Kind.MEASURED, conditions=conditions, variant_sha256=variant_sha256, probes=checks)
    return Validation(drift=drift, tasks=answers, probes=checked)


def _drift(variant: Variant, config: ModelConfig, data: HeldOut, said: Said, stamp: Stamp, progress: Progress) -> Drift:
    from phiforge.runtime.logits import logits

    total = len(said.texts.texts)
    return drift_record(
        said.texts,
        lambda ids: logits(variant, ids),
        kind=Kind.MEASURED,
        stamp=stamp,
        files=data.text_files,
        switch=config.original_max_positions,
        on_text=lambda done: progress("drift", done, total),
    )


def _answers(
    variant: Variant, data: HeldOut, said: Said, stamp: Stamp, progress: Progress
) -> tuple[Tasks | None, tuple[Probe, ...]]:
    """Answer the questions; return the scores, and the probe that the answers end."""
    if not data.questions:
        return None, ()
    made = _generate(variant, said, progress)
    tasks, stopping = tasks_record(data, said, made, variant.decode, kind=Kind.MEASURED, stamp=stamp)
    return tasks, (stopping,)


def _generate(variant: Variant, said: Said, progress: Progress) -> list[Generation]:
    """Return the variant's answer to each prompt, in order; prompts of equal length and limit go together."""
    from phiforge.runtime.generate import generate

    batch = CPU_BATCH if variant.provider == "cpu" else 1
    groups: dict[tuple[int, int], list[int]] = {}
    for index, (prompt, limit) in enumerate(zip(said.prompts, said.limits, strict=True)):
        groups.setdefault((len(prompt), limit), []).append(index)
    made: dict[int, Generation] = {}
    for (_, limit), indices in groups.items():
        for start in range(0, len(indices), batch):
            part = indices[start : start + batch]
            prompts = [said.prompts[index] for index in part]
            results = generate(variant, prompts, max_new_tokens=limit, batch_size=batch)
            made.update(zip(part, results, strict=True))
            progress("answers", len(made), len(said.prompts))
    return [made[index] for index in range(len(said.prompts))]


def token_probes(variant: Variant, config: ModelConfig, data: HeldOut, said: Said) -> tuple[Probe, ...]:
    """Check tokenizer, chat template and stop ids of an opened variant."""
    from phiforge.runtime.generate import stops_at

    own = len(CONVERSATIONS)
    expected = list(zip(said.tokens.chat_texts[:own], said.tokens.chat_ids[:own], strict=True))
    return (
        probes.probe_tokenizer(variant.encode, data.probe_texts, said.tokens.texts),
        probes.probe_chat_template(variant.apply_chat_template, variant.encode, CONVERSATIONS, expected),
        probes.probe_stop_ids(
            variant.stop_ids, config.stop_ids, lambda token: stops_at(variant, token), variant.vocab_size
        ),
    )


@dataclass(frozen=True)
class _Shown:
    """What the shipped variant itself shows: rows after prompts, and a generation across the longrope switch."""

    prompts: tuple[list[int], ...]
    rows: tuple[LastRows, ...]
    trace: Trace | None


def _show(variant: Variant, config: ModelConfig, said: Said) -> _Shown:
    """Let the shipped variant show what is held against its twin."""
    from phiforge.runtime.logits import last_rows, trace_greedy

    prompts = tuple(head_prompts([text.tokens.tolist() for text in said.texts.texts], variant.context_length))
    trace = None
    if config.original_max_positions is not None and said.around_switch is not None:
        before = config.original_max_positions - probes.DECODE_BEFORE
        trace = trace_greedy(variant, said.around_switch.texts[-1].tokens[:before].tolist(), probes.DECODE_STEPS)
    return _Shown(prompts=prompts, rows=tuple(last_rows(variant, prompt) for prompt in prompts), trace=trace)


def _head_probe(twin: Variant, shown: _Shown) -> Probe:
    from phiforge.runtime.logits import last_rows

    rows = [last_rows(twin, prompt) for prompt in shown.prompts]
    return probes.probe_pruned_head([len(prompt) - 1 for prompt in shown.prompts], shown.rows, rows)


def _switch_probes(
    variant: Variant, config: ModelConfig, said: Said, shown: _Shown, typical_kl_nats: float, progress: Progress
) -> tuple[Probe, ...]:
    from phiforge.runtime.logits import logits

    switch = config.original_max_positions
    if switch is None or said.around_switch is None or shown.trace is None:
        return probes.no_switch("no longrope" if switch is None else "the context ends at the longrope switch")
    progress("longrope switch", 0, 2)
    around = said.around_switch.texts
    prefill = probes.probe_switch_prefill(around, lambda ids: logits(variant, ids), typical_kl_nats)
    progress("longrope switch", 1, 2)
    decode = probes.probe_switch_decode(
        shown.trace,
        lambda ids: logits(variant, ids),
        switch=switch,
        stop_ids=variant.stop_ids,
        typical_kl_nats=typical_kl_nats,
    )
    progress("longrope switch", 2, 2)
    return prefill, decode


def _placement(folder: Path, provider: str) -> Probe:
    """Asked before the variant is opened, so that its weights are not in memory twice."""
    from phiforge.runtime.placement import check_placement

    return probes.probe_placement(lambda: check_placement(folder, provider).total)
