"""Render what is released and verified, and choose the exit code."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.markup import escape
from rich.table import Table

from phiforge.cli.render import COLOURS, MARKS, OK, console, size

if TYPE_CHECKING:
    from phiforge.release.destinations import Published
    from phiforge.release.layout import ProfileStanding
    from phiforge.verbs.release import Released, ReleasePlan
    from phiforge.verbs.verify import Verified

UNVERIFIED = 4


def show_plan(plan: ReleasePlan) -> None:
    """Print what would be released, where, every finding and every waiver."""
    out, record = console(), plan.record
    out.print(f"[bold]{escape(record.name)} {escape(record.version)}[/], content {record.package.content_sha256[:12]}")
    before = record.previous
    held = f"{before.name} {before.version}, signature {before.signature}" if before else "nothing: the first release"
    out.print(f"Held against {escape(held)}")
    for destination in plan.destinations:
        out.print(f"To {escape(destination)}")
    for name, item in record.profiles.items():
        _show_profile(name, item)
    for waiver in record.waivers:
        what = f"{waiver.profile}: {', '.join(waiver.checks)}. {waiver.reason}"
        out.print(f"[yellow]Waived[/] for {escape(what)}")
    changes = plan.changes
    if before:
        out.print(f"Changed: {len(changes.files)} files of the package, {len(changes.tools)} versions of tools")


def _show_profile(name: str, item: ProfileStanding) -> None:
    out = console()
    optional = "" if item.required else " (not required)"
    out.print(
        f"[bold {COLOURS[item.outcome]}]{escape(name)}: {item.outcome}[/]{optional}, variant {escape(item.variant)}"
    )
    for check in item.checks:
        out.print(
            f"  [{COLOURS[check.outcome]}]{MARKS[check.outcome]}[/] {escape(check.budget)}: {escape(check.reason)}"
        )


def released(found: Released) -> int:
    """Print what was published, or would be."""
    out = console()
    for published in found.published:
        if found.dry_run:
            _show_files(published)
        count = sum(file.action != "remove" for file in published.files)
        done = "Dry run, nothing was written. Would publish" if found.dry_run else "Published"
        out.print(f"{done}: {count} files, {size(sum(file.bytes for file in published.files))}, {published.location}")
    if found.plan.record.signature == "none":
        out.print("It is not signed: whoever gets it can check that it is whole, and not who made it.")
    return OK


def _show_files(published: Published) -> None:
    table = Table("action", "file", "bytes", "SHA-256", "large")
    for file in published.files:
        table.add_row(file.action, file.name, f"{file.bytes:,}", file.sha256[:12], "yes" if file.lfs else "")
    console().print(table)


def verified(found: Verified) -> int:
    """Print that a package or release is as it was sealed; unverified if nobody's signature was asked for."""
    out = console()
    record = found.release
    what = f"{record.name} {record.version} in {found.path}" if record else str(found.path)
    out.print(f"{escape(what)} is as it was sealed: {found.files} files, seal {found.seal_sha256}")
    if found.signature == "verified":
        out.print("Its signature is the expected one.")
    elif found.signature == "not checked":
        out.print(
            "[yellow]Its signature was not checked:[/] it is of these files, and whose it is nobody asked. Give --key, "
            "or --identity and --identity-provider."
        )
        return UNVERIFIED
    elif record is not None:
        out.print("It is not signed: it is whole, and nobody says that he made it.")
    return OK
