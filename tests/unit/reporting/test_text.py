"""How numbers are written."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from phiforge.evidence import Estimate
from phiforge.reporting import text

if TYPE_CHECKING:
    from phiforge.gate import Unit


@pytest.mark.parametrize(
    ("seconds", "written"),
    [(0.21, "0.21 s"), (38.2, "38.2 s"), (412.7, "6 min 53 s"), (3900.0, "1 h 05 min"), (59.96, "60 s")],
)
def test_durations(seconds: float, written: str) -> None:
    assert text.duration(seconds) == written


@pytest.mark.parametrize(
    ("mean", "error", "unit", "written"),
    [
        (0.02134, 0.00081, "nats", "0.02134 ± 0.00081 nats"),
        (0.9341, 0.0022, "fraction", "93.41 ± 0.22 %"),
        (-0.0031, 0.0004, "fraction", "\N{MINUS SIGN}0.310 ± 0.040 %"),
        (1.5, 0.0, "nats", "1.5 ± 0 nats"),
        (float("nan"), 0.1, "nats", "nan ± 0.1 nats"),
        (120.0, 30.0, "nats", "120 ± 30 nats"),
    ],
)
def test_estimates_end_at_the_error_s_second_digit(mean: float, error: float, unit: Unit, written: str) -> None:
    assert text.estimate(Estimate(mean=mean, standard_error=error), unit) == written


def test_small_numbers_and_p_values() -> None:
    assert text.value(2.4e-7, "nats") == "2.4 \N{MULTIPLICATION SIGN} 10⁻⁷ nats"
    assert text.p_value(0.00002) == "< 0.001"
    assert text.p_value(0.4807) == "0.48"


def test_limits_show_their_direction() -> None:
    assert text.bound("kl_mean_nats_max", 0.03) == "≤ 0.03 nats"
    assert text.bound("decode_tokens_per_s_min", 5.0) == "≥ 5 tokens/s"
    assert text.bound("probe:stops", 1.0) == "must pass"
