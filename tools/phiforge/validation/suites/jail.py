"""Runs as a process of its own, without phiforge: locks itself in, then runs a program. `sandbox.py` starts it.

Standard input is a JSON object of `program`, `nonce`, `root` (an empty folder) and the limits. Standard output gets one
line of JSON: `unavailable` with the step that failed, or `failed` with the reason, or `passed` with the nonce. No line
means that a limit ended the program.

The locks, in their order: new user, mount, network, process, IPC and host name namespaces; a root folder in memory with
the standard library and the system's libraries, read-only, and one writable empty folder; resource limits; no
capabilities and no way to gain privileges; a filter that refuses the system calls that start processes or threads, open
sockets, mount, trace, or undo any of this. A step that fails ends the process: nothing is run with fewer locks.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import gc
import json
import os
import platform
import resource
import signal
import struct
import sys
import sysconfig
from pathlib import Path
from typing import Any, NoReturn

LIBRARIES = ("/lib", "/lib64", "/usr/lib", "/usr/lib64")
WORK = "work"
WORK_OPTIONS = "size=16m,nr_inodes=1k,mode=0700"
NOBODY = 65534

# linux/sched.h, linux/mount.h, linux/prctl.h, linux/capability.h
CLONE_NEWNS, CLONE_NEWUTS, CLONE_NEWIPC, CLONE_NEWUSER = 0x00020000, 0x04000000, 0x08000000, 0x10000000
CLONE_NEWPID, CLONE_NEWNET = 0x20000000, 0x40000000
MS_NOSUID, MS_NODEV, MS_BIND, MS_REC, MS_PRIVATE = 0x2, 0x4, 0x1000, 0x4000, 0x40000
MNT_DETACH = 2
AT_FDCWD, AT_RECURSIVE = -100, 0x8000
MOUNT_ATTR_RDONLY, MOUNT_ATTR_NOSUID, MOUNT_ATTR_NODEV = 0x1, 0x2, 0x4
SYS_MOUNT_SETATTR = 442
PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_SECCOMP, PR_SET_NO_NEW_PRIVS = 1, 4, 22, 38
SECCOMP_MODE_FILTER = 2
CAPABILITY_VERSION_3 = 0x20080522

# linux/filter.h and linux/seccomp.h: the opcodes of the filter, and what it may answer.
BPF_LOAD, BPF_EQUAL, BPF_AT_LEAST, BPF_RETURN = 0x20, 0x15, 0x35, 0x06
SECCOMP_KILL, SECCOMP_ERRNO, SECCOMP_ALLOW = 0x80000000, 0x00050000, 0x7FFF0000
OFFSET_NUMBER, OFFSET_ARCHITECTURE = 0, 4
X32_CALLS = 0x40000000

# Numbers of the system calls, from the kernel's tables, by machine: (audit architecture, pivot_root, clone3, refused).
CALLS: dict[str, tuple[int, int, int, tuple[int, ...]]] = {
    # socket connect accept sendto recvfrom sendmsg recvmsg bind listen socketpair | clone fork vfork execve | ptrace |
    # setpgid setsid | prctl pivot_root chroot mount umount2 reboot init_module delete_module | keyring |
    # unshare perf_event_open open_by_handle_at setns process_vm_* finit_module seccomp bpf execveat userfaultfd |
    # io_uring | the new mount calls | pidfd_getfd
    "x86_64": (
        0xC000003E, 155, 435,
        (41, 42, 43, 44, 45, 46, 47, 49, 50, 53, 56, 57, 58, 59, 101, 109, 112, 157, 155, 161, 165, 166, 169, 175, 176,
         246, 248, 249, 250, 272, 298, 304, 308, 310, 311, 313, 317, 321, 322, 323, 425, 426, 427, 428, 429, 430, 431,
         432, 433, 438, 442),
    ),
    "aarch64": (
        0xC00000B7, 41, 435,
        (198, 203, 202, 206, 207, 211, 212, 200, 201, 199, 220, 221, 117, 154, 157, 167, 41, 51, 40, 39, 142, 105, 106,
         104, 217, 218, 219, 97, 241, 265, 268, 270, 271, 273, 277, 280, 281, 282, 425, 426, 427, 428, 429, 430, 431,
         432, 433, 438, 442),
    ),
}  # fmt: skip


class StepError(Exception):
    """A lock that this machine does not have."""


libc = ctypes.CDLL(None, use_errno=True)


def call(step: str, function: Any, *arguments: Any) -> int:
    """Call a function of the C library; a negative result is a step that failed."""
    result: int = function(*arguments)
    if result < 0:
        raise StepError(f"{step}: {os.strerror(ctypes.get_errno())}")
    return result


def main() -> None:
    """Lock in, run, tell."""
    os.setsid()
    job = json.loads(sys.stdin.buffer.read())
    told = os.dup(1)
    try:
        enter_namespaces()
        child = os.fork()
        if child:
            signal.alarm(int(job["wall_s"]) + 5)  # Should whoever started this be gone.
            os.waitpid(child, 0)
            os._exit(0)
        call("death signal", libc.prctl, PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        build_root(Path(job["root"]))
        limit(job)
        close_descriptors(told)
        give_up_privileges()
        filter_calls()
    except (StepError, OSError) as error:
        tell(told, {"status": "unavailable", "detail": str(error)})
    run(job["program"], job["nonce"], told)


def enter_namespaces() -> None:
    """Leave the machine's network, processes, mounts and users behind."""
    user, group = os.geteuid(), os.getegid()
    flags = CLONE_NEWUSER | CLONE_NEWNS | CLONE_NEWNET | CLONE_NEWPID | CLONE_NEWIPC | CLONE_NEWUTS
    call("new namespaces", libc.unshare, flags)
    try:
        Path("/proc/self/setgroups").write_text("deny", encoding="ascii")
        Path("/proc/self/uid_map").write_text(f"{NOBODY} {user} 1", encoding="ascii")
        Path("/proc/self/gid_map").write_text(f"{NOBODY} {group} 1", encoding="ascii")
    except OSError as error:
        raise StepError(f"user map: {error.strerror}") from error


def build_root(root: Path) -> None:
    """Make a folder in memory with the libraries the root, and let go of the old one."""
    call("private mounts", libc.mount, None, b"/", None, MS_REC | MS_PRIVATE, None)
    call("root folder", libc.mount, b"tmpfs", os.fsencode(root), b"tmpfs", MS_NOSUID | MS_NODEV, b"size=1m,mode=0755")
    for source in library_folders():
        inside = root / source.relative_to("/")
        inside.parent.mkdir(parents=True, exist_ok=True)
        if source.is_symlink():
            inside.symlink_to(source.readlink())
            continue
        inside.mkdir()
        call("library folder", libc.mount, os.fsencode(source), os.fsencode(inside), None, MS_BIND | MS_REC, None)
    work, old = root / WORK, root / "old"
    work.mkdir()
    old.mkdir()
    call("pivot", libc.syscall, CALLS[machine()][1], os.fsencode(root), os.fsencode(old))
    os.chdir("/")
    call("old root", libc.umount2, b"/old", MNT_DETACH)
    Path("/old").rmdir()
    make_read_only(b"/")
    options = WORK_OPTIONS.encode("ascii")
    call("work folder", libc.mount, b"tmpfs", b"/" + WORK.encode(), b"tmpfs", MS_NOSUID | MS_NODEV, options)
    os.chdir("/" + WORK)


def library_folders() -> list[Path]:
    """The folders that a Python program needs, links as links; none lies in another."""
    paths = sysconfig.get_paths()
    wanted = [Path(name) for name in (*LIBRARIES, paths["stdlib"], paths["platstdlib"]) if Path(name).is_dir()]
    kept: list[Path] = []
    for path in sorted(set(wanted), key=lambda item: len(item.parts)):
        if not any(path.is_relative_to(parent) or path.resolve().is_relative_to(parent) for parent in kept):
            kept.append(path)
    return kept


def make_read_only(path: bytes) -> None:
    """Make all mounts below a path read-only, without devices and without set-user-id programs."""
    attributes = struct.pack("=QQQQ", MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV, 0, 0, 0)
    call("read-only", libc.syscall, SYS_MOUNT_SETATTR, AT_FDCWD, path, AT_RECURSIVE, attributes, len(attributes))


def limit(job: dict[str, Any]) -> None:
    """Set the limits of memory, time, files and processes."""
    for kind, most in (
        (resource.RLIMIT_AS, int(job["memory_bytes"])),
        (resource.RLIMIT_CPU, int(job["cpu_s"])),
        (resource.RLIMIT_FSIZE, int(job["file_bytes"])),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_NOFILE, 64),
        (resource.RLIMIT_NPROC, 0),
        (resource.RLIMIT_MEMLOCK, 0),
        (resource.RLIMIT_MSGQUEUE, 0),
    ):
        hard = resource.getrlimit(kind)[1]
        most = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(kind, (most, most))


def close_descriptors(kept: int) -> None:
    """Leave no open file but the one that the result goes to; the standard ones end nowhere."""
    silent, _ = os.pipe()
    for standard in (0, 1, 2):
        os.dup2(silent, standard)
    os.closerange(3, kept)
    os.closerange(kept + 1, os.sysconf("SC_OPEN_MAX"))


def give_up_privileges() -> None:
    """Drop every capability, for good."""
    call("no new privileges", libc.prctl, PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    call("not dumpable", libc.prctl, PR_SET_DUMPABLE, 0, 0, 0, 0)
    header = struct.pack("=Ii", CAPABILITY_VERSION_3, 0)
    call("no capabilities", libc.capset, header, struct.pack("=6I", 0, 0, 0, 0, 0, 0))


def filter_calls() -> None:
    """Refuse the system calls that no function under test needs."""
    architecture, _, clone3, refused = CALLS[machine()]
    rules = [
        (BPF_LOAD, 0, 0, OFFSET_ARCHITECTURE),
        (BPF_EQUAL, 1, 0, architecture),
        (BPF_RETURN, 0, 0, SECCOMP_KILL),
        (BPF_LOAD, 0, 0, OFFSET_NUMBER),
        (BPF_AT_LEAST, 0, 1, X32_CALLS),
        (BPF_RETURN, 0, 0, SECCOMP_KILL),
        # The C library falls back to clone where clone3 is not there.
        (BPF_EQUAL, 0, 1, clone3),
        (BPF_RETURN, 0, 0, SECCOMP_ERRNO | errno.ENOSYS),
    ]
    for number in refused:
        rules += [(BPF_EQUAL, 0, 1, number), (BPF_RETURN, 0, 0, SECCOMP_ERRNO | errno.EPERM)]
    rules.append((BPF_RETURN, 0, 0, SECCOMP_ALLOW))
    code = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *rule) for rule in rules))
    program = struct.pack("HxxxxxxP", len(rules), ctypes.addressof(code))
    call("system call filter", libc.prctl, PR_SET_SECCOMP, SECCOMP_MODE_FILTER, program, 0, 0)


def machine() -> str:
    """The name of this machine's architecture, if its system calls are known."""
    name = platform.machine()
    if name not in CALLS:
        raise StepError(f"the system calls of {name} are not known")
    return name


def run(program: str, nonce: str, told: int) -> NoReturn:
    """Run a program and tell how it ended; leaving early is no pass."""
    sys.argv = [""]
    sys.setrecursionlimit(1000)
    gc.collect()
    try:
        with contextlib.redirect_stdout(None), contextlib.redirect_stderr(None):
            exec(compile(program, "program", "exec"), {"__name__": "__main__"})  # noqa: S102
    except BaseException as error:  # noqa: BLE001 (whatever the model's code raises is a failure of it)
        tell(told, {"status": "failed", "detail": type(error).__name__})
    tell(told, {"status": "passed", "detail": nonce})


def tell(told: int, result: dict[str, str]) -> NoReturn:
    """Write the result and end at once, whatever the program left to be done at exit."""
    os.write(told, json.dumps(result).encode("utf-8") + b"\n")
    os._exit(0)


if __name__ == "__main__":
    main()
