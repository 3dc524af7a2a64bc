"""A whole validation: drift, answers and probes of a variant, held against what the original says."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

from phiforge import errors
from phiforge.evidence import Drift, FreeRunning, Kind, Probe, Probes, Refusals, Tasks
from phiforge.graph.float32 import is_float16
from phiforge.graph.twin import MODEL_FILE
from phiforge.validation import probes
from phiforge.validation.answers import AllSpoken, Answers, Spoken, ask_all, choose_all, judge_answers
from phiforge.validation.held_out import Stamp
from phiforge.validation.latency import measure_latency
from phiforge.validation.records import drift_record
from phiforge.validation.subset import PROMPTS, fewer_prompts, within
from phiforge.validation.twin import TWIN_NOTE, head_prompts, scored_folder
from phiforge.validation.way import Way

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from phiforge.evidence import AnyEvidence
    from phiforge.runtime.trace import LastRows, Trace
    from phiforge.runtime.variant import Variant
    from phiforge.validation.reference_outputs import ReferenceOutputs

    Progress = Callable[[str, int, int], None]

__all__ = ["Answers", "Validation", "answer_questions", "measure_latency", "token_probes", "validate_variant"]


FEWER_NOTE = f"free running and refusals on {PROMPTS} prompts each"
CHUNKED_NOTE = "prompts are computed in chunks, so sequences end at the longrope switch"


@dataclass(frozen=True, kw_only=True)
class Validation:
    """The evidence of one validation; None is what nothing was asked for."""

    drift: Drift
    tasks: Tasks | None
    free_running: FreeRunning | None
    refusals: Refusals | None
    probes: Probes

    def records(self) -> list[AnyEvidence]:
        """Return the records that there are."""
        found = (self.drift, self.tasks, self.free_running, self.refusals, self.probes)
        return [record for record in found if record is not None]


def validate_variant(
    variant: Path,
    outputs: ReferenceOutputs,
    way: Way,
    *,
    variant_sha256: str,
    work: Path,
    threads: int | None,
    progress: Progress,
    answers: Answers | None = None,
) -> Validation:
    """Measure what a variant costs in accuracy against the original.

    Args:
        variant: A complete variant folder.
        outputs: What the original says; for no more context than the variant has.
        way: How the variant is run.
        variant_sha256: What the evidence is about.
        work: Folder for what is made on the way, such as a twin.
        threads: Threads of the runtime; None for what this machine has.
        progress: Told of each step: (step, done, total).
        answers: What `answer_questions` gave, if the questions were answered before.

    Raises:
        VariantUnusableError: The variant is incomplete, does not load or does not answer, or has another vocabulary.
    """
    check_one_graph(variant)
    outputs = _within_reach(outputs, way)
    # Asked before the variant is opened, so that its weights are not in memory twice.
    placement = way.placement(variant)
    opened = _open(variant, outputs, way, threads)
    stamp = _stamp(opened, outputs, way, variant_sha256)
    spoken = _speak(opened, outputs, way, progress) if answers is None else None
    checks = token_probes(opened, outputs)
    shown = _show(opened, outputs)
    del opened  # its memory, before the twin takes its own
    with scored_folder(variant, work) as folder:
        scored = way.open(folder, threads)
        if answers is None:
            assert spoken is not None
            answers = _judge(outputs, spoken, scored, way, stamp, progress, twin=folder != variant)
        checks = (*checks, *answers.stopping)
        if folder != variant:
            stamp = replace(stamp, notes=(*stamp.notes, TWIN_NOTE))
            checks = (*checks, _head_probe(scored, shown, way.head_rounding or _rounding(variant)))
        drift = _drift(scored, outputs, way, stamp, progress)
        checks = (*checks, *_switch_probes(scored, outputs, way, shown, drift.kl_nats.mean, progress), placement)
        chunk = scored.chunk
        del scored
        checks = (*checks, *way.further(folder, chunk, outputs.texts, work))
    conditions = stamp.conditions(outputs.text_set + outputs.task_set, len(checks))
    checked = Probes(kind=way.kind, conditions=conditions, variant_sha256=variant_sha256, probes=checks)
    return Validation(
        drift=drift,
        tasks=answers.tasks,
        free_running=answers.free_running,
        refusals=answers.refusals,
        probes=checked,
    )


def answer_questions(
    variant: Path,
    outputs: ReferenceOutputs,
    way: Way,
    *,
    variant_sha256: str,
    work: Path,
    threads: int | None,
    progress: Progress,
) -> Answers:
    """Answer the questions alone, which is most of a validation's time; arguments and errors as `validate_variant`."""
    check_one_graph(variant)
    outputs = _within_reach(outputs, way)
    opened = _open(variant, outputs, way, threads)
    stamp = _stamp(opened, outputs, way, variant_sha256)
    spoken = _speak(opened, outputs, way, progress)
    del opened  # its memory, before the twin takes its own
    if not outputs.choices:
        return judge_answers(outputs, spoken, (), kind=way.kind, stamp=stamp)
    with scored_folder(variant, work) as folder:
        scored = way.open(folder, threads)
        found = _judge(outputs, spoken, scored, way, stamp, progress, twin=folder != variant)
        del scored
    return found


def _judge(
    outputs: ReferenceOutputs,
    spoken: AllSpoken,
    scored: Variant,
    way: Way,
    stamp: Stamp,
    progress: Progress,
    *,
    twin: bool,
) -> Answers:
    """Let what gives the logits of every position choose, and judge that with what the variant itself generated."""
    chosen = choose_all(outputs, partial(way.logits, scored), progress)
    notes = (TWIN_NOTE,) if twin else ()
    return judge_answers(outputs, spoken, chosen, kind=way.kind, stamp=stamp, choice_notes=notes)


def check_one_graph(variant: Path) -> None:
    """Refuse a decoder in stages before anything is done: the runtime gives the logits of its last position only.

    Raises:
        VariantUnusableError: It is one.
    """
    if not (variant / MODEL_FILE).is_file():
        raise errors.VariantUnusableError(
            f"The drift of {variant.name} cannot be measured here.",
            why=f"It has no {MODEL_FILE}: its decoder comes in stages for an NPU, and of those onnxruntime-genai gives "
            "the logits of the last position only.",
            fix="Measure its time with `phiforge bench`; what its accuracy is judged by travels in the package.",
        )


def _within_reach(outputs: ReferenceOutputs, way: Way) -> ReferenceOutputs:
    """What the original said of sequences that are run this way; a stand-in that is slow is asked fewer of them."""
    if way.kind is Kind.EMULATED and len(outputs.continued) + len(outputs.prompted) > 2 * PROMPTS:
        outputs = fewer_prompts(replace(outputs, notes=(*outputs.notes, FEWER_NOTE)), PROMPTS)
    if not way.below_switch or outputs.switch is None:
        return outputs
    return replace(within(outputs, outputs.switch), notes=(*outputs.notes, CHUNKED_NOTE))


def _open(variant: Path, outputs: ReferenceOutputs, way: Way, threads: int | None) -> Variant:
    opened = way.open(variant, threads)
    if opened.vocab_size != outputs.vocab_size:
        raise errors.VariantUnusableError(
            f"The variant {variant} cannot be held against the original.",
            why=f"It has {opened.vocab_size:,} tokens in its vocabulary, the original {outputs.vocab_size:,}.",
            fix="Give the checkpoint that the variant was built from.",
        )
    return opened


def _stamp(opened: Variant, outputs: ReferenceOutputs, way: Way, variant_sha256: str) -> Stamp:
    notes = (*way.notes, *outputs.notes)
    return Stamp(opened.provider, opened.threads, variant_sha256, outputs.fingerprint, notes)


def _drift(variant: Variant, outputs: ReferenceOutputs, way: Way, stamp: Stamp, progress: Progress) -> Drift:
    total = len(outputs.texts.texts)
    return drift_record(
        outputs.texts,
        partial(way.logits, variant),
        kind=way.kind,
        stamp=stamp,
        data=outputs.text_set,
        switch=outputs.switch,
        on_text=lambda done: progress("drift", done, total),
    )


def _speak(variant: Variant, outputs: ReferenceOutputs, way: Way, progress: Progress) -> AllSpoken:
    return ask_all(outputs, partial(generate_all, variant, way.batch), progress)


def generate_all(
    variant: Variant,
    batch: int,
    prompts: Sequence[list[int]],
    limits: Sequence[int],
    on_done: Callable[[int], None],
) -> list[Spoken]:
    """Return the variant's answer to each prompt, in order; prompts of equal length and limit go together."""
    from phiforge.runtime.generate import generate

    groups: dict[tuple[int, int], list[int]] = {}
    for index, prompt in enumerate(prompts):
        groups.setdefault((len(prompt), limits[index]), []).append(index)
    made: dict[int, Spoken] = {}
    for (_, limit), indices in groups.items():
        for start in range(0, len(indices), batch):
            part = indices[start : start + batch]
            results = generate(variant, [prompts[index] for index in part], max_new_tokens=limit, batch_size=batch)
            for index, found in zip(part, results, strict=True):
                made[index] = Spoken(found.tokens, found.stopped_by == "stop-id", variant.decode(found.tokens))
            on_done(len(made))
    return [made[index] for index in range(len(prompts))]


def token_probes(variant: Variant, outputs: ReferenceOutputs) -> tuple[Probe, ...]:
    """Check tokenizer, chat template and stop ids of an opened variant."""
    from phiforge.runtime.generate import stops_at

    texts, chats = outputs.tokenized, outputs.chats
    return (
        probes.probe_tokenizer(variant.encode, [item.text for item in texts], [item.ids for item in texts]),
        probes.probe_chat_template(
            variant.apply_chat_template,
            variant.encode,
            [chat.messages for chat in chats],
            [(chat.text, chat.ids) for chat in chats],
        ),
        probes.probe_stop_ids(
            variant.stop_ids, outputs.stop_ids, lambda token: stops_at(variant, token), variant.vocab_size
        ),
    )


@dataclass(frozen=True)
class _Shown:
    """What the shipped variant itself shows: rows after prompts, and a generation across the longrope switch."""

    prompts: tuple[list[int], ...]
    rows: tuple[LastRows, ...]
    trace: Trace | None


def _show(variant: Variant, outputs: ReferenceOutputs) -> _Shown:
    """Let the shipped variant show what is held against its twin."""
    from phiforge.runtime.logits import last_rows, trace_greedy

    prompts = tuple(head_prompts([text.tokens.tolist() for text in outputs.texts.texts], variant.context_length))
    trace = None
    if outputs.switch is not None and outputs.around_switch is not None:
        before = outputs.switch - probes.DECODE_BEFORE
        trace = trace_greedy(variant, outputs.around_switch.texts[-1].tokens[:before].tolist(), probes.DECODE_STEPS)
    return _Shown(prompts=prompts, rows=tuple(last_rows(variant, prompt) for prompt in prompts), trace=trace)


def _rounding(variant: Path) -> float:
    """What sums in another order may differ by, as a fraction of the largest logit."""
    return probes.FLOAT16_ROUNDING_FRACTION if is_float16(variant) else probes.ROUNDING_FRACTION


def _head_probe(twin: Variant, shown: _Shown, rounding: float) -> Probe:
    from phiforge.runtime.logits import last_rows

    rows = [last_rows(twin, prompt) for prompt in shown.prompts]
    return probes.probe_pruned_head([len(prompt) - 1 for prompt in shown.prompts], shown.rows, rows, rounding=rounding)


def _switch_probes(
    variant: Variant, outputs: ReferenceOutputs, way: Way, shown: _Shown, typical_kl_nats: float, progress: Progress
) -> tuple[Probe, ...]:
    if outputs.switch is None or outputs.around_switch is None or shown.trace is None:
        if way.below_switch:
            return probes.no_switch("not run: prompts are computed in chunks, which the switch would part")
        return probes.no_switch("no longrope" if outputs.switch is None else "the context ends at the longrope switch")
    progress("longrope switch", 0, 2)
    logits_of = partial(way.logits, variant)
    prefill = probes.probe_switch_prefill(outputs.around_switch.texts, logits_of, typical_kl_nats)
    progress("longrope switch", 1, 2)
    decode = probes.probe_switch_decode(
        shown.trace,
        logits_of,
        switch=outputs.switch,
        stop_ids=variant.stop_ids,
        typical_kl_nats=typical_kl_nats,
    )
    progress("longrope switch", 2, 2)
    return prefill, decode
