"""Code that a model wrote, run in a process that is locked in: no network, no files but an empty folder, hard limits.

The locks are Linux's own and need no privileges (`jail.py` has them). A machine without one of them runs nothing. They
keep a mistaken or a hostile program from the machine. A program shares a process with its own tests, so it could lie
about them; that is not prevented.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import secrets
import signal
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from phiforge import errors

_JAIL = Path(__file__).with_name("jail.py")
_RESULT_BYTES = 64 * 1024  # What a pipe holds: a program that writes more only stops itself.


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What one program may use; `wall_s` is also the end of one that only waits."""

    cpu_s: int = 10
    wall_s: int = 30
    memory_bytes: int = 1 << 30
    file_bytes: int = 1 << 20


@dataclass(frozen=True)
class Outcome:
    """How a program ended; `detail` is the exception's name, or empty."""

    status: Literal["passed", "failed", "stopped"]
    detail: str = ""

    @property
    def passed(self) -> bool:
        """Whether it ran to its end."""
        return self.status == "passed"


def run(program: str, limits: Limits | None = None) -> Outcome:
    """Run a Python program that has the standard library only, and return how it ended.

    Args:
        program: Its text. It has passed if its end is reached.
        limits: What it may use.

    Raises:
        SandboxUnavailableError: This machine cannot lock it in; nothing was run.
    """
    _check_system()
    limits = limits or Limits()
    nonce = secrets.token_hex(16)
    with tempfile.TemporaryDirectory(prefix="phiforge-sandbox-") as root:
        job = json.dumps({"program": program, "nonce": nonce, "root": root, **asdict(limits)})
        said = _start(job.encode("utf-8", "replace"), limits.wall_s)
    if said is None:
        return Outcome("stopped", "time")
    if said.get("status") == "unavailable":
        raise _unavailable(f"The step that failed is {said.get('detail')}")
    if said.get("status") == "passed" and said.get("detail") == nonce:
        return Outcome("passed")
    return Outcome("failed", str(said["detail"])) if said.get("status") == "failed" else Outcome("stopped", "limit")


@functools.cache
def check_available() -> None:
    """Find out once whether programs can be locked in here.

    Raises:
        SandboxUnavailableError: They cannot.
    """
    outcome = run("pass\n")
    if not outcome.passed:
        raise _unavailable(f"An empty program ended as {outcome.status} {outcome.detail}".rstrip())


def _check_system() -> None:
    if sys.platform != "linux":
        raise _unavailable(f"The locks are Linux's, and this is {sys.platform}")


def _start(job: bytes, wall_s: int) -> dict[str, object] | None:
    """Return what the jail said, empty where it said nothing; None if its time ran out."""
    command = [os.path.realpath(sys.executable), "-I", "-S", "-B", str(_JAIL)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env={}, cwd="/"
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            _write(process.stdin.fileno(), job)
            process.stdin.close()
            process.wait(wall_s)
        except subprocess.TimeoutExpired:
            return None
        finally:
            _end(process)
        return _result(os.read(process.stdout.fileno(), _RESULT_BYTES))


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a jail that has not ended, and the program in it; before it leads its own group, there is no program."""
    if process.poll() is None:
        if sys.platform == "linux":
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
        process.kill()
        process.wait()


def _write(descriptor: int, content: bytes) -> None:
    view = memoryview(content)
    try:
        while view:
            view = view[os.write(descriptor, view) :]
    except BrokenPipeError:
        return  # It ended before it had read all; what it said tells why.


def _result(line: bytes) -> dict[str, object]:
    try:
        said = json.loads(line)
    except ValueError:
        return {}
    return said if isinstance(said, dict) else {}


def _unavailable(why: str) -> errors.SandboxUnavailableError:
    return errors.SandboxUnavailableError(
        "Code that a model wrote cannot be locked in on this machine, so it is not run.",
        why=f"{why}.",
        fix="Validate where Linux 5.12 or later lets a process make user namespaces, or without `--allow-code`.",
    )
