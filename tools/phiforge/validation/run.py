"""A whole validation: what the reference says, then drift, answers and probes, each with its conditions."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from phiforge.checkpoint.config import load_config
from phiforge.checkpoint.inspect import fingerprint
from phiforge.evidence import Conditions, Drift, Kind, Probe, Probes, Tasks
from phiforge.machine import default_threads, describe_machine, tool_versions
from phiforge.validation import probes
from phiforge.validation.drift import score
from phiforge.validation.latency import measure_latency
from phiforge.validation.reference import Source, compute_answers, compute_reference, tokenize
from phiforge.validation.samples import CONVERSATIONS, TEXTS
from phiforge.validation.tasks import Answered, is_right, overall_score, task_scores
from phiforge.validation.texts import load_tasks, load_texts, sha256_of, task_files
from phiforge.validation.twin import TWIN_NOTE, head_prompts, scored_folder

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from phiforge.checkpoint.config import ModelConfig
    from phiforge.runtime.generate import Generation
    from phiforge.runtime.trace import LastRows, Trace
    from phiforge.runtime.variant import Variant
    from phiforge.validation.drift import Reference
    from phiforge.validation.reference import Answer, Tokenization
    from phiforge.validation.texts import Question, Text

    Progress = Callable[[str, int, int], None]

__all__ = ["Validation", "measure_latency", "validate_variant"]

VERSIONS = ("onnxruntime", "onnxruntime-genai", "torch", "transformers", "tokenizers", "numpy", "phiforge")
# The most tokens of an answer; room for the thinking of a reasoning model on a short question.
ANSWER_TOKENS = 512
LIMIT_STEP = 64
# Questions that the CPU decodes together; other providers, whose graphs may be of fixed shape, take one at a time.
CPU_BATCH = 16


@dataclass(frozen=True)
class Validation:
    """The evidence of one validation; `tasks` is None where no tasks were given."""

    drift: Drift
    tasks: Tasks | None
    probes: Probes


@dataclass(frozen=True)
class _Data:
    """The held-out data, with the name of its task beside each question."""

    texts: tuple[Text, ...]
    questions: tuple[tuple[str, Question], ...]
    text_files: tuple[Path, ...]
    task_files: tuple[Path, ...]

    @property
    def probe_texts(self) -> list[str]:
        """The texts of the tokenizer probe."""
        return [*TEXTS, *(text.text for text in self.texts)]


@dataclass(frozen=True)
class _Said:
    """What the original says: ids and prompts, distributions over the texts and around the switch, answers."""

    tokens: Tokenization
    texts: Reference
    around_switch: Reference | None
    prompts: tuple[list[int], ...]
    limits: tuple[int, ...]
    answers: tuple[Answer, ...]


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

    data = _load(texts, tasks)
    config, shipped = load_config(checkpoint), read_config(variant)
    source = Source(checkpoint, fingerprint(checkpoint), cache, threads or default_threads())
    placement = _placement(variant, provider_of(shipped))
    context = min(config.max_positions, int(shipped["model"]["context_length"]))
    said = _ask(source, config, data, context, progress)
    source.close()  # the model's memory, before the variant takes its own
    opened = open_variant(variant, threads=threads)
    stamp = _Stamp(opened.provider, opened.threads, variant_sha256, source.fingerprint)
    answers, stopping = _answers(opened, data, said, stamp, progress)
    checks = (*_token_probes(opened, config, data, said), *stopping)
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


@dataclass(frozen=True)
class _Stamp:
    """What every record of one validation says of its variant, its reference and its conditions."""

    provider: str
    threads: int
    variant_sha256: str
    reference_sha256: str
    notes: tuple[str, ...] = ()

    def conditions(self, files: Sequence[Path], samples: int) -> Conditions:
        """Return the conditions of numbers made from data files."""
        return Conditions(
            machine=describe_machine(),
            provider=self.provider,
            threads=self.threads,
            versions=tool_versions(VERSIONS),
            dataset=", ".join(file.name for file in files),
            split="held-out",
            dataset_sha256=sha256_of(files),
            samples=samples,
            notes=self.notes,
        )


def _load(texts: Path, tasks: Path | None) -> _Data:
    named = load_tasks(tasks) if tasks else ()
    return _Data(
        texts=load_texts(texts),
        questions=tuple((task.name, question) for task in named for question in task.questions),
        text_files=(texts,),
        task_files=tuple(task_files(tasks)) if tasks else (),
    )


def _ask(source: Source, config: ModelConfig, data: _Data, context: int, progress: Progress) -> _Said:
    """Ask the original everything that the variant is held against; texts are cut to the context."""
    conversations = [*CONVERSATIONS, *(question.conversation() for _, question in data.questions)]
    tokens = tokenize(source, data.probe_texts, conversations)
    texts = [ids[:context] for ids in tokens.texts[len(TEXTS) :]]
    reference = compute_reference(
        source, texts, on_layer=lambda done, total: progress("reference texts, layer by layer", done, total)
    )
    prompts = tokens.chat_ids[len(CONVERSATIONS) :]
    limits = tuple(answer_limit(len(prompt), config.original_max_positions, context) for prompt in prompts)
    answers = compute_answers(
        source, prompts, limits, config.stop_ids, switch=config.original_max_positions,
        on_answer=lambda done: progress("reference answers", done, len(prompts)),
    ) if prompts else []  # fmt: skip
    around = switch_prompts(texts, config.original_max_positions, context)
    switch = compute_reference(
        source, around, on_layer=lambda done, total: progress("reference around the longrope switch", done, total)
    ) if around else None  # fmt: skip
    return _Said(tokens, reference, switch, prompts, limits, tuple(answers))


def answer_limit(prompt_tokens: int, switch: int | None, context: int) -> int:
    """Return the most new tokens of an answer: none crosses the longrope switch, where caches are computed anew.

    A prompt that is beyond the switch itself may use the whole context. Limits are multiples of 64 where there is room,
    so that prompts of nearly equal length can be decoded together.
    """
    end = switch if switch and prompt_tokens <= switch else context
    room = min(ANSWER_TOKENS, end - prompt_tokens)
    return max(1, room - room % LIMIT_STEP if room > LIMIT_STEP else room)


def switch_prompts(texts: Sequence[Sequence[int]], switch: int | None, context: int) -> list[list[int]]:
    """Return prompts just below, at and above the longrope switch, cut from the texts one after the other.

    There are none without a switch, or where the context ends there.
    """
    if switch is None or switch + probes.DECODE_STEPS > context:
        return []
    line = [token for text in texts for token in text]
    while line and len(line) < switch + max(probes.SWITCH_OFFSETS):
        line += line
    return [line[: switch + offset] for offset in probes.SWITCH_OFFSETS]


def _drift(variant: Variant, config: ModelConfig, data: _Data, said: _Said, stamp: _Stamp, progress: Progress) -> Drift:
    from phiforge.runtime.logits import logits

    total = len(said.texts.texts)
    numbers = score(
        said.texts,
        lambda ids: logits(variant, ids),
        switch=config.original_max_positions,
        on_text=lambda done: progress("drift", done, total),
    )
    return Drift(
        kind=Kind.MEASURED,
        conditions=stamp.conditions(data.text_files, total),
        variant_sha256=stamp.variant_sha256,
        reference_sha256=stamp.reference_sha256,
        top_k=said.texts.top_k,
        **vars(numbers),
    )


def _answers(
    variant: Variant, data: _Data, said: _Said, stamp: _Stamp, progress: Progress
) -> tuple[Tasks | None, tuple[Probe, ...]]:
    """Answer the questions; return the scores, and the probe that the answers end."""
    if not data.questions:
        return None, ()
    made = _generate(variant, said, progress)
    answered = [
        Answered(
            task=task,
            reference_right=is_right(theirs.text, question.answer),
            variant_right=is_right(variant.decode(ours.tokens), question.answer),
            reference_tokens=len(theirs.tokens),
            variant_tokens=len(ours.tokens),
        )
        for (task, question), theirs, ours in zip(data.questions, said.answers, made, strict=True)
    ]
    tasks = Tasks(
        kind=Kind.MEASURED,
        conditions=stamp.conditions(data.task_files, len(answered)),
        variant_sha256=stamp.variant_sha256,
        reference_sha256=stamp.reference_sha256,
        scores=task_scores(answered),
        overall=overall_score(answered),
    )
    stopping = probes.probe_stopping(
        [(answer.tokens, answer.stopped) for answer in said.answers],
        [(generation.tokens, generation.stopped_by == "stop-id") for generation in made],
    )
    return tasks, (stopping,)


def _generate(variant: Variant, said: _Said, progress: Progress) -> list[Generation]:
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


def _token_probes(variant: Variant, config: ModelConfig, data: _Data, said: _Said) -> tuple[Probe, ...]:
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


def _show(variant: Variant, config: ModelConfig, said: _Said) -> _Shown:
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
    variant: Variant, config: ModelConfig, said: _Said, shown: _Shown, typical_kl_nats: float, progress: Progress
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
