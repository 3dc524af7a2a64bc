"""phiforge runs on Windows too: no call that it lacks, no text in its own encoding or line ends.

Not looked at is what runs on a build machine only, which is Linux: olive/ (Olive and the builder), decoder/ (the
original in torch, layer by layer), checkpoint/nano/train.py (the embedded model's training); and what is Linux's by its
nature, validation/suites/jail.py, which sandbox.py starts there alone.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from contract.portable_rules import RULES, Module

ROOT = Path(__file__).parents[2] / "tools" / "phiforge"
BUILD_MACHINE_ONLY = ("olive/", "decoder/", "checkpoint/nano/train.py")
# What a rule finds and need not, with the reason. An entry that is no longer needed fails.
ALLOWED = {
    ("runtime/bench_worker.py", "newlines"): "an exchange file of one line, read once and never hashed",
    ("runtime/compile_worker.py", "system_files"): "the function is called on Linux alone",
}

LINUX_ONLY = ("validation/suites/jail.py",)

FILES = sorted(
    path.relative_to(ROOT).as_posix()
    for path in ROOT.rglob("*.py")
    if not path.relative_to(ROOT).as_posix().startswith((*BUILD_MACHINE_ONLY, *LINUX_ONLY))
)

# For each rule: code that it must find, and code that it must pass over.
SAMPLES: dict[str, tuple[list[str], list[str]]] = {
    "posix_modules": (
        ["import fcntl", "import resource as r", "from pwd import getpwuid", "def f():\n    import termios"],
        [
            "import msvcrt, os",
            "try:\n    import resource\nexcept ImportError:\n    resource = None",
            "if sys.platform != 'win32':\n    import fcntl",
            "from . import resource",
        ],
    ),
    "posix_os": (
        [
            "os.fork()",
            "owner = os.getuid()",
            "os.sched_getaffinity(0)",
            "os.kill(pid, 0)",
            "os.rename(a, b)",
            "from os import fork",
        ],
        [
            "os.replace(a, b)",
            "if hasattr(os, 'getuid'):\n    os.getuid()",
            "n = len(os.sched_getaffinity(0)) if sys.platform == 'linux' else 1",
            "try:\n    os.nice(5)\nexcept AttributeError:\n    pass",
        ],
    ),
    "links": (
        [
            "os.link(a, b)",
            "path.symlink_to(other)",
            "try:\n    os.link(a, b)\nexcept ValueError:\n    copy(a, b)",
            "try:\n    pass\nexcept OSError:\n    os.link(a, b)",
        ],
        [
            "try:\n    os.link(a, b)\nexcept OSError:\n    copy(a, b)",
            "with suppress(OSError):\n    path.hardlink_to(other)",
            "path.is_symlink()",
        ],
    ),
    "signals": (
        ["process.send_signal(signal.SIGKILL)", "send(pid, signal.SIGTERM)", "signal.alarm(5)"],
        ["signal.signal(signal.SIGTERM, stop)", "signal.SIGINT", "if sys.platform != 'win32':\n    signal.alarm(5)"],
    ),
    "system_files": (
        [
            "Path('/proc/cpuinfo').read_text(encoding='utf-8')",
            "open(f'/proc/{pid}/status', encoding='utf-8')",
            "(Path('/sys') / 'class').iterdir()",
            "folder = '/tmp/x'",
            "if os.name:\n    pass\nPath('/etc/os-release').exists()",
        ],
        [
            "try:\n    Path('/proc/cpuinfo').read_text(encoding='utf-8')\nexcept OSError:\n    pass",
            "if sys.platform == 'linux':\n    Path('/proc/stat').read_bytes()",
            "Path('/system').exists()",
            "count(Path('/sys/devices'))",
        ],
    ),
    "encodings": (
        [
            "path.read_text()",
            "path.write_text(text)",
            "open(path)",
            "open(path, 'a', newline='')",
            "path.open('w', newline='')",
            "subprocess.run(command, text=True)",
        ],
        [
            "path.read_text('utf-8')",
            "path.write_text(text, encoding='utf-8')",
            "open(path, 'rb')",
            "path.open(mode='wb')",
            "subprocess.run(command, text=True, encoding='utf-8')",
            "mark.encode(text='label:N')",
        ],
    ),
    "newlines": (
        [
            "path.write_text(text, encoding='utf-8')",
            "path.open('w', encoding='utf-8')",
            "open(path, 'a', encoding='utf-8')",
        ],
        [
            "path.write_text(text, encoding='utf-8', newline='\\n')",
            "path.open(encoding='utf-8')",
            "path.write_bytes(content)",
            "open(path, 'w', encoding='utf-8', newline='')",
        ],
    ),
    "processes": (
        [
            "subprocess.run('ls', shell=True)",
            "subprocess.Popen(command, preexec_fn=limit)",
            "subprocess.Popen(command, start_new_session=True)",
            "os.system('ls')",
            "multiprocessing.get_context('fork')",
        ],
        ["subprocess.run(command, shell=False)", "multiprocessing.get_context('spawn')"],
    ),
    "path_texts": (
        [
            "str(path).split('/')",
            "where = str(folder) + '/x'",
            "name = str(path.relative_to(root))",
            "name = f'{path.relative_to(root)}'",
        ],
        ["name.split('/')", "path.relative_to(root).as_posix()", "f'{path.relative_to(root).as_posix()}'"],
    ),
    "temporary_files": (
        ["tempfile.NamedTemporaryFile('wb')"],
        ["tempfile.NamedTemporaryFile('wb', delete=False)", "tempfile.TemporaryDirectory()"],
    ),
}


@pytest.mark.parametrize("name", FILES)
def test_a_module_runs_on_windows_too(name: str) -> None:
    module = Module.parse((ROOT / name).read_text(encoding="utf-8"))
    faults = {rule: list(find(module)) for rule, find in RULES.items()}
    used = {rule for rule, found in faults.items() if found and (name, rule) in ALLOWED}
    assert used == {rule for file, rule in ALLOWED if file == name}
    told = [
        f"{name}:{line}: {rule}: {why}" for rule, found in faults.items() for line, why in found if rule not in used
    ]
    assert not told


def test_allowed_are_files_there_are() -> None:
    assert {file for file, _ in ALLOWED} <= set(FILES)


@pytest.mark.parametrize(("rule", "code"), [(rule, code) for rule, (found, _) in SAMPLES.items() for code in found])
def test_a_rule_finds_its_fault(rule: str, code: str) -> None:
    assert list(RULES[rule](Module.parse(code)))


@pytest.mark.parametrize(("rule", "code"), [(rule, code) for rule, (_, passed) in SAMPLES.items() for code in passed])
def test_a_rule_passes_what_is_sound(rule: str, code: str) -> None:
    assert not list(RULES[rule](Module.parse(code)))


def test_every_rule_has_samples() -> None:
    assert set(SAMPLES) == set(RULES)
