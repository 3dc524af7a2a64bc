"""Where a variant stands in a release, and which numbers of two releases can be held against each other: pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from phiforge.evidence import Kind
from phiforge.release.numbers import runtimes_of
from phiforge.selection import GENAI_WHEELS

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from phiforge.evidence import Comparison
    from phiforge.release.numbers import Reading

# What is of the machine and the runtime; other numbers are of texts or questions, or of the files.
_OF_MACHINE = ("ttft_ms", "decode_tokens_per_s", "peak_anon_bytes")


@dataclass(frozen=True, kw_only=True)
class Standing:
    """What is known of one variant on one profile in one release.

    `runtime` is what the profile runs it by: the distribution and its version, as "onnxruntime-genai 0.18.0".
    """

    profile: str
    variant_sha256: str
    runtime: str
    readings: tuple[Reading, ...]


def counts(comparison: Comparison, new: Standing, old: Standing) -> bool:
    """Return whether a comparison is of these two variants, both by the runtime of both.

    Both sides of a comparison ran by one runtime; where the releases' differ, one of them ran as it never will.
    """
    sides = (comparison.variant_sha256, comparison.against_sha256)
    if comparison.kind is not Kind.MEASURED or sides != (new.variant_sha256, old.variant_sha256):
        return False
    return not runtimes_apart(new, old) and runs_by(runtimes_of(comparison.conditions), new.runtime)


def runs_by(runtimes: Iterable[tuple[str, str]], runtime: str) -> bool:
    """Return whether these distributions are a runtime: itself, or another build of onnxruntime-genai of its version.

    Args:
        runtimes: Names and versions, as `numbers.runtimes_of` returns them.
        runtime: As in `Standing`.
    """
    package, _, version = runtime.rpartition(" ")
    family = GENAI_WHEELS if package in GENAI_WHEELS else (package,)
    return {found for name, found in runtimes if name in family} == {version}


def runtimes_apart(new: Standing, old: Standing) -> str:
    """Return in what the runtimes of both differ, as words; nothing if they do not.

    Beside what the profiles name, a runtime has parts of its own version; what measured the two must not differ in one.
    """
    if new.runtime != old.runtime:
        return f"{old.runtime} then, {new.runtime} now"
    now, then = _installed(new), _installed(old)
    apart = [name for name in sorted(now.keys() & then.keys()) if not now[name] & then[name]]
    return ", ".join(f"{name} {'/'.join(sorted(then[name]))} then, {'/'.join(sorted(now[name]))} now" for name in apart)


def _installed(standing: Standing) -> dict[str, set[str]]:
    """The versions of each distribution that measured a variant."""
    found: dict[str, set[str]] = {}
    for name, version in (item for reading in standing.readings for item in reading.runtimes):
        found.setdefault(name, set()).add(version)
    return found


def is_same(new: Standing, old: Standing) -> bool:
    """Return whether files and runtime are the same, so that time and memory cannot have changed."""
    return new.variant_sha256 == old.variant_sha256 and not runtimes_apart(new, old)


def comparable(new: Standing, old: Standing, metric: str, kind: Kind | None) -> list[tuple[Reading, Reading]]:
    """Return the new and old readings that can be held against each other.

    Time and memory are each by its own release's runtime, and at one prompt length; all are on one basis.

    Args:
        new: The variant to be released.
        old: That of the previous release.
        metric: The name of the number.
        kind: Its kind.
    """
    after = [item for item in readings_of(new, metric, kind) if _is_own(item, new)]
    before = [item for item in readings_of(old, metric, kind) if _is_own(item, old)]
    return [(now, then) for then in before for now in after if (now.key, now.basis) == (then.key, then.basis)]


def unmatched(old: Standing, metric: str, kind: Kind | None, pairs: Sequence[tuple[Reading, Reading]]) -> list[Reading]:
    """Return the old readings at prompt lengths, or on data, that no pair has; one of each.

    Where several machines measured the previous release, one of them is enough. What another runtime than the
    release's measured counts only where its own measured nothing.

    Args:
        old: The variant of the previous release.
        metric: The name of the number.
        kind: Its kind.
        pairs: What `comparable` returns of it.
    """
    before = readings_of(old, metric, kind)
    matched = {_place(then) for _, then in pairs}
    found = {_place(item): item for item in [item for item in before if _is_own(item, old)] or before}
    return [item for place, item in found.items() if place not in matched]


def _place(reading: Reading) -> tuple[str, str]:
    """The prompt length of a time or memory, the data of other numbers."""
    return reading.number.where, "" if _is_of_machine(reading) else reading.basis


def _is_of_machine(reading: Reading) -> bool:
    """Whether it is a time or memory."""
    return reading.number.metric in _OF_MACHINE


def _is_own(reading: Reading, standing: Standing) -> bool:
    """Whether a time or memory was measured by the runtime of its release; other numbers are not of a runtime."""
    return not _is_of_machine(reading) or runs_by(reading.runtimes, standing.runtime)


def readings_of(standing: Standing, metric: str, kind: Kind | None) -> list[Reading]:
    """Return the readings of one number and kind."""
    return [item for item in standing.readings if (item.number.metric, item.number.kind) == (metric, kind)]
