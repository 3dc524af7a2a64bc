"""What changed since the previous release: numbers, files, tools."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from phiforge.deciding import deciding
from phiforge.evidence import Kind
from phiforge.gate import Outcome
from phiforge.packaging.layout import SUMS, VARYING_FOLDERS
from phiforge.quantities import Unit, quantity
from phiforge.release.layout import Entry, Previous
from phiforge.release.prose import literal, table
from phiforge.release.regressions import GUARDS, PREFIX, TIMES, changed
from phiforge.release.standings import comparable

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from phiforge.gate import Finding
    from phiforge.release.layout import ReleaseRecord
    from phiforge.release.numbers import Reading
    from phiforge.release.standings import Standing

NOTHING = "—"


class NumberChange(Entry):
    """One number before and after, None where it was not known; the outcome is that of its check, if it has one."""

    profile: str
    metric: str
    title: str
    unit: Unit
    kind: Kind | None
    where: str
    before: float | None
    after: float | None
    outcome: Outcome | None


class FileChange(Entry):
    """One file of the package that is new, gone or other."""

    path: str
    change: Literal["added", "removed", "changed"]


class ToolChange(Entry):
    """A tool that a variant was made with in another version; None where it was not used."""

    variant: str
    tool: str
    before: str | None
    after: str | None


class Changes(Entry):
    """changes.json; without a previous release all lists are empty."""

    schema_version: Literal["1.0"] = "1.0"
    name: str
    version: str
    previous: Previous | None
    profiles_added: tuple[str, ...]
    profiles_removed: tuple[str, ...]
    numbers: tuple[NumberChange, ...]
    files: tuple[FileChange, ...]
    tools: tuple[ToolChange, ...]


@dataclass(frozen=True, kw_only=True)
class Side:
    """One of two releases: where each profile stands, the package's sums, the tools of each variant."""

    standings: Mapping[str, Standing]
    sums: Mapping[str, str]
    toolchain: Mapping[str, Mapping[str, str]]


def find_differences(release: ReleaseRecord, new: Side, old: Side | None) -> Changes:
    """Return the difference of two releases; evidence and reports, which differ each time, are not listed as files."""
    numbers, files, tools = ((), (), ()) if old is None else _differences(release, new, old)
    before = set(old.standings) if old else set(new.standings)
    return Changes(
        name=release.name,
        version=release.version,
        previous=release.previous,
        profiles_added=tuple(sorted(set(new.standings) - before)),
        profiles_removed=tuple(sorted(before - set(new.standings))),
        numbers=numbers,
        files=files,
        tools=tools,
    )


def _differences(
    release: ReleaseRecord, new: Side, old: Side
) -> tuple[tuple[NumberChange, ...], tuple[FileChange, ...], tuple[ToolChange, ...]]:
    numbers = tuple(
        change
        for profile in new.standings
        if profile in old.standings
        for change in _numbers(release, profile, new.standings[profile], old.standings[profile])
    )
    return numbers, _files(new.sums, old.sums), _tools(new.toolchain, old.toolchain)


def _numbers(release: ReleaseRecord, profile: str, new: Standing, old: Standing) -> list[NumberChange]:
    checks = release.profiles[profile].checks
    found = []
    for key in dict.fromkeys(item.key for item in (*new.readings, *old.readings)):
        after, before = _both(key, new, old, checks)
        known = after or before
        assert known is not None
        number = known.number
        check = _check(checks, number.metric, number.kind)
        found.append(
            NumberChange(
                profile=profile,
                metric=number.metric,
                title=number.title,
                unit=number.unit,
                kind=number.kind,
                where=number.where,
                before=before.number.value if before else None,
                after=after.number.value if after else None,
                outcome=check.outcome if check else None,
            )
        )
    return found


def _both(
    key: tuple[str, str, str], new: Standing, old: Standing, checks: Sequence[Finding]
) -> tuple[Reading | None, Reading | None]:
    """The two that the check held against each other; where it held none, of each side what decided, else the worst."""
    after, before = ([item for item in side.readings if item.key == key] for side in (new, old))
    kind = (after or before)[0].number.kind
    pairs = [pair for pair in comparable(new, old, key[0], kind) if pair[0].key == key]
    if pairs and (key[0] in GUARDS or key[0] in TIMES):
        return _decisive(pairs, key[0], _check(checks, key[0], kind))
    if pairs:
        return deciding(key[0], pairs, lambda pair: (kind, pair[0].number.value), checks)
    return _counting(key[0], after, checks), _counting(key[0], before, ())


def _decisive(pairs: Sequence[tuple[Reading, Reading]], metric: str, check: Finding | None) -> tuple[Reading, Reading]:
    """The pair whose change the check tells, else the one that got worst."""
    changes = [changed(metric, now, then) for now, then in pairs]
    if check is not None and check.value in changes:
        return pairs[changes.index(check.value)]
    worst = [math.inf if math.isnan(change) else change for change in changes]
    return pairs[worst.index(max(worst))]


def _check(checks: Sequence[Finding], metric: str, kind: Kind | None) -> Finding | None:
    return next((item for item in checks if (item.budget, item.kind) == (f"{PREFIX}{metric}", kind)), None)


def _counting(metric: str, items: Sequence[Reading], checks: Sequence[Finding]) -> Reading | None:
    return deciding(metric, items, lambda item: (item.number.kind, item.number.value), checks) if items else None


def _files(new: Mapping[str, str], old: Mapping[str, str]) -> tuple[FileChange, ...]:
    paths = [
        path
        for path in sorted(new.keys() | old.keys())
        if path != SUMS and path.split("/")[0] not in VARYING_FOLDERS and new.get(path) != old.get(path)
    ]
    return tuple(
        FileChange(path=path, change="added" if path not in old else "removed" if path not in new else "changed")
        for path in paths
    )


def _tools(new: Mapping[str, Mapping[str, str]], old: Mapping[str, Mapping[str, str]]) -> tuple[ToolChange, ...]:
    return tuple(
        ToolChange(variant=variant, tool=tool, before=old[variant].get(tool), after=new[variant].get(tool))
        for variant in sorted(new.keys() & old.keys())
        for tool in sorted(new[variant].keys() | old[variant].keys())
        if new[variant].get(tool) != old[variant].get(tool)
    )


def changes_markdown(changes: Changes) -> str:
    """Return CHANGES.md."""
    head = f"# Changes of {literal(changes.name)} {literal(changes.version)}\n\n"
    if changes.previous is None:
        return f"{head}This is the first release: there is nothing before it.\n"
    before = changes.previous
    parts = [
        f"{head}Held against {literal(before.name)} {literal(before.version)}, content {before.content_sha256[:12]}.\n"
    ]
    for what, names in (("New", changes.profiles_added), ("No longer there", changes.profiles_removed)):
        parts += [f"{what}: {', '.join(map(literal, names))}.\n"] if names else []
    for profile in dict.fromkeys(item.profile for item in changes.numbers):
        rows = [_number_row(item) for item in changes.numbers if item.profile == profile]
        parts.append(f"## {literal(profile)}\n\n" + table(["number", "kind", "before", "now", "check"], rows))
    tools = [[item.variant, item.tool, item.before or NOTHING, item.after or NOTHING] for item in changes.tools]
    parts.append("## Tools\n\n" + (table(["variant", "tool", "before", "now"], tools) if tools else "The same.\n"))
    files = [[item.change, item.path] for item in changes.files]
    parts.append("## Files of the package\n\n" + (table(["change", "file"], files) if files else "The same.\n"))
    return "\n".join(parts)


def _number_row(item: NumberChange) -> list[str]:
    values = [NOTHING if value is None else quantity(value, item.unit) for value in (item.before, item.after)]
    return [f"{item.title}{item.where}", item.kind or "fact", *values, item.outcome or NOTHING]
