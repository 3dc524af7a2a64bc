"""What a variant answers: questions, choices, continuations, prompts that may be refused; and the records of it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from phiforge.evidence import FreeRunning, Kind, Probe, Refusals, Tasks
from phiforge.validation import probes
from phiforge.validation.choices import choose
from phiforge.validation.free_running import Continuation, score_continuations
from phiforge.validation.refusals import Refused, count_refusals, refuses
from phiforge.validation.suites import is_right
from phiforge.validation.tasks import Answered, overall_score, task_scores

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from phiforge.validation.held_out import Stamp
    from phiforge.validation.reference_outputs import ReferenceOutputs

    LogitsOf = Callable[[Sequence[int]], NDArray[np.float32]]
    Progress = Callable[[str, int, int], None]
    # Prompts and limits to generations, in order; told how many are done.
    Speak = Callable[[Sequence[list[int]], Sequence[int], Callable[[int], None]], list["Spoken"]]


@dataclass(frozen=True)
class Spoken:
    """A greedy generation: its tokens without the stop id, whether one ended it, and its text."""

    tokens: tuple[int, ...]
    stopped: bool
    text: str


@dataclass(frozen=True, kw_only=True)
class AllSpoken:
    """All that a variant generated, in the order of what it was asked."""

    questions: tuple[Spoken, ...]
    continued: tuple[Spoken, ...]
    prompted: tuple[Spoken, ...]


@dataclass(frozen=True, kw_only=True)
class Answers:
    """The records of the answers, None where nothing was asked, and the probe that answers end."""

    tasks: Tasks | None
    free_running: FreeRunning | None
    refusals: Refusals | None
    stopping: tuple[Probe, ...]


def ask_all(outputs: ReferenceOutputs, speak: Speak, progress: Progress) -> AllSpoken:
    """Let a variant generate everything that the original was asked.

    Args:
        outputs: What the original was asked.
        speak: Generates: takes prompts, the most new tokens of each, and what is told how many are done.
        progress: Told of each step: (step, done, total).
    """

    def ask(step: str, prompts: list[list[int]], limits: list[int]) -> tuple[Spoken, ...]:
        return tuple(speak(prompts, limits, lambda done: progress(step, done, len(prompts)))) if prompts else ()

    return AllSpoken(
        questions=ask(
            "answers", [item.prompt for item in outputs.questions], [item.limit for item in outputs.questions]
        ),
        continued=ask(
            "free running", [item.prompt for item in outputs.continued], [item.limit for item in outputs.continued]
        ),
        prompted=ask("refusals", [item.prompt for item in outputs.prompted], [item.limit for item in outputs.prompted]),
    )


def choose_all(outputs: ReferenceOutputs, logits_of: LogitsOf, progress: Progress) -> tuple[int, ...]:
    """Return what a variant chooses of the continuations of each choice; errors as `choices.choose`."""
    found = []
    for item in outputs.choices:
        found.append(choose(item.prompt, item.continuations, logits_of))
        progress("choices", len(found), len(outputs.choices))
    return tuple(found)


def judge_answers(
    outputs: ReferenceOutputs,
    spoken: AllSpoken,
    chosen: Sequence[int],
    *,
    kind: Kind,
    stamp: Stamp,
    choice_notes: tuple[str, ...] = (),
) -> Answers:
    """Hold what a variant generated and chose against what the original did.

    Args:
        outputs: What the original was asked, and what it said.
        spoken: What the variant generated.
        chosen: What it chose, in the order of `outputs.choices`.
        kind: How that was come by.
        stamp: What every record says.
        choice_notes: What the record with the choices says besides.
    """
    noted = replace(stamp, notes=(*stamp.notes, *choice_notes)) if chosen else stamp
    return Answers(
        tasks=_tasks(outputs, spoken.questions, chosen, kind, noted),
        free_running=_free_running(outputs, spoken.continued, kind, stamp),
        refusals=_refusals(outputs, spoken.prompted, kind, stamp),
        stopping=_stopping(outputs, spoken.questions),
    )


def _tasks(
    outputs: ReferenceOutputs, spoken: Sequence[Spoken], chosen: Sequence[int], kind: Kind, stamp: Stamp
) -> Tasks | None:
    answered = [
        Answered(
            task=asked.task,
            reference_right=asked.right,
            variant_right=is_right(outputs.suite(asked.task).format, asked.check, ours.text),
            reference_tokens=asked.tokens,
            variant_tokens=len(ours.tokens),
        )
        for asked, ours in zip(outputs.questions, spoken, strict=True)
    ]
    answered += [
        Answered(item.task, item.chosen == item.right, ours == item.right, None, None)
        for item, ours in zip(outputs.choices, chosen, strict=True)
    ]
    if not answered:
        return None
    notes = tuple(note for suite in outputs.suites for note in suite.notes)
    asked = {item.task for item in answered}
    return Tasks(
        kind=kind,
        conditions=replace(stamp, notes=(*stamp.notes, *notes)).conditions(outputs.task_set, len(answered)),
        variant_sha256=stamp.variant_sha256,
        reference_sha256=stamp.reference_sha256,
        scores=task_scores(answered, outputs.suites),
        overall=overall_score(answered, [suite for suite in outputs.suites if suite.name in asked]),
    )


def _stopping(outputs: ReferenceOutputs, spoken: Sequence[Spoken]) -> tuple[Probe, ...]:
    if not spoken:
        return ()
    endings = [probes.ending(ours.tokens, stopped=ours.stopped) for ours in spoken]
    return (probes.probe_stopping([asked.ending for asked in outputs.questions], endings),)


def _free_running(outputs: ReferenceOutputs, spoken: Sequence[Spoken], kind: Kind, stamp: Stamp) -> FreeRunning | None:
    if not spoken:
        return None
    numbers = score_continuations(
        [item.continuation for item in outputs.continued],
        [Continuation(ours.tokens, ours.stopped) for ours in spoken],
        [item.limit for item in outputs.continued],
    )
    return FreeRunning(
        kind=kind,
        conditions=stamp.conditions(outputs.text_set + outputs.task_set, len(spoken)),
        variant_sha256=stamp.variant_sha256,
        reference_sha256=stamp.reference_sha256,
        **vars(numbers),
    )


def _refusals(outputs: ReferenceOutputs, spoken: Sequence[Spoken], kind: Kind, stamp: Stamp) -> Refusals | None:
    if not spoken:
        return None
    refused = [
        Refused(item.category, item.refused, refuses(ours.text))
        for item, ours in zip(outputs.prompted, spoken, strict=True)
    ]
    categories, agreement, interval = count_refusals(refused)
    return Refusals(
        kind=kind,
        conditions=stamp.conditions(outputs.prompt_set, len(refused)),
        variant_sha256=stamp.variant_sha256,
        reference_sha256=stamp.reference_sha256,
        categories=categories,
        agreement_fraction=agreement,
        agreement_interval_fraction=interval,
    )
