"""The command line: arguments in, verbs called, results rendered. The one place that prints and exits."""

from __future__ import annotations

import io
import signal
import sys
from typing import TYPE_CHECKING, NoReturn, TextIO

from phiforge import errors
from phiforge.cli.app import app
from phiforge.cli.render import show_error

if TYPE_CHECKING:
    from types import FrameType

INTERRUPTED = 130


def main() -> NoReturn:
    """Run the command line with this process's arguments and exit with the code that docs/errors.md lists."""
    speak_utf8(sys.stdout, sys.stderr)
    # A terminated build tidies up like an interrupted one.
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        app()
    except errors.PhiforgeError as error:
        show_error(error)
        sys.exit(error.exit_code)
    except SystemExit as exit_:
        if exit_.code == INTERRUPTED:
            sys.stderr.write("Interrupted; nothing half-made is under a final name. The same command goes on.\n")
        raise
    raise AssertionError("typer ends every command by SystemExit")


def speak_utf8(*streams: TextIO) -> None:
    """Make streams write UTF-8: on Windows a redirected one has the system's code page, without ✓ or most languages.

    What even UTF-8 cannot write, half a character of a model's answer, becomes a question mark.
    """
    for stream in streams:
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(encoding="utf-8", errors="replace")


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt
