"""How numbers and names are written in a report. Formatting only; no number is derived from another."""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING

from phiforge.gate import RULES, Unit, number, quantity

if TYPE_CHECKING:
    from phiforge.evidence import Estimate, Interval

NONE = "\N{EM DASH}"
TIMES = "\N{MULTIPLICATION SIGN}"

_POWER = re.compile(r"(-?[\d.]+)e(-?\d+)")
_RAISED = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def whole(value: int) -> str:
    """A count with thousands separators."""
    return f"{value:,}"


def tiny(text: str) -> str:
    """Write powers of ten as people do: "2.4e-7" becomes "2.4 times 10⁻⁷"."""
    return _POWER.sub(lambda match: f"{match[1]} {TIMES} 10{match[2].translate(_RAISED)}", text)


def minus(text: str) -> str:
    """Write the hyphens of a number as minus signs."""
    return text.replace("-", "\N{MINUS SIGN}")


def value(amount: float, unit: Unit, digits: int = 4) -> str:
    """A number with its unit, fit for reading; a dash where there is none."""
    return NONE if math.isnan(amount) else minus(tiny(quantity(amount, unit, digits)))


def estimate(given: Estimate, unit: Unit) -> str:
    """A mean with its standard error, both to the error's second digit: "0.02134 ± 0.00081 nats"."""
    scale, suffix = (100.0, " %") if unit == "fraction" else (1.0, "" if unit == "ratio" else f" {unit}")
    mean, error = given.mean * scale, given.standard_error * scale
    if not (math.isfinite(mean) and math.isfinite(error) and error > 0):
        return minus(f"{number(mean)} ± {number(error)}{suffix}")
    decimals = min(9, max(0, 1 - math.floor(math.log10(error))))
    return minus(f"{mean:,.{decimals}f} ± {error:,.{decimals}f}{suffix}")


def p_value(p: float) -> str:
    """A p value to two digits, or "< 0.001"."""
    return "< 0.001" if p < 0.001 else number(p, 2)


def duration(seconds: float) -> str:
    """Seconds as "0.21 s", "38.2 s", "6 min 53 s" or "1 h 05 min"."""
    if not seconds >= 60:
        return f"{number(seconds, 3)} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {rest:02} s"


def short_hash(digest: str) -> str:
    """The first twelve digits, enough to tell variants apart."""
    return digest[:12]


def budget_title(name: str) -> str:
    """A finding's budget in words; names that are no budget are shown as they are."""
    if name.startswith("probe:"):
        return "Probe: " + name.removeprefix("probe:")
    return RULES[name].title if name in RULES else name


def bound(name: str, limit: float) -> str:
    """A limit with its direction, as "≤ 0.03 nats"; what is no budget has none."""
    if name not in RULES:
        return "must pass"
    return ("≥ " if name.endswith("_min") else "≤ ") + value(limit, RULES[name].unit)


def found(name: str, amount: float | None) -> str:
    """A finding's value with its unit."""
    if amount is None:
        return NONE
    if name not in RULES:
        return "passed" if amount >= 1 else "failed"
    return value(amount, RULES[name].unit)


def interval(given: Interval | None, unit: Unit, digits: int = 3) -> str:
    """The two ends of a 90 % interval: "97.1 % to 99.8 %"; an end that is no bound is told."""
    if given is None or (given.low is None and given.high is None):
        return NONE
    if given.low is None or given.high is None:
        end, word = (given.high, "at most") if given.low is None else (given.low, "at least")
        assert end is not None
        return f"{word} {value(end, unit, digits)}"
    return f"{value(given.low, unit, digits)} to {value(given.high, unit, digits)}"


def share(part: int, whole_: int) -> str:
    """A count of a whole: "12 of 40"."""
    return f"{whole(part)} of {whole(whole_)}"


def points(fraction: float, suffix: str = " points") -> str:
    """A difference of fractions in percentage points, signed."""
    sign = "+" if fraction > 0 else ""
    return minus(f"{sign}{number(fraction * 100, 3)}{suffix}")
