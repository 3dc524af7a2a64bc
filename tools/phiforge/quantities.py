"""Numbers as text, with their units: how a report, a verdict and an error tell them."""

from __future__ import annotations

import math
from typing import Literal, TypeAlias

Unit: TypeAlias = Literal["nats", "fraction", "ratio", "bytes", "ms", "tokens/s"]


def quantity(value: float, unit: Unit, digits: int = 4) -> str:
    """A number with its unit, to so many significant digits, as "0.0213 nats", "93.4 %" or "2.94 GB"."""
    match unit:
        case "fraction":
            return f"{number(value * 100, digits)} %"
        case "ratio":
            return number(value, digits)
        case "bytes":
            # Rounding may lift a value to the next power of ten, so the prefix is chosen a hair early.
            for size, prefix in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
                if abs(value) >= size * 0.99995:
                    return f"{number(value / size, digits)} {prefix}"
            return f"{number(value, digits)} bytes"
        case _:
            return f"{number(value, digits)} {unit}"


def number(value: float, digits: int = 4) -> str:
    """A number to so many significant digits: thousands separated, integers whole, tiny ones in powers of ten."""
    if not math.isfinite(value):
        return str(value)
    if value == 0:
        return "0"
    if abs(value) < 1e-4:
        mantissa, exponent = f"{value:.{digits - 1}e}".split("e")
        return f"{_trim(mantissa)}e{int(exponent)}"
    decimals = max(0, digits - 1 - math.floor(math.log10(abs(value))))
    return _trim(f"{value:,.{decimals}f}")


def apart(value: float, limit: float, unit: Unit) -> tuple[str, str]:
    """Both numbers as text, with enough digits that different numbers look different."""
    for digits in range(4, 17):
        texts = quantity(value, unit, digits), quantity(limit, unit, digits)
        if value == limit or texts[0] != texts[1]:
            return texts
    return repr(value), repr(limit)


def rounded_up(count: int) -> int:
    """A count to two digits, upwards: more would claim to know the samples that are still to come."""
    step = int(10 ** max(0, len(str(count)) - 2))
    return -(-count // step) * step


def _trim(text: str) -> str:
    return text.rstrip("0").rstrip(".") if "." in text else text
