"""What changed since the previous release: numbers, files, tools."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from phiforge.deciding import deciding
from phiforge.evidence import Kind
from phiforge.gate import Outcome
from phiforge.packaging.layout import SUMS, VARYING_FOLDERS
from phiforge.quantities import Unit, quantity
from phiforge.release.layout import Entry, Previous
from phiforge.release.prose import literal, table

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from phiforge.gate import Finding
    from phiforge.release.layout import Number, ReleaseRecord

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
    """One of two releases: the numbers of each profile, the package's sums, the tools of each variant."""

    numbers: Mapping[str, Sequence[Number]]
    sums: Mapping[str, str]
    toolchain: Mapping[str, Mapping[str, str]]


def find_differences(release: ReleaseRecord, new: Side, old: Side | None) -> Changes:
    """Return the difference of two releases; evidence and reports, which differ each time, are not listed as files."""
    numbers, files, tools = ((), (), ()) if old is None else _differences(release, new, old)
    before = set(old.numbers) if old else set(new.numbers)
    return Changes(
        name=release.name,
        version=release.version,
        previous=release.previous,
        profiles_added=tuple(sorted(set(new.numbers) - before)),
        profiles_removed=tuple(sorted(before - set(new.numbers))),
        numbers=numbers,
        files=files,
        tools=tools,
    )


def _differences(
    release: ReleaseRecord, new: Side, old: Side
) -> tuple[tuple[NumberChange, ...], tuple[FileChange, ...], tuple[ToolChange, ...]]:
    numbers = tuple(
        change
        for profile in new.numbers
        if profile in old.numbers
        for change in _numbers(release, profile, new.numbers[profile], old.numbers[profile])
    )
    return numbers, _files(new.sums, old.sums), _tools(new.toolchain, old.toolchain)


def _numbers(release: ReleaseRecord, profile: str, new: Sequence[Number], old: Sequence[Number]) -> list[NumberChange]:
    checks = release.profiles[profile].checks
    after, before = _by_key(new, checks), _by_key(old)
    outcomes = {(item.budget, item.kind): item.outcome for item in checks}
    found = []
    for key in dict.fromkeys([*after, *before]):
        known = after.get(key) or before[key]
        found.append(
            NumberChange(
                profile=profile,
                metric=known.metric,
                title=known.title,
                unit=known.unit,
                kind=known.kind,
                where=known.where,
                before=before[key].value if key in before else None,
                after=after[key].value if key in after else None,
                outcome=outcomes.get((f"regression:{known.metric}", known.kind)),
            )
        )
    return found


def _by_key(numbers: Sequence[Number], checks: Sequence[Finding] = ()) -> dict[tuple[str, str, str], Number]:
    """Of each number, kind and place the one that the gate decided by, else the worst."""
    found: dict[tuple[str, str, str], list[Number]] = {}
    for item in numbers:
        found.setdefault((item.metric, item.kind or "", item.where), []).append(item)
    return {key: deciding(key[0], items, lambda item: (item.kind, item.value), checks) for key, items in found.items()}


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
