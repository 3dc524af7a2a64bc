"""Which of several measured contenders to take: pure, from times to a decision with reasons.

The rule: of all contenders that are within the noise of the fastest, the first in order of preference. So the default,
or the simpler one, stays unless another is faster by more than the measurement can tell.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

# A normal distribution's standard deviation is so many times its median absolute deviation, and the standard error of
# its median so many times that of its mean.
SIGMA_PER_MAD = 1.4826
MEDIAN_ERROR = 1.2533
# A gain counts from so many standard errors of the difference of two medians.
ERRORS = 2.0


@dataclass(frozen=True)
class Contender:
    """One of the things compared: its times, one for each round; or none, where it failed."""

    name: str
    times_ms: tuple[float, ...]


@dataclass(frozen=True)
class Decision:
    """What was chosen; None where every contender failed.

    Attributes:
        chosen: The name of the contender.
        noise_fraction: Standard deviation of single times from their contender's median, as a fraction of it.
        least_gain_fraction: The smallest gain that counts.
        why: The reason, a sentence.
    """

    chosen: str | None
    noise_fraction: float
    least_gain_fraction: float
    why: str


def decide(contenders: Sequence[Contender]) -> Decision:
    """Choose among contenders in order of preference, the default first."""
    sound = [contender for contender in contenders if contender.times_ms]
    if not sound:
        return Decision(None, 0.0, 0.0, "Every contender failed.")
    noise = noise_fraction(sound)
    least = least_gain(noise, min(len(contender.times_ms) for contender in sound))
    medians = {contender.name: median(contender.times_ms) for contender in sound}
    fastest = min(sound, key=lambda contender: medians[contender.name])
    chosen = next(item for item in sound if gain(medians[item.name], medians[fastest.name]) <= least)
    why = _why(sound[0].name, chosen.name, fastest.name, medians, least)
    if sound[0].name != contenders[0].name:
        why = f"{contenders[0].name} failed. {why}"
    return Decision(chosen.name, noise, least, why)


def gain(before_ms: float, after_ms: float) -> float:
    """The fraction of time saved, 0.2 for 100 ms that become 80."""
    return 1.0 - after_ms / before_ms


def noise_fraction(contenders: Sequence[Contender]) -> float:
    """The standard deviation of a single time, relative to its contender's median, robustly and over all contenders.

    Each contender's time nearest to its median is left out: with an odd number of rounds it is the median itself.
    """
    deviations = []
    for contender in contenders:
        middle = median(contender.times_ms)
        deviations += sorted(abs(time / middle - 1.0) for time in contender.times_ms)[1:]
    return SIGMA_PER_MAD * median(deviations) if deviations else 0.0


def least_gain(noise: float, rounds: int) -> float:
    """The smallest gain between two medians of so many rounds that is more than noise."""
    return ERRORS * MEDIAN_ERROR * noise * math.sqrt(2.0 / rounds)


def _why(default: str, chosen: str, fastest: str, medians: dict[str, float], least: float) -> str:
    if chosen == fastest == default:
        return f"{default} comes first and is the fastest."
    parts = []
    if chosen != default:
        parts.append(f"{chosen} takes {gain(medians[default], medians[chosen]):.1%} less time than {default}")
    if chosen != fastest:
        saved = gain(medians[chosen], medians[fastest])
        parts.append(f"{fastest} takes {saved:.1%} less time than {chosen}, which is within the noise")
    return f"{'; '.join(parts)}; a gain counts from {least:.1%}."
