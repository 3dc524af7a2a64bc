"""Rules of code that runs on Windows too: each looks through one module's syntax tree and tells what it finds.

They are heuristics of the kind a linter has: what they find is worth a look, and what they miss shows on Windows.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

Finding = tuple[int, str]

POSIX_MODULES = frozenset(
    "crypt curses fcntl grp nis ossaudiodev posix pty pwd readline resource spwd syslog termios tty".split()
)
# Attributes of os that Windows lacks, and two that mean something else there: kill with signal 0 interrupts the process
# it should ask about, rename refuses to replace.
POSIX_OS = frozenset(
    "O_CLOEXEC O_DIRECTORY O_DSYNC O_NOATIME O_NOFOLLOW O_NONBLOCK O_SYNC WEXITSTATUS WIFEXITED WIFSIGNALED "
    "WTERMSIG chown chroot fchmod fchown fork forkpty getegid geteuid getgid getgroups getloadavg getpgid "
    "getpgrp getpriority getsid getuid kill killpg lchown mkfifo mknod nice openpty pipe2 posix_fadvise "
    "posix_fallocate posix_spawn posix_spawnp pread pwrite rename renames sched_getaffinity sched_setaffinity "
    "sendfile setgid setpgid setpriority setsid setuid statvfs sync sysconf uname wait3 wait4".split()
)
POSIX_SIGNALS = frozenset("SIGALRM SIGCHLD SIGCONT SIGHUP SIGKILL SIGPIPE SIGQUIT SIGSTOP SIGUSR1 SIGUSR2".split())
POSIX_SIGNAL_CALLS = frozenset("alarm pause pthread_kill pthread_sigmask setitimer sigwait".split())
POSIX_PROCESS = frozenset("preexec_fn start_new_session process_group pass_fds user group umask".split())
LINKS = frozenset({"link", "symlink", "symlink_to", "hardlink_to"})
READS = frozenset("exists is_dir is_file iterdir glob open read_bytes read_text rglob stat".split())
SYSTEM_ROOT = re.compile(r"/(?:proc|sys|dev|etc|var|usr|run|home)(?:/|$)")
IMPORT_ERRORS = frozenset({"ImportError", "ModuleNotFoundError"})
OS_ERRORS = frozenset({"OSError", "FileNotFoundError", "Exception", "BaseException"})


@dataclass(frozen=True)
class Module:
    """One module's tree, with each node's parent."""

    tree: ast.Module
    parents: dict[ast.AST, ast.AST]

    @classmethod
    def parse(cls, source: str) -> Module:
        tree = ast.parse(source)
        parents = {child: node for node in ast.walk(tree) for child in ast.iter_child_nodes(node)}
        return cls(tree, parents)

    def calls(self) -> Iterator[ast.Call]:
        yield from (node for node in ast.walk(self.tree) if isinstance(node, ast.Call))

    def attributes(self, owner: str) -> Iterator[ast.Attribute]:
        """Every `owner.x`."""
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == owner:
                yield node

    def ancestors(self, node: ast.AST) -> Iterator[tuple[ast.AST, ast.AST]]:
        """Each ancestor of a node, with the child on the way to it."""
        while node in self.parents:
            yield self.parents[node], node
            node = self.parents[node]

    def guarded(self, node: ast.AST, names: frozenset[str]) -> bool:
        """Whether one of these errors is caught around a node, or suppressed."""
        for parent, child in self.ancestors(node):
            if isinstance(parent, ast.Try) and child in parent.body and _catches(parent, names):
                return True
            if isinstance(parent, ast.With) and any("suppress" in ast.unparse(item) for item in parent.items):
                return bool(_names(ast.Tuple([item.context_expr for item in parent.items], ast.Load())) & names)
        return False

    def optional(self, node: ast.AST, names: frozenset[str]) -> bool:
        """Whether a node is done without where the system lacks it."""
        return self.guarded(node, names) or self.chosen_by_system(node)

    def chosen_by_system(self, node: ast.AST) -> bool:
        """Whether a node is under a condition on the system, or on what its modules have."""
        tests = (parent.test for parent, _ in self.ancestors(node) if isinstance(parent, ast.If | ast.IfExp))
        return any(re.search(r"sys\.platform|os\.name|hasattr\(", ast.unparse(test)) for test in tests)


def _names(node: ast.AST | None) -> set[str]:
    return {part.id for part in ast.walk(node) if isinstance(part, ast.Name)} if node else set()


def _catches(block: ast.Try, names: frozenset[str]) -> bool:
    return any(handler.type is None or _names(handler.type) & names for handler in block.handlers)


def _called(call: ast.Call) -> str:
    """The last part of what is called: `open` of `open(...)` and of `path.open(...)`."""
    if isinstance(call.func, ast.Attribute):
        return call.func.attr
    return call.func.id if isinstance(call.func, ast.Name) else ""


def _keyword(call: ast.Call, name: str) -> ast.expr | None:
    return next((keyword.value for keyword in call.keywords if keyword.arg == name), None)


def _text(node: ast.AST | None) -> str | None:
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else None


def posix_modules(module: Module) -> Iterator[Finding]:
    """Modules that Windows lacks, unless the import's failure is caught or it depends on the system."""
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names = [node.module or ""]
        else:
            continue
        missing = POSIX_MODULES & {name.split(".")[0] for name in names}
        if missing and not module.optional(node, IMPORT_ERRORS):
            yield node.lineno, f"imports {', '.join(sorted(missing))}"


def posix_os(module: Module) -> Iterator[Finding]:
    """Functions of os that Windows lacks."""
    for node in module.attributes("os"):
        if node.attr in POSIX_OS and not module.optional(node, frozenset({"AttributeError"})):
            yield node.lineno, f"os.{node.attr}"
    for imported in ast.walk(module.tree):
        if isinstance(imported, ast.ImportFrom) and imported.module == "os":
            for name in sorted({alias.name for alias in imported.names} & POSIX_OS):
                yield imported.lineno, f"os.{name}"


def links(module: Module) -> Iterator[Finding]:
    """Links, which not every Windows user may make nor every file system hold, without another way."""
    for call in module.calls():
        if _called(call) in LINKS and not module.guarded(call, OS_ERRORS - {"FileNotFoundError"}):
            yield call.lineno, f"{_called(call)} without except OSError"


def signals(module: Module) -> Iterator[Finding]:
    """Signals that Windows lacks; SIGTERM may be handled there, but not be sent and handled."""
    for node in module.attributes("signal"):
        if node.attr in POSIX_SIGNALS | POSIX_SIGNAL_CALLS and not module.chosen_by_system(node):
            yield node.lineno, f"signal.{node.attr}"
        if node.attr == "SIGTERM" and ast.unparse(module.parents[node]).split("(")[0] != "signal.signal":
            yield node.lineno, "signal.SIGTERM is sent"


def system_files(module: Module) -> Iterator[Finding]:
    """Reads of files that only one system has, and the folder /tmp."""
    for node in ast.walk(module.tree):
        if (_text(node) or "").startswith("/tmp"):
            yield getattr(node, "lineno", 0), "/tmp"
    for call in module.calls():
        where = call.func.value if isinstance(call.func, ast.Attribute) else ast.Tuple(call.args[:1], ast.Load())
        if _called(call) not in READS or not any(SYSTEM_ROOT.match(_text(part) or "") for part in ast.walk(where)):
            continue
        if not module.optional(call, OS_ERRORS):
            yield call.lineno, f"{ast.unparse(call)[:60]} without except OSError"


def encodings(module: Module) -> Iterator[Finding]:
    """Text read or written in the encoding of the system."""
    for call in module.calls():
        name = _called(call)
        at = {"read_text": 0, "write_text": 1}.get(name)
        writes_text = at is not None and len(call.args) <= at
        of_process = _truth(call, "text") or _truth(call, "universal_newlines")
        if (writes_text or of_process or _opens_text(call)) and _keyword(call, "encoding") is None:
            yield call.lineno, f"{name} without encoding"


def newlines(module: Module) -> Iterator[Finding]:
    """Text written with the system's line ends, which changes its hash."""
    for call in module.calls():
        writes = _called(call) == "write_text" or (_opens_text(call) and "r" not in _mode(call))
        if writes and _keyword(call, "newline") is None:
            yield call.lineno, f"{_called(call)} without newline"


def _truth(call: ast.Call, name: str) -> bool:
    value = _keyword(call, name)
    return isinstance(value, ast.Constant) and value.value is True


def _mode(call: ast.Call) -> str:
    """The mode of a call of open; "r" where it is not given, "b" where it is no constant."""
    position = 1 if isinstance(call.func, ast.Name) or ast.unparse(call.func) in {"io.open", "os.fdopen"} else 0
    given = _keyword(call, "mode") or (call.args[position] if len(call.args) > position else ast.Constant("r"))
    return _text(given) or "b"


def _opens_text(call: ast.Call) -> bool:
    return (
        _called(call) in {"open", "fdopen"}
        and not ast.unparse(call.func).startswith("os.open")
        and "b" not in _mode(call)
    )


def processes(module: Module) -> Iterator[Finding]:
    """Ways to start a process that Windows lacks, and shells."""
    for call in module.calls():
        if ast.unparse(call.func) in {"os.system", "os.popen"} or _truth(call, "shell"):
            yield call.lineno, "a shell"
        if _called(call) in {"Popen", "run", "call", "check_call", "check_output"}:
            yield from ((call.lineno, word.arg) for word in call.keywords if word.arg in POSIX_PROCESS)
        if _called(call) in {"get_context", "set_start_method"} and "fork" in (_text(call.args[0]) or ""):
            yield call.lineno, "fork"


def path_texts(module: Module) -> Iterator[Finding]:
    """Paths taken apart or put together as text with "/", and relative ones written as the system writes them."""
    for call in module.calls():
        inner = call.func.value if isinstance(call.func, ast.Attribute) else None
        splits = _called(call) in {"split", "rsplit", "partition", "rpartition"}
        if splits and _is_str_of(inner) and call.args and _text(call.args[0]) == "/":
            yield call.lineno, "a path split at /"
        if _called(call) == "str" and call.args and _is_relative(call.args[0]):
            yield call.lineno, "a relative path without as_posix"
    for node in ast.walk(module.tree):
        if isinstance(node, ast.BinOp) and _is_str_of(node.left) and (_text(node.right) or "").startswith("/"):
            yield node.lineno, "a path joined with /"
        if isinstance(node, ast.FormattedValue) and _is_relative(node.value):
            yield node.lineno, "a relative path without as_posix"


def _is_str_of(node: ast.AST | None) -> bool:
    return isinstance(node, ast.Call) and _called(node) == "str"


def _is_relative(node: ast.AST) -> bool:
    return isinstance(node, ast.Call) and _called(node) == "relative_to"


def temporary_files(module: Module) -> Iterator[Finding]:
    """Named temporary files, which nobody else can open on Windows while they are open."""
    for call in module.calls():
        kept = _keyword(call, "delete") or _keyword(call, "delete_on_close")
        if _called(call) == "NamedTemporaryFile" and kept is None:
            yield call.lineno, "NamedTemporaryFile"


RULES: dict[str, Callable[[Module], Iterator[Finding]]] = {
    rule.__name__: rule
    for rule in (
        posix_modules,
        posix_os,
        links,
        signals,
        system_files,
        encodings,
        newlines,
        processes,
        path_texts,
        temporary_files,
    )
}
