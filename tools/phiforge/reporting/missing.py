"""What a report does not know, and the command that would find it out."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from phiforge.evidence import Comparison, Drift, FreeRunning, Kind, Latency, Prediction, Probes, Record, Refusals, Tasks
from phiforge.gate import RULES, Lack
from phiforge.providers import measuring_verb

if TYPE_CHECKING:
    from collections.abc import Iterator

    from phiforge.reporting.schema import Entry

_Sort = TypeVar("_Sort", bound=Record)
_ACCEPTED: dict[type[Drift] | type[Tasks] | type[Probes], str] = {
    Drift: "Drift",
    Tasks: "Answers to tasks",
    Probes: "Probes",
}


@dataclass(frozen=True)
class Missing:
    """Something that is not known: `command` supplies it where `where` says; "" where no command does."""

    what: str
    where: str
    command: str


def measuring_command(package: str, profile: str, provider: str) -> str:
    """Return the command that measures a package on a device.

    Args:
        package: Path of the package.
        profile: Name of the device profile.
        provider: Its provider, by the name in genai_config, which decides on the verb.
    """
    return f"phiforge {measuring_verb(provider)} {shlex.quote(package)} --target {shlex.quote(profile)}"


def missing(entry: Entry) -> tuple[Missing, ...]:
    """What an entry of a report lacks, the most wanted first."""
    found = (*_time(entry), *_quality(entry), *_unverified(entry), *_more(entry))
    return tuple(dict.fromkeys(found))


def _time(entry: Entry) -> Iterator[Missing]:
    device = f"on a machine of the profile ({entry.report.profile.title})"
    measured = [record for record in _of(entry, Latency) if record.kind is Kind.MEASURED]
    if not measured:
        yield Missing("Measured latency and memory", device, _measuring(entry))
        return
    if not any(record.by_position for record in measured):
        yield Missing(
            "Decode time by context position", device, _command("bench", entry, target=True, also="--thorough")
        )
    if not any(record.contention or record.idle for record in measured):
        what = "Latency after idle and while other processes use the machine"
        yield Missing(what, device, _command("bench", entry, target=True, also="--thorough"))
    if not any(record.energy for record in measured):
        yield Missing("Energy per token", "on a machine whose counters (RAPL, battery) can be read", "")


def _quality(entry: Entry) -> Iterator[Missing]:
    accepts = entry.report.profile.accepts
    where = "with the checkpoint, or with the reference in the package"
    device = f"on a machine of the profile ({entry.report.profile.title})"
    for sort, what in _ACCEPTED.items():
        kinds = {record.kind for record in entry.report.evidence if isinstance(record, sort)}
        if kinds & set(accepts):
            continue
        told = f"{what} of a kind that this profile accepts ({' or '.join(accepts)})" if kinds else what
        if kinds and set(accepts) == {Kind.MEASURED}:
            able = measuring_verb(entry.report.profile.provider) == "measure"
            yield Missing(told, device, _measuring(entry) if able else "")
        else:
            yield Missing(told, where, _command("validate", entry))
    if not _of(entry, FreeRunning):
        yield Missing("Free-running generations", where, _command("validate", entry))
    if not _of(entry, Refusals):
        yield Missing("Refusals", where, _command("validate", entry))


def _unverified(entry: Entry) -> Iterator[Missing]:
    """What is within its limit as far as it is known; the verdict's reasons say which lengths or how many samples.

    Drift, answers and times of a kind that is not accepted are told above.
    """
    accepts = entry.report.profile.accepts
    device = f"on a machine of the profile ({entry.report.profile.title})"
    for finding in entry.report.verdict.findings:
        if finding.lacking is None or finding.budget not in RULES:
            continue
        rule = RULES[finding.budget]
        command = _command("bench", entry, target=True) if rule.measured_only else _command("validate", entry)
        if finding.lacking is Lack.PROMPT_LENGTHS:
            yield Missing(f"{rule.title} at every prompt length", device, command)
        elif finding.lacking is Lack.SAMPLES:
            yield Missing(f"{rule.title} with enough certainty", "with more samples", command)
        elif rule.needs == "agreement":
            what = f"{rule.title} of a kind that this profile accepts ({' or '.join(accepts)})"
            yield Missing(what, device, command)


def _more(entry: Entry) -> Iterator[Missing]:
    if not _of(entry, Prediction):
        yield Missing("A prediction of time and memory", "anywhere", _command("predict", entry))
    if not _of(entry, Comparison):
        device = f"on a machine of the profile ({entry.report.profile.title})"
        command = _command("compare", entry, also="--against PREVIOUS")
        yield Missing("Time against an earlier release, if there is one", device, command)


def _of(entry: Entry, sort: type[_Sort]) -> list[_Sort]:
    return [record for record in entry.report.evidence if isinstance(record, sort)]


def _measuring(entry: Entry) -> str:
    profile = entry.report.profile
    return measuring_command(entry.path or entry.package, profile.name, profile.provider)


def _command(verb: str, entry: Entry, *, target: bool = False, also: str = "") -> str:
    words = ["phiforge", verb, shlex.quote(entry.path or entry.package)]
    words += ["--target", shlex.quote(entry.report.profile.name)] if target else []
    return " ".join([*words, also]).rstrip()
