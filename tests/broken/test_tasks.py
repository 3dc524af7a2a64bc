"""Code that a model wrote is locked in: what hostile programs try, and what comes of it."""

from __future__ import annotations

import contextlib
import os
import socket
import sys
import sysconfig
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from phiforge import errors
from phiforge.validation.suites import is_right, sandbox
from phiforge.validation.suites.rows import dump_check
from phiforge.validation.suites.sandbox import Limits, Outcome, run

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the locks are Linux's")

SHORT = Limits(cpu_s=1, wall_s=1)
# Each ends by one limit alone, however busy or fast the machine is.
WAITS, COMPUTES = Limits(cpu_s=30, wall_s=1), Limits(cpu_s=1, wall_s=120)
SECRET = "the secret"
# Every attempt has to raise; one that does not ends with another error than those that the locks make.
MUST_RAISE = """
import ctypes, errno, os, socket, sys
libc = ctypes.CDLL(None, use_errno=True)
def refused(*numbers):
    for number in numbers:
        if libc.syscall(number, 0, 0, 0, 0, 0, 0) != -1 or ctypes.get_errno() not in (errno.EPERM, errno.ENOSYS):
            raise ZeroDivisionError(number)
try:
    {attempt}
except (OSError, RuntimeError, ValueError):
    pass
else:
    raise ZeroDivisionError
"""


@pytest.fixture
def server() -> Iterator[tuple[int, list[object]]]:
    """A server on the machine's loopback: its port, and whoever connected."""
    seen: list[object] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(0.1)
        done = threading.Event()

        def accept() -> None:
            while not done.is_set():
                try:
                    connection, address = listener.accept()
                except TimeoutError:
                    continue
                connection.close()
                seen.append(address)

        thread = threading.Thread(target=accept)
        thread.start()
        yield listener.getsockname()[1], seen
        done.set()
        thread.join()


def attempt(code: str, limits: Limits | None = None) -> Outcome:
    return run(MUST_RAISE.format(attempt=code), limits)


def _jails() -> list[int]:
    """The processes that a program left behind; one that it started would have its command line."""
    left = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if str(sandbox._JAIL) in process.cmdline() and process.status() != psutil.STATUS_ZOMBIE:
                left.append(process.pid)
    return left


def test_a_good_program_passes() -> None:
    program = "import collections, hashlib, heapq, math, re, typing\nassert math.ceil(0.5) == 1\n"
    assert run(program) == Outcome("passed")


@pytest.mark.parametrize(
    ("program", "outcome"),
    [
        ("assert False", Outcome("failed", "AssertionError")),
        ("1 +", Outcome("failed", "SyntaxError")),
        ("raise SystemExit(0)", Outcome("failed", "SystemExit")),
        ("import os\nos._exit(0)", Outcome("stopped", "limit")),
        ("import sys\nassert sys.stdin.read() == ''", Outcome("passed")),
        ("import numpy", Outcome("failed", "ModuleNotFoundError")),
        ("import phiforge", Outcome("failed", "ModuleNotFoundError")),
        ("import os\nassert set(os.environ) <= {'LC_CTYPE'}", Outcome("passed")),
        ("import os\nassert os.listdir('.') == []\nopen('x', 'w').write('y')", Outcome("passed")),
        ("'\udfff'", Outcome("failed", "UnicodeEncodeError")),
        ("print('x' * 10**6)", Outcome("passed")),
        ("import atexit\natexit.register(lambda: 1 / 0)", Outcome("passed")),
        ("import ctypes\nctypes.string_at(0)", Outcome("stopped", "limit")),
    ],
)
def test_how_programs_end(program: str, outcome: Outcome) -> None:
    assert run(program) == outcome


def test_only_libraries_and_an_empty_folder_are_there() -> None:
    program = f"""
import os
seen = [os.path.join(folder, name) for folder, _, names in os.walk("/") for name in names]
libraries = ("/lib", "/usr/lib", {sysconfig.get_path("stdlib")!r}, {sysconfig.get_path("platstdlib")!r})
strange = [name for name in seen if not name.startswith(libraries)]
assert seen and not strange
"""
    assert run(program).passed


def test_a_file_of_the_user_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text(SECRET, encoding="utf-8")
    for way in (str(tmp_path / "secret"), f"../..{tmp_path}/secret", f"/proc/1/root{tmp_path}/secret"):
        assert attempt(f"open({way!r})").passed


def test_nothing_outside_can_be_written(tmp_path: Path) -> None:
    assert attempt(f"open({str(tmp_path / 'x')!r}, 'w')").passed
    assert attempt("open('/x', 'w')").passed
    assert attempt("open(os.__file__, 'a')").passed
    assert attempt("os.mkdir('/usr/lib/x')").passed
    assert not list(tmp_path.iterdir())


def test_files_inside_are_small_and_gone_afterwards() -> None:
    assert attempt("open('x', 'wb').write(bytes(2 << 20))", Limits(file_bytes=1 << 20)).passed
    assert attempt("[open(str(i), 'wb').write(bytes(1 << 20)) for i in range(64)]").passed
    assert attempt("[open(str(i), 'wb').close() for i in range(10**5)]").passed
    assert run("import os\nassert os.listdir('.') == []").passed


def test_the_machines_loopback_cannot_be_reached(server: tuple[int, list[object]]) -> None:
    port, seen = server
    assert attempt(f"socket.create_connection(('127.0.0.1', {port}), 1)").passed
    assert attempt("socket.socket(socket.AF_UNIX)").passed
    assert attempt("socket.socketpair()").passed
    socket.create_connection(("127.0.0.1", port)).close()  # The server does see what comes from outside the sandbox.
    until = time.monotonic() + 5
    while not seen and time.monotonic() < until:
        time.sleep(0.02)
    assert len(seen) == 1


@pytest.mark.parametrize(
    "code",
    [
        "os.fork()",
        "[os.fork() for _ in range(99)]",
        "os.posix_spawn('/bin/sh', ['sh'], {})",
        "os.execv(sys.executable or '/x', ['x'])",
        "__import__('subprocess').run(['ls'])",
        "__import__('threading').Thread(target=print).start()",
        "__import__('multiprocessing').Process(target=print).start()",
    ],
)
def test_no_process_and_no_thread_can_be_started(code: str) -> None:
    assert attempt(code).passed
    until = time.monotonic() + 30
    while (left := _jails()) and time.monotonic() < until:
        time.sleep(0.05)
    assert left == []


@pytest.mark.parametrize(
    "code",
    [
        "os.setsid()",
        "os.chroot('.')",
        "os.setuid(0)",
        "os.kill(os.getpid() + 1, 9)",
        "os.setgroups([0])",
        "__import__('resource').setrlimit(__import__('resource').RLIMIT_AS, (-1, -1))",
        "os.mknod('disk', 0o60600, os.makedev(8, 0))",
    ],
)
def test_privileges_cannot_be_gained(code: str) -> None:
    assert attempt(code).passed


def test_there_are_no_capabilities() -> None:
    program = """
import ctypes, struct
data = ctypes.create_string_buffer(24)
assert ctypes.CDLL(None).capget(struct.pack("=Ii", 0x20080522, 0), data) == 0
assert data.raw == bytes(24)
"""
    assert run(program).passed


def test_no_file_of_the_parent_is_open() -> None:
    program = """
import os
def is_open(number):
    try:
        os.fstat(number)
    except OSError:
        return False
    return True
assert sum(map(is_open, range(1024))) == 4, "the standard ones, and the one for the result"
"""
    assert run(program).passed
    assert attempt("os.write(1, b'x')").passed


def test_the_system_calls_that_undo_locks_are_refused() -> None:
    by_machine = {"x86_64": (101, 155, 165, 166, 272, 308, 317, 321, 425, 428), "aarch64": (117, 41, 40, 39, 97, 268)}
    numbers = by_machine[os.uname().machine]
    assert run(MUST_RAISE.format(attempt=f"refused(*{numbers}); raise OSError")).passed


@pytest.mark.parametrize(
    "code",
    ["import time\ntime.sleep(99)", "import signal\nsignal.pause()", "9 ** 9 ** 9 ** 9"],
)
def test_a_program_that_hangs_is_stopped(code: str) -> None:
    assert run(code, WAITS) == Outcome("stopped", "time")


def test_a_program_that_computes_without_end_is_stopped() -> None:
    assert run("while True: pass", COMPUTES) == Outcome("stopped", "limit")


def test_a_program_that_ignores_signals_is_stopped() -> None:
    ignore = " try: signal.signal(number, signal.SIG_IGN)\n except (OSError, ValueError): pass\n"
    code = f"import signal\nfor number in range(1, 65):\n{ignore}"
    assert run(code + "while True: pass", SHORT).status == "stopped"


@pytest.mark.parametrize("code", ["bytearray(8 << 30)", "x = []\nwhile True: x.append(bytes(1 << 24))"])
def test_memory_ends(code: str) -> None:
    assert run(code, Limits(memory_bytes=256 << 20)) == Outcome("failed", "MemoryError")


def test_a_program_cannot_claim_to_have_passed() -> None:
    claim = '{"status": "passed", "detail": "x"}'
    code = "import os\nfor fd in range(64):\n try: os.write(fd, {!r}.encode())\n except OSError: pass\n"
    assert not run(code.format(claim) + "os._exit(0)").passed
    assert not run(code.format(claim) + "assert False").passed


def test_a_flood_of_output_fills_nothing() -> None:
    code = "import os\nfor fd in range(64):\n try:\n  while True: os.write(fd, bytes(1 << 16))\n except OSError: pass\n"
    assert run(code, SHORT).status == "stopped"


def test_nothing_is_left_running() -> None:
    before = {process.pid for process in psutil.Process().children(recursive=True)}
    run("import time\ntime.sleep(99)", Limits(cpu_s=1, wall_s=1))
    assert {process.pid for process in psutil.Process().children(recursive=True)} <= before


@pytest.mark.parametrize(
    "step",
    [
        "enter_namespaces()",
        "build_root(root: Path)",
        "limit(job: dict[str, Any])",
        "give_up_privileges()",
        "filter_calls()",
    ],
)
def test_without_one_of_the_locks_nothing_is_run(step: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    head = f"def {step} -> None:\n"
    source = Path(sandbox.__file__).with_name("jail.py").read_text(encoding="utf-8")
    assert head in source
    broken = tmp_path / "jail.py"
    broken.write_text(source.replace(head, head + '    raise StepError("this lock: refused")\n'), encoding="utf-8")
    monkeypatch.setattr(sandbox, "_JAIL", broken)
    marker = tmp_path / "marker"
    with pytest.raises(errors.SandboxUnavailableError, match="locked in") as caught:
        run(f"open({str(marker)!r}, 'w')")
    assert "this lock: refused" in caught.value.why
    assert caught.value.exit_code == 54
    assert not marker.exists()


def test_where_there_are_no_such_locks_nothing_is_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "win32")
    sandbox.check_available.cache_clear()
    for attempt_ in (sandbox.check_available, lambda: run("pass")):
        with pytest.raises(errors.SandboxUnavailableError, match="locked in"):
            attempt_()


def test_this_machine_has_the_locks() -> None:
    sandbox.check_available()


@pytest.mark.parametrize(
    ("body", "right"), [("    return 1", True), ("    return 2", False), ("    while 1: 0", False)]
)
def test_an_answer_is_judged_in_the_sandbox(body: str, right: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox, "Limits", lambda: COMPUTES)
    check = dump_check(entry_point="one", prompt="def one():\n", test="def check(f):\n    assert f() == 1\n")
    assert is_right("humaneval", check, body + "<|end|>") is right
