"""What CHANGES.md shows of a number is what its check held against each other."""

from __future__ import annotations

from dataclasses import replace

import pytest

from phiforge.gate import Outcome
from phiforge.release.changes import NumberChange, Side, find_differences
from phiforge.release.layout import ProfileStanding, ReleaseRecord
from phiforge.release.numbers import read_numbers
from phiforge.release.regressions import find_regressions
from phiforge.release.standings import Standing
from phiforge.target import Regression
from unit.release.packages import CPU, MACHINE, Made, evidence, profile

OLD, NEW = "a" * 64, "b" * 64
OTHER = "9" * 64


def standing(sha256: str, *made: Made) -> Standing:
    """Of all evidence of these."""
    records = [item for one in made for item in evidence(one, sha256, profile(CPU, "cpu")).values()]
    return Standing(
        profile=CPU,
        variant_sha256=sha256,
        runtime="onnxruntime-genai 1.0",
        readings=read_numbers(1000, records),
    )


def changes(new: Standing, old: Standing) -> dict[str, NumberChange]:
    """By the number's name; the checks are those of this comparison."""
    checks = find_regressions(new, old, Regression())
    profiles = {
        CPU: ProfileStanding(variant="v", title="t", required=True, outcome=Outcome.PASS, numbers=(), checks=checks)
    }
    record = ReleaseRecord.model_construct(name="nano", version="1", previous=None, profiles=profiles)
    sides = [Side(standings={CPU: item}, sums={}, toolchain={}) for item in (new, old)]
    return {item.metric: item for item in find_differences(record, sides[0], sides[1]).numbers}


@pytest.mark.parametrize("turned", [False, True])
def test_both_are_of_the_texts_that_decided(turned: bool) -> None:
    """The second texts got worse, and the first are the worse ones."""
    olds = [Made(kl=0.5), Made(kl=0.01, dataset=OTHER)]
    news = [Made(kl=0.5), Made(kl=0.02, dataset=OTHER)]
    found = changes(standing(NEW, *news), standing(OLD, *(reversed(olds) if turned else olds)))["kl_mean_nats"]
    assert (found.before, found.after, found.outcome) == (0.01, 0.02, Outcome.FAIL)


def test_what_got_worst_beyond_doubt_goes_before_what_seems_worse() -> None:
    def both(sha256: str, sure: float, unsure: float) -> Standing:
        made = Made(kl=unsure, kl_error=1.0, blocks=(), dataset=OTHER)
        return standing(sha256, Made(kl=sure), made)

    found = changes(both(NEW, 0.012, 0.03), both(OLD, 0.01, 0.01))["kl_mean_nats"]
    assert (found.before, found.after, found.outcome) == (0.01, 0.012, Outcome.FAIL)


def test_both_are_of_one_machine() -> None:
    slow = Made(ttft_ms=100.0, machine=MACHINE.model_copy(update={"processor": "another"}))
    found = changes(standing(NEW, Made(ttft_ms=10.5)), standing(OLD, slow, Made(ttft_ms=10.0)))["ttft_ms"]
    assert (found.before, found.after) == (10.0, 10.5)


def test_what_was_held_against_nothing_shows_what_there_is() -> None:
    new, old = (
        standing(NEW, Made(dataset=OTHER, kl=0.02)),
        standing(OLD, Made(kl=0.01), Made(kl=0.03, dataset="8" * 64)),
    )
    found = changes(new, old)["kl_mean_nats"]
    assert (found.before, found.after, found.outcome) == (0.03, 0.02, Outcome.UNVERIFIED)
    gone = changes(replace(new, readings=()), old)["kl_mean_nats"]
    assert (gone.before, gone.after) == (0.03, None)
