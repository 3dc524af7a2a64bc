from __future__ import annotations

import pytest

from phiforge import errors
from phiforge.gate import Finding, Outcome
from phiforge.release.layout import Waiver
from phiforge.release.waivers import apply_waivers, parse_waiver


def finding(name: str, outcome: Outcome) -> Finding:
    return Finding(budget=name, limit=1, value=None, kind=None, outcome=outcome, reason=name)


UNKNOWN, FAILED = finding("ttft_p50_ms_max", Outcome.UNVERIFIED), finding("kl_mean_nats_max", Outcome.FAIL)
UNPASSED = {"x": [UNKNOWN, FAILED], "y": []}
KNOWN = {"x": [UNKNOWN.budget, FAILED.budget, "probe:a"], "y": []}


def applied(*texts: str) -> tuple[tuple[Waiver, ...], dict[str, list[Finding]]]:
    return apply_waivers([parse_waiver(text) for text in texts], UNPASSED, KNOWN)


def test_a_profile_s_waiver_lets_through_what_is_unverified_and_no_more() -> None:
    (waiver,), left = applied("x=no such device  here")
    assert (waiver.checks, waiver.reason) == ((UNKNOWN.budget,), "no such device here")
    assert left == {"x": [FAILED], "y": []}


def test_a_failed_check_is_waived_by_its_own_name() -> None:
    waivers, left = applied(f"x/{FAILED.budget}=known", "x=no device")
    assert {item.check for item in waivers} == {FAILED.budget, None}
    assert left == {"x": [], "y": []}


@pytest.mark.parametrize("text", ["x", "x=", "x= . ", "=why", "x/=why", ""])
def test_a_waiver_without_a_name_or_a_reason_is_none(text: str) -> None:
    with pytest.raises(errors.WaiverInvalidError):
        parse_waiver(text)


@pytest.mark.parametrize(
    ("texts", "said"),
    [
        (["z=why"], "which this release has not"),
        (["x/nothing=why"], "no such check"),
        (["x/probe:a=it passed"], "is not needed"),
        (["y=why"], "is not needed"),
        (["x=why", "x=again"], "waives nothing"),
        ([f"x/{FAILED.budget}=why"] * 2, "is not needed"),
    ],
)
def test_a_waiver_for_nothing_is_refused(texts: list[str], said: str) -> None:
    with pytest.raises(errors.WaiverInvalidError) as caught:
        applied(*texts)
    assert said in caught.value.what


def test_a_waiver_that_only_failed_checks_are_left_for_says_how_those_are_waived() -> None:
    with pytest.raises(errors.WaiverInvalidError) as caught:
        apply_waivers([parse_waiver("x=why")], {"x": [FAILED]}, {"x": [FAILED.budget]})
    assert FAILED.budget in caught.value.why
