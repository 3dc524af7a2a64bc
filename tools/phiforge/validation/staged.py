"""Validate a variant for an NPU on a machine without one: the same graphs on the CPU, and the vendor's emulator.

The CPU runs the QDQ graphs over all texts (`surrogate`); the emulator runs what was compiled, but without shared
weights, over a few hundred positions (`emulated`), and both must say the same. The runtime that ships then answers on
the emulator. Time is not measured: an emulator's says nothing of the device's.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from phiforge.activations import SwitchedOff, expected_names
from phiforge.checkpoint.config import load_config
from phiforge.evidence import Agreement, Breakdown, DriftStep, Kind, Probes
from phiforge.machine import default_threads
from phiforge.validation.agreement import agreement, compare, of_pairs
from phiforge.validation.answers import Spoken, ask_all, choose_all, judge_answers
from phiforge.validation.asking import DEFAULT_ASKING, Asking
from phiforge.validation.drift import score, score_text
from phiforge.validation.end_to_end import probe_end_to_end
from phiforge.validation.held_out import Stamp, ask_checkpoint
from phiforge.validation.probes import probe_placement
from phiforge.validation.records import drift_record
from phiforge.validation.run import token_probes
from phiforge.validation.statistics import BLOCK_TOKENS, block_ids, clustered_mean
from phiforge.validation.subset import (
    PROMPTS,
    QUESTIONS,
    cut_reference,
    cut_text,
    fewer_prompts,
    fewer_questions,
    token_line,
)
from phiforge.variant import CALIBRATED_FOLDER, QDQ_FOLDER, TWIN_FOLDER

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import NDArray

    from phiforge.evidence import AnyEvidence, Drift, Probe
    from phiforge.pipeline import StagesOptions
    from phiforge.runtime.stages import StagedDecoder
    from phiforge.runtime.variant import Variant
    from phiforge.validation.agreement import Comparison
    from phiforge.validation.answers import Answers
    from phiforge.validation.drift import DriftNumbers, Reference, ReferenceText
    from phiforge.validation.reference_outputs import ReferenceOutputs

    Progress = Callable[[str, int, int], None]
    Floats = NDArray[np.float32]
    LogitsOf = Callable[[Sequence[int]], Floats]

SURROGATE_NOTE = "the graphs before compilation on the CPU provider, in windows as the device takes them"
EMULATED_NOTE = "the graphs compiled without shared weights on QNN's emulator for x86: right numbers, no timing"
# Positions of each measurement that does not go over all texts.
EMULATED_POSITIONS = 512
DECODED_TEXTS, DECODE_AFTER, DECODED_POSITIONS = 2, 16, 48
BREAKDOWN_POSITIONS = 2048
COMPARED_POSITIONS = 1024


@dataclass(frozen=True, kw_only=True)
class StagedSubject:
    """A built variant for an NPU.

    Attributes:
        build: Its stage folder, with the twin, the graphs before compilation and the calibrated checkpoint.
        options: What the graphs were made with.
        sha256: The hash of what ships.
        others: Variants of the same checkpoint to compare it with: name to folder and hash.
    """

    build: Path
    options: StagesOptions
    sha256: str
    others: Mapping[str, tuple[Path, str]]


@dataclass(frozen=True, kw_only=True)
class _Run:
    """What all parts of one validation share; `stamp` is of what runs on the CPU."""

    subject: StagedSubject
    outputs: ReferenceOutputs
    stamp: Stamp
    cache: Path
    threads: int
    progress: Progress

    @property
    def emulated(self) -> Stamp:
        """The stamp of what runs on the emulator."""
        return replace(self.stamp, provider="qnn", notes=(EMULATED_NOTE,))


def validate_staged(
    subject: StagedSubject,
    checkpoint: Path,
    *,
    texts: Path,
    tasks: Path | None,
    cache: Path,
    threads: int | None,
    progress: Progress,
    asking: Asking = DEFAULT_ASKING,
) -> list[AnyEvidence]:
    """Return the evidence of a variant for an NPU; arguments and errors as `run.validate_variant`.

    Raises:
        DependencyMissingError: QNN's emulator is not installed.
        FallbackError: Nodes run elsewhere than promised.
    """
    from phiforge.runtime.placement import check_placement
    from phiforge.runtime.stages import open_stages, staged_logits
    from phiforge.runtime.variant import open_variant

    threads = threads or default_threads()
    twin = subject.build / TWIN_FOLDER
    placement = probe_placement(lambda: check_placement(twin, "qnn").total)
    assert subject.options.context_tokens is not None
    outputs = ask_checkpoint(
        checkpoint, texts, tasks, context=subject.options.context_tokens, cache=cache, threads=threads,
        progress=progress, asking=asking,
    )  # fmt: skip
    stamp = Stamp("cpu", threads, subject.sha256, outputs.fingerprint, (SURROGATE_NOTE,))
    run = _Run(subject=subject, outputs=outputs, stamp=stamp, cache=cache, threads=threads, progress=progress)
    runtime = open_variant(twin, threads=threads)
    cpu = open_stages(subject.build / QDQ_FOLDER, threads=threads)
    surrogate = _drift(run, partial(staged_logits, cpu), outputs.texts, Kind.SURROGATE)
    answers = _answers(run, cpu, runtime)
    emulator = open_stages(twin, threads=threads)
    emulated, agreements, steps = _emulate(run, cpu, emulator)
    others = [_compare(run, cpu, *item) for item in subject.others.items()]
    steps = (*_kind_steps(run, cpu), *steps)
    checks = (*token_probes(runtime, outputs), *answers.stopping, placement,
              *probe_end_to_end(runtime, emulator, token_line(outputs.texts), progress))  # fmt: skip
    found = (surrogate, answers.tasks, answers.free_running, answers.refusals, emulated, _probes(run, checks),
             *agreements, *others, _breakdown(run, steps))  # fmt: skip
    return [item for item in found if item is not None]


def _drift(run: _Run, logits_of: LogitsOf, reference: Reference, kind: Kind) -> Drift:
    total, name = len(reference.texts), f"drift, {kind.value}"
    return drift_record(
        reference,
        logits_of,
        kind=kind,
        stamp=run.stamp if kind is Kind.SURROGATE else run.emulated,
        data=run.outputs.text_set,
        switch=run.outputs.switch,
        on_text=lambda done: run.progress(name, done, total),
    )


def _answers(run: _Run, decoder: StagedDecoder, runtime: Variant) -> Answers:
    """Answer on the CPU, but not all: these graphs answer one prompt at a time."""
    from phiforge.runtime.stages import staged_generate, staged_logits

    outputs = fewer_prompts(fewer_questions(run.outputs, QUESTIONS), PROMPTS)

    def speak(prompts: Sequence[list[int]], limits: Sequence[int], on_done: Callable[[int], None]) -> list[Spoken]:
        made = []
        for prompt, limit in zip(prompts, limits, strict=True):
            found = staged_generate(decoder, prompt, limit)
            made.append(Spoken(found.tokens, found.stopped_by == "stop-id", runtime.decode(found.tokens)))
            on_done(len(made))
        return made

    asked = (len(part.questions) + len(part.choices) for part in (outputs, run.outputs))
    prompts = (len(part.continued) + len(part.prompted) for part in (outputs, run.outputs))
    note = "{} of {} questions, {} of {} prompts".format(*asked, *prompts)
    stamp = replace(run.stamp, notes=(*run.stamp.notes, note))
    spoken = ask_all(outputs, speak, run.progress)
    chosen = choose_all(outputs, partial(staged_logits, decoder), run.progress)
    return judge_answers(outputs, spoken, chosen, kind=Kind.SURROGATE, stamp=stamp)


def _emulate(
    run: _Run, cpu: StagedDecoder, emulator: StagedDecoder
) -> tuple[Drift, tuple[Agreement, ...], tuple[DriftStep, ...]]:
    """Hold the emulator against the reference and against the CPU, in windows and token by token."""
    from phiforge.runtime.stages import staged_logits

    some = cut_reference(run.outputs.texts, EMULATED_POSITIONS)
    pairs: list[tuple[Floats, Floats]] = []

    def both(ids: Sequence[int]) -> Floats:
        pairs.append((staged_logits(emulator, ids), staged_logits(cpu, ids)))
        return pairs[-1][0]

    prefill = _drift(run, both, some, Kind.EMULATED)
    length = DECODE_AFTER + DECODED_POSITIONS
    long = [cut_text(text, length) for text in run.outputs.texts.texts if len(text.tokens) >= length][:DECODED_TEXTS]
    rows = []
    for done, text in enumerate(long, start=1):
        ids = text.tokens.tolist()
        rows.append((staged_logits(emulator, ids, DECODE_AFTER), staged_logits(cpu, ids, DECODE_AFTER)))
        run.progress("emulator against CPU, decode", done, len(long))
    decoded = [(ours[DECODE_AFTER:], theirs[DECODE_AFTER:]) for ours, theirs in rows]
    agreements = [_agreement(run, "emulator-prefill", pairs)]
    steps = [_step("emulator, prefill", prefill.kind, prefill)]
    if decoded:
        agreements.append(_agreement(run, "emulator-decode", decoded))
        steps.append(_decode_step(long, [ours for ours, _ in rows]))
    return prefill, tuple(agreements), tuple(steps)


def _agreement(run: _Run, comparison: Comparison, pairs: Sequence[tuple[Floats, Floats]]) -> Agreement:
    return agreement(
        of_pairs(pairs), comparison, kind=Kind.EMULATED,
        conditions=run.emulated.conditions(run.outputs.text_set, len(pairs)), variant_sha256=run.subject.sha256,
        against="the same graphs on the CPU",
    )  # fmt: skip


def _compare(run: _Run, cpu: StagedDecoder, name: str, other: tuple[Path, str]) -> Agreement:
    """Hold the graphs on the CPU against another variant of the checkpoint, over the same texts."""
    from phiforge.runtime.logits import logits
    from phiforge.runtime.stages import staged_logits
    from phiforge.runtime.variant import open_variant
    from phiforge.validation.twin import scored_folder

    some = cut_reference(run.outputs.texts, COMPARED_POSITIONS)
    with scored_folder(other[0], run.cache) as folder:
        opened = open_variant(folder, threads=run.threads)
        totals = compare(
            some, partial(staged_logits, cpu), partial(logits, opened),
            lambda done: run.progress(f"against {name}", done, len(some.texts)),
        )  # fmt: skip
        del opened
    return agreement(
        totals, "other-variant", kind=Kind.SURROGATE,
        conditions=run.stamp.conditions(run.outputs.text_set, len(some.texts)), variant_sha256=run.subject.sha256,
        against=name, against_sha256=other[1],
    )  # fmt: skip


def _kind_steps(run: _Run, cpu: StagedDecoder) -> tuple[DriftStep, DriftStep]:
    """Drift with every activation left in float32, and of the graphs as they are, over the same texts."""
    from phiforge.runtime.stages import staged_logits

    some = cut_reference(run.outputs.texts, BREAKDOWN_POSITIONS)
    off = SwitchedOff(activations=frozenset(expected_names(layer_count(run.subject.build))))
    weights = score_changed(
        run.subject, some, off, switch=run.outputs.switch, cache=run.cache, threads=run.threads,
        on_text=lambda done: run.progress("drift, weights only", done, len(some.texts)),
    )  # fmt: skip
    both = score(some, partial(staged_logits, cpu), switch=run.outputs.switch)
    return _step("weights", Kind.SURROGATE, weights), _step("weights and activations", Kind.SURROGATE, both)


def score_changed(
    subject: StagedSubject,
    reference: Reference,
    off: SwitchedOff,
    *,
    switch: int | None,
    cache: Path,
    threads: int,
    on_text: Callable[[int], None] | None = None,
) -> DriftNumbers:
    """Score the graphs with a part of their quantization switched off, on the CPU; errors as `drift.score`."""
    # Imported here: it takes torch and the runtime's builder.
    from phiforge.olive.export_stages import export_stages
    from phiforge.runtime.stages import open_stages, staged_logits

    with tempfile.TemporaryDirectory(prefix=".changed-", suffix=".partial", dir=cache) as name:
        folder = Path(name)
        export_stages(subject.build / CALIBRATED_FOLDER, folder, subject.options, progress=_quietly, off=off)
        return score(
            reference, partial(staged_logits, open_stages(folder, threads=threads)), switch=switch, on_text=on_text
        )


def _decode_step(texts: Sequence[ReferenceText], rows: Sequence[Floats]) -> DriftStep:
    """Drift of the positions that were decoded one by one."""
    scored = [score_text(text, logits) for text, logits in zip(texts, rows, strict=True)]
    kl = np.concatenate([item.kl_nats[DECODE_AFTER:-1] for item in scored])
    agrees = np.concatenate([item.top1_agrees[DECODE_AFTER:-1] for item in scored])
    blocks = block_ids([len(item.kl_nats[DECODE_AFTER:-1]) for item in scored], BLOCK_TOKENS)
    return DriftStep(
        name="emulator, decode",
        kind=Kind.EMULATED,
        positions=len(kl),
        kl_nats=clustered_mean(kl, blocks),
        top1_agreement_fraction=float(agrees.mean()),
    )


def _step(name: str, kind: Kind, numbers: Drift | DriftNumbers) -> DriftStep:
    return DriftStep(
        name=name,
        kind=kind,
        positions=numbers.positions,
        kl_nats=numbers.kl_nats,
        top1_agreement_fraction=numbers.top1_agreement_fraction.mean,
    )


def _breakdown(run: _Run, steps: Sequence[DriftStep]) -> Breakdown:
    return Breakdown(
        kind=Kind.SURROGATE,
        conditions=run.stamp.conditions(run.outputs.text_set, len(run.outputs.texts.texts)),
        variant_sha256=run.subject.sha256,
        reference_sha256=run.stamp.reference_sha256,
        steps=tuple(steps),
    )


def _probes(run: _Run, checks: tuple[Probe, ...]) -> Probes:
    return Probes(
        kind=Kind.EMULATED,
        conditions=run.emulated.conditions(run.outputs.text_set + run.outputs.task_set, len(checks)),
        variant_sha256=run.subject.sha256,
        probes=checks,
    )


def layer_count(build: Path) -> int:
    """The layers of a built variant's checkpoint."""
    return load_config(build / CALIBRATED_FOLDER, quantized=True).layer_count


def _quietly(done: int, total: int) -> None:
    """Nothing is told of a part's graphs."""
