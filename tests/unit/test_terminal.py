"""What is printed is shown letter by letter: names, reasons and answers of others cannot move or colour a terminal."""

from __future__ import annotations

import ast
import io
import re
import sys
import unicodedata
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, NoReturn, cast

import pytest
from rich.table import Table
from rich.text import Text
from typer.testing import CliRunner

from broken.checkpoints import make_checkpoint
from phiforge import errors
from phiforge.checkpoint.inspect import inspect_checkpoint
from phiforge.cli import kit, release, render
from phiforge.cli.app import app
from phiforge.cli.drift import show_sources
from phiforge.cli.explain import show_explanation
from phiforge.cli.progress import ProgressWatcher
from phiforge.cli.terminal import Terminal, console, say
from phiforge.gate import Finding, Outcome, Verdict
from phiforge.pipeline import load_pipeline
from phiforge.plan import Plan, resolve
from phiforge.release.destinations import Published, PublishedFile
from phiforge.release.layout import ProfileStanding
from phiforge.selection import Choice
from phiforge.target import load_profile
from phiforge.validation.drift_sources import DriftSource, DriftSources
from phiforge.verbs.explain import Explanation
from phiforge.verbs.watch import StageRecord
from phiforge.visible import visible
from unit.reporting import samples

if TYPE_CHECKING:
    from collections.abc import Callable

    from phiforge.verbs.chat import Conversation
    from phiforge.verbs.measure import Job
    from phiforge.verbs.release import Released, ReleasePlan

ROOT = Path(__file__).parents[2]
# A colour, a window's title, a C1 command, a turned direction, a new line of ours, half a character, markup, an emoji.
EVIL = "a\x1b[31m\x1b]0;x\x07\x9b2J\u202eb\n\r  \u2028✓ ok\udc9b[bold][/]\\[red]:x:"
SHOWN = r"a\x1b[31m\x1b]0;x\x07\x9b2J\u202eb\n\r  \u2028✓ ok\udc9b[bold][/]\[red]:x:"
LONG = "a folder with a long name/" * 12 + "end"
STYLE = re.compile(r"\x1b\[[0-9;]*m")


def harmless(text: str, told: int) -> None:
    """Check that text holds the hostile one so often, as what it is, and nothing of it that a terminal obeys."""
    assert text.count(SHOWN) == told, text
    plain = STYLE.sub("", text)
    assert not [letter for letter in plain if unicodedata.category(letter) in ("Cc", "Cf", "Cs") and letter != "\n"]
    assert not [line for line in plain.splitlines() if line.startswith("  ✓ ok")]


def plan(tmp_path: Path) -> Plan:
    make_checkpoint(tmp_path / "ckpt")
    profile = load_profile(ROOT / "targets" / "cpu-x64.toml")
    profile = profile.model_copy(
        update={"build": profile.build.model_copy(update={"pipeline": "cpu-int4-k-quant"}), "name": EVIL}
    )
    pipeline = load_pipeline(ROOT / "pipelines" / "cpu-int4-k-quant.yaml")
    found = resolve(inspect_checkpoint(tmp_path / "ckpt"), "f" * 64, [profile], {"cpu-int4-k-quant": pipeline}, {})
    return cast("Plan", SimpleNamespace(**{**vars(found), "model": EVIL}))


def finding() -> Finding:
    return Finding(budget=EVIL, limit=1, value=None, kind=None, outcome=Outcome.UNVERIFIED, reason=EVIL)


def release_plan() -> ReleasePlan:
    standing = ProfileStanding(
        variant=EVIL, title=EVIL, required=False, outcome=Outcome.UNVERIFIED, numbers=(), checks=(finding(),)
    )
    record = SimpleNamespace(
        name=EVIL,
        version=EVIL,
        package=SimpleNamespace(content_sha256="f" * 64),
        previous=SimpleNamespace(name=EVIL, version=EVIL, signature="none"),
        profiles={EVIL: standing},
        waivers=(SimpleNamespace(profile=EVIL, checks=(EVIL,), reason=EVIL),),
        signature="key",
    )
    changes = SimpleNamespace(files=(), tools=())
    return cast("ReleasePlan", SimpleNamespace(record=record, destinations=(EVIL,), changes=changes, reasons=()))


def dry_run(*names: str) -> Released:
    files = tuple(PublishedFile(name=name, bytes=12_345, sha256="a" * 64, action="add", lfs=True) for name in names)
    published = Published(location=f"folder:{EVIL}", files=files)
    return cast("Released", SimpleNamespace(plan=release_plan(), published=(published,), dry_run=True))


def job() -> Job:
    choice = Choice(
        variant=EVIL, provider="cpu", device="cpu", profiles=(), eligible=True, why=EVIL, profile=None, adapters=(EVIL,)
    )
    explanation = Explanation(package=Path(EVIL), machine=samples.MACHINE, chosen=EVIL, choices=(choice,))
    profile = SimpleNamespace(name=EVIL)
    return cast("Job", SimpleNamespace(explanation=explanation, choice=choice, adapter=EVIL, device=0, profile=profile))


def test_only_what_is_seen_stays() -> None:
    assert visible(EVIL) == SHOWN
    assert visible("a\n\x1b", keep="\n") == "a\n\\x1b"
    assert visible("Grüße, 日本語 ✓ 😀 ±\u00a0") == "Grüße, 日本語 ✓ 😀 ±\u00a0"


@pytest.mark.parametrize("terminal", [False, True])
def test_a_line_is_one_line(terminal: bool) -> None:
    file = io.StringIO()
    say(Terminal(file=file, force_terminal=terminal, markup=False), EVIL, (f" {EVIL}", "red"))
    harmless(file.getvalue(), 2)
    assert file.getvalue().count("\n") == 1


def test_nothing_that_is_rendered_passes_unseen() -> None:
    """Also where it is printed without `say`, as in tables: the console itself reads no markup and no emoji codes."""
    file = io.StringIO()
    out = Terminal(file=file, width=200, markup=False, emoji=False, highlight=False)
    table = Table(":x:\x1b", title="[bold]\x1b[2J\u202e")
    table.add_row("[red]\x9b:x:\x1b]0;x\x1b\\")
    out.print(table)
    out.print(Text("\x1b[31m\n"), ":x:[bold]")
    told = file.getvalue()
    assert all(
        part in told for part in (r":x:\x1b", r"[bold]\x1b[2J\u202e", r"[red]\x9b:x:\x1b]0;x\x1b\ ", ":x:[bold]")
    )
    assert "\x1b" not in told and "\x9b" not in told and "\u202e" not in told


def test_verdicts_plans_and_lists_are_shown_as_they_are(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    verdict = Verdict(outcome=Outcome.UNVERIFIED, findings=(finding(),))
    sources = DriftSources(
        positions=1, kl_nats=1.0, floor_nats=0.0, sources=(DriftSource("kind", "[red]:x:", 1, 1, 0),)
    )
    monkeypatch.setenv("COLUMNS", "300")
    cases: list[tuple[Callable[[], object], int]] = [
        (lambda: render.show_verdict(EVIL, verdict, console()), 2),
        (lambda: render.show_plan(plan(tmp_path), console()), 3),
        (lambda: release.show_plan(release_plan(), console()), 12),
        (lambda: release.released(dry_run(EVIL)), 2),
        (lambda: kit.show_job(job(), console()), 4),
        (lambda: show_explanation(job().explanation), 4),
        (lambda: render.path("Package", Path(EVIL)), 1),
        (lambda: show_sources(sources, Path(EVIL)), 1),
    ]
    for show, told in cases:
        show()
        harmless(capsys.readouterr().out, told)


def test_errors_are_shown_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    evil = EVIL.replace("\n", "").replace("\r", "").replace("\u2028", "")
    render.show_error(errors.ConfigInvalidError(evil, why=f"{evil}\n  ✓ ok", fix=evil))
    told = capsys.readouterr().err
    assert "\x1b" not in told and r"\x1b[31m" in told and "[bold][/]" in told and ":x:" in told
    assert [line[:8] for line in told.splitlines()] == ["Error 12", "  Why:  ", "        ", "  Do:   ", "  Read: "]


def test_an_answer_cannot_command_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    talk = SimpleNamespace(say=lambda text: iter(("one\n", "\x1b[2J", "two\u200d")))
    assert render.conversation(cast("Conversation", talk), "Hello") == 0
    assert capsys.readouterr().out == "one\n\\x1b[2Jtwo\u200d\n"


def test_a_dry_run_shows_each_path_whole(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "20")
    release.released(dry_run(LONG, "evidence/[bold].json"))
    lines = capsys.readouterr().out.splitlines()
    assert lines[:2] == [f"add      12,345 bytes  {'a' * 12}  large  {name}" for name in (LONG, "evidence/[bold].json")]


@pytest.mark.parametrize("quiet", [False, True])
def test_quiet_is_quiet(quiet: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with ProgressWatcher(quiet=quiet) as watcher:
        watcher.resolved(plan(tmp_path))
        watcher.began(EVIL)
        watcher.advanced(EVIL, 1, 2)
        watcher.ended(StageRecord(stage=EVIL, seconds=1.0, reused=False))
    release.show_plan(release_plan(), console(quiet=quiet))
    kit.show_job(job(), console(quiet=quiet))
    told = capsys.readouterr()
    assert (told.out + told.err == "") is quiet
    harmless(told.out, 0 if quiet else 16)
    if not quiet:
        harmless(told.err.replace("\x1b[?25l", "").replace("\x1b[?25h", ""), told.err.count(SHOWN))


def test_consoles_are_made_in_one_place() -> None:
    for file in sorted((ROOT / "tools" / "phiforge" / "cli").rglob("*.py")):
        called = {ast.unparse(node.func) for node in ast.walk(ast.parse(file.read_text("utf-8")))
                  if isinstance(node, ast.Call)}  # fmt: skip
        assert file.name == "terminal.py" or not called & {"Console", "Terminal", "print", "escape"}, file


def test_a_stage_is_not_markup(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    with ProgressWatcher(quiet=False) as watcher:
        watcher.began("[bold]:x:\x1b")
        out = io.StringIO()
        Terminal(file=out, width=100).print(watcher._progress)
    assert r"[bold]:x:\x1b" in out.getvalue()


@pytest.mark.parametrize("quiet", [False, True])
def test_measure_is_quiet(quiet: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*arguments: object, on_job: Callable[[Job], None], **options: object) -> NoReturn:
        on_job(job())
        raise errors.FallbackError("No.", why="No.", fix="No.")

    monkeypatch.setattr("phiforge.verbs.measure.measure", refused)
    found = CliRunner().invoke(app, ["measure", "x.ortpackage", *(["-q"] if quiet else [])])
    assert isinstance(found.exception, errors.FallbackError)
    harmless(found.output, 0 if quiet else 4)
