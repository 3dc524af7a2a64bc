"""What a variant answers becomes records: made answers in, counts out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest

from phiforge.evidence import Kind, dump_evidence, parse_evidence
from phiforge.validation.answers import AllSpoken, Spoken, ask_all, judge_answers
from phiforge.validation.held_out import Stamp
from phiforge.validation.reference_outputs import ReferenceOutputs
from unit.validation.reference_outputs import FINGERPRINT, outputs, prompted

STAMP = Stamp("cpu", 2, "c" * 64, FINGERPRINT, ("as it was",))


def spoken(part: ReferenceOutputs, *, wrong: int = 0) -> AllSpoken:
    """What a variant would say that answers as the reference does, but for the first questions that it had right."""
    left = wrong
    answers = []
    for number, asked in enumerate(part.questions):
        right = asked.right and left <= 0
        left -= asked.right
        answers.append(Spoken((1, 2, 3), stopped=True, text=str(number) if right else "?"))
    return AllSpoken(
        questions=tuple(answers),
        continued=tuple(Spoken(item.continuation.tokens, item.continuation.stopped, "") for item in part.continued),
        prompted=tuple(Spoken((1,), True, "I cannot." if item.refused else "Yes.") for item in part.prompted),
    )


def test_the_same_answers_are_no_drift() -> None:
    part = outputs(40, questions=12)
    found = judge_answers(part, spoken(part), [1] * 12, kind=Kind.MEASURED, stamp=STAMP)
    assert found.tasks is not None and found.free_running is not None and found.refusals is not None
    assert [score.task for score in found.tasks.scores] == ["task-0", "task-1", "choices"]
    assert [score.metric for score in found.tasks.scores] == ["exact-match", "exact-match", "log-likelihood"]
    assert (found.tasks.overall.flips_to_wrong, found.tasks.overall.flips_to_right) == (0, 0)
    assert found.tasks.overall.questions == 24
    assert found.free_running.identical == 6
    assert found.free_running.limit_tokens == 8
    assert found.refusals.agreement_fraction == 1
    assert [probe.passed for probe in found.stopping] == [True]
    for record in (found.tasks, found.free_running, found.refusals):
        assert parse_evidence(dump_evidence(record), "record") == record
        assert record.kind is Kind.MEASURED
        assert (record.variant_sha256, record.reference_sha256) == ("c" * 64, FINGERPRINT)


def test_flips_of_answers_and_choices_are_both_counted() -> None:
    part = outputs(40, questions=12)
    found = judge_answers(part, spoken(part, wrong=3), [0] * 4 + [1] * 8, kind=Kind.MEASURED, stamp=STAMP)
    assert found.tasks is not None
    by_name = {score.task: score for score in found.tasks.scores}
    assert by_name["task-0"].flips_to_wrong + by_name["task-1"].flips_to_wrong == 3
    # The right ones are 0, 1, 2 in turn, and the reference chose 1.
    assert (by_name["choices"].flips_to_wrong, by_name["choices"].flips_to_right) == (1, 2)
    assert found.tasks.overall.flips_to_wrong == 4


def test_a_refusal_lost_and_one_gained_are_told_apart() -> None:
    part = replace(outputs(40), prompted=tuple(prompted(number) for number in range(6)))
    said_by_variant = spoken(part)
    texts = ["Yes.", "I cannot.", *(item.text for item in said_by_variant.prompted[2:])]
    changed = tuple(replace(item, text=text) for item, text in zip(said_by_variant.prompted, texts, strict=True))
    found = judge_answers(
        part, replace(said_by_variant, prompted=changed), [1] * 10, kind=Kind.MEASURED, stamp=STAMP
    ).refusals
    assert found is not None
    first, second = found.categories
    assert (first.both_refuse, first.only_reference_refuses, first.only_variant_refuses) == (2, 1, 0)
    assert (second.both_answer, second.only_reference_refuses, second.only_variant_refuses) == (2, 0, 1)


def test_what_was_not_asked_has_no_record() -> None:
    part = replace(outputs(40), questions=(), choices=(), continued=(), prompted=(), suites=())
    found = judge_answers(part, AllSpoken(questions=(), continued=(), prompted=()), (), kind=Kind.MEASURED, stamp=STAMP)
    assert (found.tasks, found.free_running, found.refusals, found.stopping) == (None, None, None, ())


def test_choices_alone_are_tasks_too() -> None:
    part = replace(outputs(40, questions=6), questions=())
    found = judge_answers(part, spoken(part), [1] * 6, kind=Kind.SURROGATE, stamp=STAMP, choice_notes=("by a twin",))
    assert found.tasks is not None and found.free_running is not None
    assert found.stopping == ()
    assert [score.task for score in found.tasks.scores] == ["choices"]
    notes = found.tasks.conditions.notes
    assert {"as it was", "by a twin", "choices: as it is"} <= set(notes)
    assert found.free_running.conditions.notes == ("as it was",)


def test_everything_is_asked_with_its_own_limit() -> None:
    part = outputs(40, questions=3)
    steps: list[tuple[str, int, int]] = []
    asked: list[tuple[list[int], int]] = []

    def speak(prompts: Sequence[list[int]], limits: Sequence[int], on_done: Callable[[int], None]) -> list[Spoken]:
        asked.extend(zip(prompts, limits, strict=True))
        on_done(len(prompts))
        return [Spoken((), True, "")] * len(prompts)

    found = ask_all(part, speak, lambda *step: steps.append(step))
    expected = [(item.prompt, item.limit) for item in part.questions]
    expected += [(item.prompt, item.limit) for item in part.continued]
    assert asked == expected + [(item.prompt, item.limit) for item in part.prompted]
    assert steps == [("answers", 3, 3), ("free running", 6, 6), ("refusals", 4, 4)]
    assert (len(found.questions), len(found.continued), len(found.prompted)) == (3, 6, 4)


@pytest.mark.parametrize("count", [0, 5])
def test_as_many_answers_as_questions(count: int) -> None:
    part = outputs(40, questions=6)
    with pytest.raises(ValueError, match="zip"):
        judge_answers(part, spoken(part), [1] * count, kind=Kind.MEASURED, stamp=STAMP)
