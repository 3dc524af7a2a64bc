"""Render what is released and verified, and choose the exit code."""

from __future__ import annotations

from typing import TYPE_CHECKING

from phiforge.cli.render import COLOURS, MARKS, OK, size
from phiforge.cli.terminal import console, say

if TYPE_CHECKING:
    from rich.console import Console

    from phiforge.release.destinations import Published
    from phiforge.release.layout import ProfileStanding
    from phiforge.verbs.release import Released, ReleasePlan
    from phiforge.verbs.verify import Verified

UNVERIFIED = 4


def show_plan(plan: ReleasePlan, out: Console) -> None:
    """Print what would be released, where, every finding and every waiver."""
    record = plan.record
    say(out, (f"{record.name} {record.version}", "bold"), f", content {record.package.content_sha256[:12]}")
    before = record.previous
    held = f"{before.name} {before.version}, signature {before.signature}" if before else "nothing: the first release"
    say(out, f"Held against {held}")
    for destination in plan.destinations:
        say(out, f"To {destination}")
    for name, item in record.profiles.items():
        _show_profile(name, item, out)
    for waiver in record.waivers:
        what = f"{waiver.profile}: {', '.join(waiver.checks)}. {waiver.reason}"
        say(out, ("Waived", "yellow"), f" for {what}")
    changes = plan.changes
    if before:
        say(out, f"Changed: {len(changes.files)} files of the package, {len(changes.tools)} versions of tools")


def _show_profile(name: str, item: ProfileStanding, out: Console) -> None:
    optional = "" if item.required else " (not required)"
    style = f"bold {COLOURS[item.outcome]}"
    say(out, (f"{name}: {item.outcome}", style), f"{optional}, variant {item.variant}")
    for check in item.checks:
        say(out, "  ", (MARKS[check.outcome], COLOURS[check.outcome]), f" {check.budget}: {check.reason}")


def released(found: Released) -> int:
    """Print what was published, or would be."""
    out = console()
    for published in found.published:
        if found.dry_run:
            _show_files(published, out)
        count = sum(file.action != "remove" for file in published.files)
        done = "Dry run, nothing was written. Would publish" if found.dry_run else "Published"
        total = size(sum(file.bytes for file in published.files))
        say(out, f"{done}: {count} files, {total}, {published.location}")
        if not published.asked:
            say(out, "What is there was not asked: the real run finds out whether this may take its place.")
    if found.plan.record.signature == "none":
        say(out, "It is not signed: whoever gets it can check that it is whole, and not who made it.")
    return OK


def _show_files(published: Published, out: Console) -> None:
    """Print each file on a line of its own, whole; a table would cut long paths to the width of the terminal."""
    width = max((len(f"{file.bytes:,}") for file in published.files), default=0)
    for file in published.files:
        large = "large  " if file.lfs else ""
        say(out, f"{file.action:<7}  {file.bytes:>{width},} bytes  {file.sha256[:12]:<12}  {large}{file.name}")


def verified(found: Verified, *, unsigned: bool = False) -> int:
    """Print that a package or release is as it was sealed; unverified if nobody vouches for who made the release.

    Args:
        found: What was verified.
        unsigned: Whether it may be unsigned.
    """
    out = console()
    record = found.release
    what = f"{record.name} {record.version} in {found.path}" if record else str(found.path)
    say(out, f"{what} is as it was sealed: {found.files} files, seal {found.seal_sha256}")
    if found.signature == "verified":
        say(out, "Its signature is the expected one.")
    elif found.signature == "not checked":
        say(
            out,
            ("Its signature was not checked:", "yellow"),
            " it is of these files, and whose it is nobody asked. Give --key, or --identity and --identity-provider.",
        )
        return UNVERIFIED
    elif record is not None:
        hint = "" if unsigned else " Give --unsigned if that will do."
        say(out, ("It is not signed:", "yellow"), f" it is whole, and who made it cannot be told.{hint}")
        return OK if unsigned else UNVERIFIED
    return OK
